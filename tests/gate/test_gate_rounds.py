"""Lists of proposals: each judged once, together, and the set that saves most is kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from gate_subjects import (
    FIDELITY,
    LIVE_NEURONS,
    batches,
    settings_of,
    subject_of,
    train_classifier,
)

from zsei.gate import rounds
from zsei.gate.phases import Phase, TrainingRun
from zsei.gate.result import Outcome, offered, saved
from zsei.gate.rounds import Bench, time_best, try_all
from zsei.gate.sandbox import Trial
from zsei.records import Measurement, Proposal, Verdict
from zsei.records import Outcome as Outcomes
from zsei.strategies.candidates import explicit
from zsei.subject.types import Subject

SETTINGS = settings_of(bootstrap=200)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return subject_of(
        train_classifier(), FIDELITY, batches(16, seed=3), batches(48, seed=4, groups=("all",))
    )


@pytest.fixture(scope="module")
def bench(subject: Subject) -> Bench:
    return Bench(subject=subject, scores={}, means={}, settings=SETTINGS)


def neurons(bench: Bench, layer: int, first: int = LIVE_NEURONS, count: int = 10) -> Proposal:
    """Neurons of one layer: from the first that does nothing, 3.3 % of the parameters."""
    return explicit(
        bench.subject, {},
        Proposal.make(
            strategy="prune-neurons", components=(f"layers.{layer}/mlp",),
            params={"units": [list(range(first, first + count))]},
        ),
    )  # fmt: skip


def tried(bench: Bench, *lists: list[Proposal]) -> Outcome:
    """What came of trying these lists, one after the other."""
    outcome = Outcome()
    for proposals in lists:
        try_all(bench, proposals, outcome)
    return outcome


@pytest.mark.parametrize(
    ("phase", "combined"),
    [
        ("conservative", "rejected"),
        pytest.param("moderate", "accepted", marks=pytest.mark.long),
    ],
)
def test_what_fits_alone_must_fit_together(bench: Bench, phase: Phase, combined: str) -> None:
    run = TrainingRun(phase=phase, parameters=bench.baseline.cost.parameters)
    found = tried(replace(bench, run=run), [neurons(bench, 0), neurons(bench, 2)])
    assert [t.verdict.outcome for t in found.trials.values()] == ["accepted", "accepted"]
    assert found.combined is not None
    assert found.combined.verdict.outcome == combined, found.combined.verdict.reason
    if combined == "rejected":
        assert "at most 5% of the original parameters may be gone" in found.combined.verdict.reason


@pytest.mark.long
def test_a_limit_in_time_is_asked_of_each_and_of_all(bench: Bench) -> None:
    timed = replace(bench, settings=settings_of(bootstrap=200, latency_limit=1e6))
    found = tried(timed, [neurons(bench, 0), neurons(bench, 2)])
    time_best(timed, found, 0)
    assert set(found.trials) <= set(found.latency)
    assert found.combined is not None
    assert found.combined.latency is not None
    for verdict in (*(t.verdict for t in found.trials.values()), found.combined.verdict):
        assert verdict.outcome == "accepted"
        assert verdict.stages[-1].stage == "latency"


def test_a_later_list_joins_the_best_set_and_nothing_is_judged_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[str] = []
    real = rounds.try_edits

    def counted(subject: Subject, proposal: Proposal, *rest: Any, **options: Any) -> Trial:
        judged.append(proposal.id)
        return real(subject, proposal, *rest, **options)

    monkeypatch.setattr(rounds, "try_edits", counted)
    first, second, third = (neurons(bench, layer) for layer in (0, 1, 2))
    harmful = neurons(bench, 0, first=0, count=LIVE_NEURONS)
    found = tried(bench, [first, second], [harmful, first], [third, second])
    assert [p.id for p in found.best()] == [first.id, second.id, third.id]
    assert found.trials[harmful.id].verdict.outcome == "rejected"
    assert judged == [
        first.id, second.id, f"{first.id}+{second.id}", harmful.id, third.id,
        f"{first.id}+{second.id}+{third.id}",
    ]  # fmt: skip
    gain = found.gain()
    assert gain is not None
    assert gain > max(saved(found.trials[p.id].verdict) for p in found.proposals if p != harmful)


def invented(refused: Callable[[frozenset[str]], bool]) -> Callable[..., Trial]:
    """A gate that refuses sets of proposals as told; each of them saves a hundredth."""

    def try_edits(_subject: Subject, proposal: Proposal, *_: Any, **__: Any) -> Trial:
        names = frozenset(proposal.id.split("+"))
        outcome = "rejected" if refused(names) else "accepted"
        sizes = (100, 100 - len(names))
        before, after = ((Measurement(name="parameters", value=size),) for size in sizes)
        return Trial(
            verdict=Verdict(
                proposal_id=proposal.id, outcome=outcome, before=before, after=after, reason="told"
            )
        )

    return try_edits


def test_what_does_not_go_with_the_others_keeps_nobody_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second goes with nobody: what comes later joins the first, and the better set stays."""
    one, two, three, four = (neurons(bench, 0, LIVE_NEURONS + 3 * i, 3) for i in range(4))

    def refused(names: frozenset[str]) -> bool:
        return two.id in names and len(names) > 1

    monkeypatch.setattr(rounds, "try_edits", invented(refused))
    found = tried(bench, [one, two], [three], [four])
    assert found.combined is not None
    assert found.combined.verdict.proposal_id == f"{one.id}+{three.id}+{four.id}"
    assert found.best() == [one, three, four]
    assert found.gain() == pytest.approx(0.03)
    worse = tried(bench, [one, three, four], [two])
    assert worse.combined is not None
    assert worse.combined.verdict.proposal_id == f"{one.id}+{three.id}+{four.id}"


def test_single_proposals_stand_where_none_go_together(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [neurons(bench, 0, LIVE_NEURONS + 3 * i, 3) for i in range(3)]
    monkeypatch.setattr(rounds, "try_edits", invented(lambda names: len(names) > 1))
    found = tried(bench, made)
    assert found.combined is not None
    assert found.combined.verdict.outcome == "rejected"
    assert found.best() == made[:1]
    monkeypatch.setattr(rounds, "try_edits", invented(lambda names: True))
    nothing = tried(bench, made)
    assert (nothing.best(), nothing.gain(), nothing.combined) == ([], None, None)


def sized(name: str, outcome: Outcomes, parameters: float, flops: float | None) -> Verdict:
    """A verdict on an edit of a model of 200 parameters and 1,000 operations."""
    after = [Measurement(name="parameters", value=parameters)]
    after += [] if flops is None else [Measurement(name="flops", value=flops)]
    before = (Measurement(name="parameters", value=200), Measurement(name="flops", value=1000))
    return Verdict(proposal_id=name, outcome=outcome, before=before, after=tuple(after), reason="")


def test_what_is_offered_saves_most_as_measured() -> None:
    half = sized("p-1", "accepted", 100, 1000)
    third = sized("p-2", "accepted", 150, 750)
    assert saved(half) == 0.25
    assert saved(sized("p-3", "accepted", 150, None)) == 0.25
    assert saved(Verdict(proposal_id="p-4", outcome="failed", reason="")) == 0
    assert offered([half, third], None) == half
    assert offered([third, sized("p-5", "rejected", 1, 1)], None) == third
    assert offered([half], sized("p-1+p-2", "accepted", 100, 1000)) != half
    assert offered([half], sized("p-1+p-2", "accepted", 120, 1000)) == half
    assert offered([half], sized("p-1+p-2", "rejected", 1, 1)) == half
    assert offered([], None) is None


def test_what_cannot_be_tried_is_inconclusive_with_the_reason(bench: Bench) -> None:
    closed = replace(bench, closed="the model is too large to copy")
    found = tried(closed, [neurons(bench, 0), neurons(bench, 1)])
    verdicts = [trial.verdict for trial in found.trials.values()]
    assert {v.reason for v in verdicts} == {"inconclusive: the model is too large to copy"}
    assert (found.best(), found.combined) == ([], None)
    late = tried(replace(bench, out_of_time=lambda: True), [neurons(bench, 0)])
    assert "time budget" in late.trials[neurons(bench, 0).id].verdict.reason
