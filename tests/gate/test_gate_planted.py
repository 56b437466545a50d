"""A hundred harmful and a hundred harmless edits, each tried for real; by default every fifth."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from planted import (
    SETTINGS,
    Case,
    Planted,
    Truth,
    harmful_candidates,
    harmless_candidates,
    planted_classifier,
    planted_cnn,
    planted_transformer,
    truth,
)

from zsei.gate.artefact import pt2_round_trip
from zsei.gate.sandbox import try_edits, verify_unchanged
from zsei.records import Proposal, Verdict

PROPOSAL = Proposal.make(strategy="planted", components=())
SUBJECTS: dict[str, Callable[[], Planted]] = {
    "classifier": planted_classifier,
    "cnn": planted_cnn,
    "vit": lambda: planted_transformer("vit", "fidelity"),
    "patchtst": lambda: planted_transformer("patchtst"),
    "gpt2": lambda: planted_transformer("gpt2"),
    "llama": lambda: planted_transformer("llama", "fidelity"),
}
WHOLE = {"classifier": 28, "cnn": 20, "vit": 20, "patchtst": 20, "gpt2": 6, "llama": 6}
"""Harmful edits of each subject, and as many harmless ones: a hundred of either."""
FIFTH = {"classifier": 12, "cnn": 8}


@dataclass(frozen=True, kw_only=True)
class Tried:
    subject: str
    what: str
    truth: Truth
    verdict: Verdict

    def __str__(self) -> str:
        return f"{self.subject}, {self.what} ({self.truth}): {self.verdict.reason[:300]}"


def known(planted: Planted, wanted: Truth, count: int) -> Iterator[Case]:
    """The first candidates of which the fresh sample says what they were made to be."""
    make = harmless_candidates if wanted == "harmless" else harmful_candidates
    found = 0
    for case in make(planted):
        if found < count and truth(planted, case) == wanted:
            found += 1
            yield case
    assert found == count, f"{planted.name}: {found} {wanted} edits of {count}"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(FIFTH, id="fifth"),
        pytest.param(WHOLE, id="whole", marks=pytest.mark.long),
    ],
)
def tried(request: pytest.FixtureRequest) -> list[Tried]:
    found = []
    for name, count in request.param.items():
        planted = SUBJECTS[name]()
        assert overlap(planted) <= 0.01, name
        for wanted in ("harmless", "harmful"):
            for number, case in enumerate(known(planted, wanted, count)):
                saved = pt2_round_trip if number == 0 else lambda program, _: program
                trial = try_edits(
                    planted.subject, PROPOSAL, case.kind, case.edits, planted.baseline, SETTINGS,
                    round_trip=saved, edit=case.edit,
                )  # fmt: skip
                found.append(
                    Tried(subject=name, what=case.what, truth=wanted, verdict=trial.verdict)
                )
        verify_unchanged(planted.subject)
    return found


def overlap(planted: Planted) -> float:
    """Share of the fresh samples that are among those the gate judges by."""
    held_out = {tuple(x.flatten().tolist()) for b in planted.subject.held_out for x in b.inputs[0]}
    fresh = [tuple(x.flatten().tolist()) for x in planted.fresh]
    return sum(x in held_out for x in fresh) / len(fresh)


def told(tried: list[Tried]) -> str:
    return "\n".join(str(one) for one in tried)


def test_hardly_any_harmful_edit_is_accepted(tried: list[Tried]) -> None:
    harmful = [one for one in tried if one.truth == "harmful"]
    assert len(harmful) in (20, 100)
    accepted = [one for one in harmful if one.verdict.outcome == "accepted"]
    assert len(accepted) <= 0.02 * len(harmful), told(accepted)


def test_most_harmless_edits_are_accepted(tried: list[Tried]) -> None:
    harmless = [one for one in tried if one.truth == "harmless"]
    assert len(harmless) in (20, 100)
    refused = [one for one in harmless if one.verdict.outcome != "accepted"]
    assert len(refused) <= 0.2 * len(harmless), told(refused)


def test_harm_is_refused_for_what_it_is(tried: list[Tried]) -> None:
    """Not by chance: what breaks fails, what changes the shape cannot be applied, and of the rest
    quality (or another length) says no; nothing harmless breaks."""
    for one in tried:
        verdict, broken = one.verdict, one.what.split(",")[0]
        if one.truth == "harmless":
            assert verdict.outcome in ("accepted", "rejected"), str(one)
        elif broken in ("NaN", "overflow"):
            assert verdict.outcome == "failed", str(one)
        elif broken == "another shape":
            assert verdict.outcome == "inapplicable", str(one)
        elif broken == "one length only":
            assert verdict.outcome == "rejected", str(one)
            assert verdict.reason.startswith("rejected: lengths"), str(one)
        elif verdict.outcome != "accepted":
            assert verdict.outcome == "rejected", str(one)
            decided = next(s.stage for s in verdict.stages if s.outcome == "failed")
            assert decided in ("quality", "groups"), str(one)


def test_the_suite_holds_every_kind_of_harm(tried: list[Tried]) -> None:
    harmful = " ".join(one.what for one in tried if one.truth == "harmful")
    kinds = (
        "half a pair", "among the dead", "random neurons", "random channels", "heads", "all of",
        "four fifths", "NaN", "overflow", "marked samples only", "one length only", "another shape",
    )  # fmt: skip
    held = [kind for kind in kinds if kind in harmful]
    assert len(held) >= (len(kinds) if len(tried) == 200 else 6), held
