import dataclasses
import typing
from typing import Any

import numpy as np
import pytest
from gate_subjects import settings_of
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import speed as oracle

from zsei.gate.quality import Quality
from zsei.gate.speed import (
    SpeedEvidence,
    divergence_bound,
    judge_speed,
    same_answers,
    speed_limits,
)
from zsei.gate.speed_stages import EXACT
from zsei.records import Verdict
from zsei.settings import LIMITS, SPEED_BOUNDS
from zsei.timing.interval import Interval

SETTINGS = settings_of(bootstrap=200)
LIMIT = LIMITS["channels"]["moderate"]
FASTER = Interval(median=2.0, low=1.8, high=2.2, n=11)
STAGES = ["shape", "forward", "tolerance", "quality", "faster"]


def fidelity(divergence: Any = 0.0, changed: Any = 0.0, n: int = 32, **more: Any) -> Quality:
    return Quality(
        output=more.pop("output", "logits"),
        divergence=np.broadcast_to(np.asarray(divergence, float), n).copy(),
        agreement=1 - np.broadcast_to(np.asarray(changed, float), n).copy(),
        **{"loss": None, "correct": None, "similarity": None,
           "groups": np.zeros(n, dtype=np.int64), **more},
    )  # fmt: skip


def evidence(**changes: Any) -> SpeedEvidence:
    good = SpeedEvidence(same_shape=True, difference=0.0, quality=fidelity(), speed_up=FASTER)
    return dataclasses.replace(good, **changes)


def judged(given: SpeedEvidence, *, exact: bool = True, bound: float = 0.01) -> Verdict:
    return judge_speed(given, exact=exact, bound=bound, limits=LIMIT, settings=SETTINGS)


def decided_by(verdict: Verdict) -> str:
    return next((r.stage for r in verdict.stages if r.outcome not in ("passed", "skipped")), "")


def test_what_gives_the_same_and_is_faster_is_accepted_with_its_numbers() -> None:
    verdict = judged(evidence())
    assert verdict.outcome == "accepted"
    assert [r.stage for r in verdict.stages] == STAGES
    assert "2 times as fast (1.8 to 2.2)" in verdict.reason
    assert {m.name for m in verdict.after} >= {"divergence", "agreement"}


@pytest.mark.parametrize(
    ("changes", "exact", "outcome", "stage"),
    [
        ({"same_shape": False}, True, "failed", "shape"),
        ({"quality": fidelity(nonfinite=3)}, True, "failed", "forward"),
        ({"difference": 2e-5}, True, "rejected", "tolerance"),
        ({"difference": float("inf")}, True, "rejected", "tolerance"),
        ({"quality": fidelity(0.02)}, False, "rejected", "tolerance"),
        ({"quality": fidelity(0.0, 0.2)}, True, "rejected", "quality"),
        ({"quality": fidelity(n=6)}, True, "inconclusive", "quality"),
        ({"quality": fidelity(n=6)}, False, "inconclusive", "tolerance"),
        ({"speed_up": Interval(median=1.1, low=0.9, high=1.3, n=11)}, True, "inconclusive",
         "faster"),
        ({"speed_up": Interval(median=0.5, low=0.4, high=0.6, n=11)}, True, "rejected", "faster"),
    ],
)  # fmt: skip
def test_the_stage_that_says_no_decides_and_later_ones_are_not_asked(
    changes: dict[str, Any], exact: bool, outcome: str, stage: str
) -> None:
    verdict = judged(evidence(**changes), exact=exact)
    assert (verdict.outcome, decided_by(verdict)) == (outcome, stage)
    after = [r.outcome for r in verdict.stages[STAGES.index(stage) + 1 :]]
    assert set(after) <= {"skipped"}


@pytest.mark.parametrize("missing", ["same_shape", "difference", "quality", "speed_up"])
def test_what_was_not_measured_is_a_no(missing: str) -> None:
    assert judged(evidence(**{missing: None})).outcome == "inconclusive"


def test_an_exact_step_is_held_to_its_tolerance_however_small_the_divergence() -> None:
    moved = evidence(difference=10 * EXACT)
    assert judged(moved, exact=True).outcome == "rejected"
    assert judged(moved, exact=False).outcome == "accepted"


def test_the_bound_and_not_the_mean_is_compared() -> None:
    spread = np.zeros(32)
    spread[:8] = 0.03  # the mean is 0.0075, below the bound of 0.01; its upper bound is not
    verdict = judged(evidence(quality=fidelity(spread)), exact=False)
    assert spread.mean() < 0.01
    assert (verdict.outcome, decided_by(verdict)) == ("rejected", "tolerance")


def test_answers_can_be_good_enough_without_being_fast() -> None:
    slow = evidence(speed_up=Interval(median=0.5, low=0.4, high=0.6, n=5))
    assert same_answers(judged(slow))
    assert not same_answers(judged(dataclasses.replace(slow, difference=1.0)))


def test_the_users_limits_stand_in_the_place_of_the_defaults() -> None:
    assert speed_limits(SETTINGS) == LIMIT
    assert divergence_bound("embedding", SETTINGS) == SPEED_BOUNDS["embedding"] == 1e-3
    assert divergence_bound("embedding", settings_of(max_divergence=0.5)) == 0.5
    wide = settings_of(bootstrap=200, max_drop=0.5)
    off = evidence(quality=fidelity(0.2))
    assert judged(off, exact=True).outcome == "rejected"
    assert judge_speed(off, exact=True, bound=0.5, limits=LIMIT, settings=wide).outcome == (
        "accepted"
    )


@given(
    same_shape=st.sampled_from([True, True, True, False]),
    nonfinite=st.sampled_from([0, 0, 0, 2]),
    difference=st.sampled_from([0.0, 1e-6, 9.9e-6, 2e-5, 1.0]),
    scale=st.sampled_from([0.0, 0.004, 0.009, 0.02, 0.2]),
    changed=st.sampled_from([0, 1, 2, 8]),
    n=st.sampled_from([5, 8, 24]),
    low=st.floats(0.3, 3.0),
    width=st.floats(0.0, 1.0),
    exact=st.booleans(),
    seed=st.integers(0, 50),
)
@settings(max_examples=60, deadline=None)
def test_the_judge_agrees_with_plain_if_statements(
    same_shape: bool, nonfinite: int, difference: float, scale: float, changed: int, n: int,
    low: float, width: float, exact: bool, seed: int,
) -> None:  # fmt: skip
    moved = np.random.default_rng(seed).exponential(scale, n) if scale else np.zeros(n)
    flips = np.zeros(n)
    flips[: min(changed, n)] = 1
    found = judged(
        SpeedEvidence(
            same_shape=same_shape,
            difference=difference,
            quality=fidelity(moved, flips, n=n, nonfinite=nonfinite),
            speed_up=Interval(median=low + width / 2, low=low, high=low + width, n=11),
        ),
        exact=exact,
    )
    assert (found.outcome, decided_by(found)) == oracle.outcome(
        same_shape=same_shape, nonfinite=nonfinite, difference=difference,
        divergence=moved.tolist(), disagreement=flips.tolist(), speed_up=(low, low + width),
        exact=exact, bound=0.01, limits=LIMIT, resamples=200, confidence=0.95, seed=SETTINGS.seed,
    )  # fmt: skip


def test_the_judge_sees_numbers_alone() -> None:
    kinds = typing.get_type_hints(SpeedEvidence)
    assert not any(str in typing.get_args(kind) or kind is str for kind in kinds.values())
