"""What a planted clock says is what a claim is judged by; parts are never multiplied."""

import pytest
from oracles.claims import verdict_of
from planted_claims import bench, claim
from speed.planted_speed import Planted, names_in, without_collecting

from zsei.claims.asked import Asked
from zsei.claims.by_time import combined, latency, speed_up, throughput
from zsei.claims.check import _outcome
from zsei.claims.claim import At
from zsei.claims.record import Machine
from zsei.speedups.speedup import Step


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_collecting(monkeypatch)


SAME = Planted(name="same")
OTHER = Planted(name="other")
WRONG = Planted(name="wrong", change=lambda out: out + 1)
MACHINE = Machine(name="planted", device="cpu", cores=2, threads=1)
ASKED = Asked(path="claims.yaml")


@pytest.mark.parametrize("ratio", [0.5, 1.5, 2.5, 3.0, 4.5])
@pytest.mark.parametrize(("least", "most"), [(2, 4), (2, None), (None, 4)])
def test_a_speed_up_is_held_against_what_decides(
    ratio: float, least: float | None, most: float | None
) -> None:
    found = speed_up(
        bench((SAME,), {"baseline": ratio, "claimed": 1.0}),
        claim("speed-up", steps=["same"], at_least=least, at_most=most), None,
    )  # fmt: skip
    assert found.value == pytest.approx(ratio)
    # Of a range the lower end decides; above the upper end it holds and is more than claimed.
    decisive = None if least is not None else most
    assert found.verdict == verdict_of(ratio, ratio, least, decisive)
    both = least is not None and most is not None
    assert found.more_than_claimed == (both and ratio > (most or 0))
    assert [step.speedup for step in found.steps] == ["same"]


@pytest.mark.parametrize(("ratio", "verdict"), [(1.97, "not decided"), (2.03, "not decided"),
                                                (1.9, "not held"), (2.1, "held")])  # fmt: skip
def test_a_truth_too_near_to_the_claim_is_not_decided(ratio: float, verdict: str) -> None:
    for noise in (0.0, 0.001):
        found = speed_up(
            bench((SAME,), {"baseline": ratio, "claimed": 1.0}, noise=noise),
            claim("speed-up", steps=["same"], at_least=2), None,
        )  # fmt: skip
        assert found.verdict == verdict


def test_throughput_and_latency_count_the_samples_of_a_batch() -> None:
    there = bench((SAME,), {"claimed": 0.5})
    found = throughput(there, claim("throughput", at_least=20), None)
    assert found.value == pytest.approx(16 / 0.5)  # batches of 16
    assert found.verdict == "held"
    alone = claim("latency", at_most=400, at=At(batch=1), steps=["same"])
    found = latency(there, alone, None)
    assert (found.value, found.verdict) == (pytest.approx(500), "not held")
    found = latency(there, claim("latency", at_least=40, at_most=60), None)
    assert (found.value, found.verdict) == (pytest.approx(31.25), "held")
    assert found.more_than_claimed  # less than the range that was claimed


def test_all_together_is_measured_and_the_product_only_stands_beside() -> None:
    there = bench((SAME, OTHER), {"baseline": 4.0, "claimed": 1.0, "same": 2.0, "other": 1.0})
    found = combined(there, claim("combined", steps=["same", "other"], at_least=6), None)
    told = {m.note: m.value for m in found.measurements if m.name == "speed_up_alone"}
    product = next(m for m in found.measurements if m.name == "product_of_parts")
    assert told == {"same": 2.0, "other": 4.0}
    assert product.value == pytest.approx(8.0)  # would hold, if it counted
    assert "no measurement" in product.note
    assert (found.value, found.verdict) == (pytest.approx(4.0), "not held")


def test_no_product_is_made_of_parts_that_do_not_all_run_alone() -> None:
    crash = Planted(name="crash", change=lambda out: 1 / 0)
    there = bench((SAME, crash), {"baseline": 4.0, "claimed": 1.0, "same": 2.0})
    found = combined(there, claim("combined", steps=["same", "crash"], at_least=2), None)
    assert found.verdict == "not measurable here"
    assert "ZeroDivisionError" in found.reason


def test_the_best_of_the_alternatives_counts_and_is_named() -> None:
    seconds = {"0": 3.0, "1": 1.0, "baseline": 4.0, "claimed": 1.0}
    ways = claim("speed-up", alternatives=[["same"], ["other"], ["wrong"]], at_least=2)
    found = speed_up(bench((SAME, OTHER, WRONG), seconds), ways, None)
    assert [step.speedup for step in found.steps] == ["other"]
    assert "the best of 3 is other" in found.reason
    assert [(failure.stage, failure.what) for failure in found.left_out] == [("outputs", "wrong")]


def test_a_way_that_changes_the_answers_is_no_speed_up_however_fast() -> None:
    there = bench((WRONG,), {"baseline": 100.0, "claimed": 1.0})
    found = speed_up(there, claim("speed-up", steps=["wrong"], at_least=2), None)
    assert found.verdict == "not held"
    assert found.value is None
    assert "changes the answers" in found.reason


def test_what_cannot_be_had_here_is_not_measurable_and_says_why() -> None:
    refused = Planted(name="refusing", excludes=("same",))
    there = bench((SAME, refused), {"baseline": 4.0, "claimed": 1.0})
    both = claim("speed-up", alternatives=[["same", "refusing"]], at_least=2)
    found = speed_up(there, both, None)
    assert found.verdict == "not measurable here"
    assert "cannot stand beside" in found.reason


def test_batches_that_cannot_be_made_are_not_measurable() -> None:
    there = bench((SAME,), {"claimed": 1.0})
    huge = claim("latency", at_most=1, at={"batch": 64})
    outcome = _outcome(there, huge, MACHINE, ASKED, None)
    assert outcome.verdict == "not measurable here"
    assert "there are 32" in outcome.reason  # the held-out samples of one shape


def test_a_crash_of_one_claim_is_told_and_a_spent_budget_decides_nothing() -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("the card fell off the bus\nand more")

    there = bench((SAME,), {}, measure=broken)
    outcome = _outcome(there, claim("latency", at_most=1), MACHINE, ASKED, None)
    assert outcome.verdict == "not measurable here"
    assert outcome.reason.endswith("RuntimeError: the card fell off the bus")
    late = _outcome(there, claim("latency", at_most=1), MACHINE, ASKED, -1.0)
    assert (late.verdict, late.value) == ("not decided", None)
    assert "budget" in late.reason


def test_the_baseline_has_its_own_steps_and_the_claimed_ones_take_their_place() -> None:
    there = bench((SAME, OTHER), {"baseline": 3.0, "claimed": 1.0}, baseline=["other"])
    seen: list[str] = []
    original = there.tried
    object.__setattr__(
        there, "tried", lambda steps: seen.append(_names(steps)) or original(steps)
    )  # fmt: skip
    speed_up(there, claim("speed-up", steps=["same"], at_least=2), None)
    speed_up(there, claim("speed-up", steps=["other"], at_least=2), None)
    assert seen == ["other+same", "other"]
    assert list(names_in(there.start().module)) == ["other"]


def _names(steps: tuple[Step, ...]) -> str:
    return "+".join(step.speedup for step in steps)
