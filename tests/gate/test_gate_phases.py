import dataclasses
import itertools
from typing import Any

import pytest
from gate_subjects import settings_of
from test_gate_judge import COST, decided, evidence

from zsei.errors import DataError, UsageError
from zsei.gate.evidence import Cut, Size
from zsei.gate.judge import judge, missing_stage
from zsei.gate.latency import within_limit
from zsei.gate.phases import ALLOWED, CAPS, PHASES, Phase, TrainingRun, refused_by_phase
from zsei.gate.rollback import DROPS, rollback
from zsei.settings import LIMITS, EditKind

KINDS: tuple[EditKind, ...] = ("channels", "heads", "layers")
SETTINGS = settings_of(bootstrap=200)


def oracle(phase: Phase, kinds: tuple[EditKind, ...], left: int) -> bool:
    """The specification's table, in whole parameters of 1000."""
    table = {
        "conservative": (950, "channels"),
        "moderate": (900, "channels heads"),
        "aggressive": (800, "channels heads layers"),
    }
    least, allowed = table.get(phase, (1001, ""))
    return left >= least and all(kind in allowed.split() for kind in kinds)


def test_caps_and_kinds_of_every_phase() -> None:
    mixtures = [m for size in (1, 2, 3) for m in itertools.combinations(KINDS, size)]
    for phase, kinds in itertools.product(PHASES, mixtures):
        run = TrainingRun(phase=phase, parameters=1000)
        for left in (999, 951, 950, 949, 901, 900, 899, 801, 800, 799, 0):
            reason = refused_by_phase(run, kinds, 1000, left)
            assert (reason is None) == oracle(phase, kinds, left), (phase, kinds, left, reason)


def test_the_cap_is_cumulative_whatever_was_cut_before() -> None:
    run = TrainingRun(phase="moderate", parameters=1000)
    assert refused_by_phase(run, ("heads",), 920, 905) is None
    reason = refused_by_phase(run, ("heads",), 920, 880)
    assert reason == (
        "in the phase 'moderate' at most 10% of the original parameters may be gone; 8.00% are "
        "already and 12.00% would be"
    )
    early = TrainingRun(phase="conservative", parameters=1000)
    assert refused_by_phase(early, ("channels",), 920, 919) is not None


def test_kinds_are_refused_before_sizes_are_known() -> None:
    run = TrainingRun(phase="conservative", parameters=1000)
    reason = refused_by_phase(run, ("channels", "layers"), 1000, None)
    assert reason is not None
    assert "only channels may be cut, and this cuts layers" in reason
    assert refused_by_phase(run, ("channels",), 1000, None) is None


def test_caps_and_kinds_grow_from_phase_to_phase() -> None:
    cutting = PHASES[1:4]
    assert [CAPS[phase] for phase in cutting] == [0.05, 0.10, 0.20]
    assert [ALLOWED[phase] for phase in cutting] == [KINDS[:1], KINDS[:2], KINDS]


@pytest.mark.parametrize(("phase", "parameters"), [("late", 10), ("moderate", 0)])
def test_a_run_that_makes_no_sense_is_refused(phase: Any, parameters: int) -> None:
    with pytest.raises(UsageError):
        TrainingRun(phase=phase, parameters=parameters)


@pytest.mark.parametrize(
    ("phase", "cut", "left", "outcome"),
    [
        ("conservative", "channels", 951, "accepted"),
        ("conservative", "channels", 949, "rejected"),
        ("conservative", "heads", 999, "rejected"),
        ("moderate", "heads", 901, "accepted"),
        ("preparation", "channels", 999, "rejected"),
        ("validation", "channels", 999, "rejected"),
    ],
)
def test_the_gate_asks_the_phase(phase: Phase, cut: EditKind, left: int, outcome: str) -> None:
    size = Size(cuts=(Cut(kind=cut, units=64, removed=1),), layers=6, layers_removed=0)
    case = evidence(
        size=size,
        run=TrainingRun(phase=phase, parameters=1000),
        after=dataclasses.replace(COST, parameters=left),
    )
    verdict = judge(case, LIMITS["channels"]["moderate"], SETTINGS)
    assert verdict.outcome == outcome
    (stage,) = [s for s in verdict.stages if s.stage == "phase"]
    assert stage.outcome == ("passed" if outcome == "accepted" else "failed")
    if outcome == "rejected":
        assert decided(verdict) == "phase"


def test_layers_are_a_kind_of_their_own_to_a_phase() -> None:
    size = Size(cuts=(), layers=6, layers_removed=1)
    run = TrainingRun(phase="moderate", parameters=1000)
    verdict = judge(evidence(size=size, run=run), LIMITS["layers"]["moderate"], SETTINGS)
    assert "only channels and heads may be cut, and this cuts layers" in verdict.reason


def test_kinds_are_read_off_the_edits() -> None:
    cut = Cut(kind="heads", units=8, removed=1)
    assert Size(cuts=(cut, cut), layers=6, layers_removed=1).kinds == ("heads", "layers")
    assert Size(cuts=(), layers=6, layers_removed=0, linears_thinned=1).kinds == ("channels",)
    assert Size(cuts=(), layers=6, layers_removed=0).kinds == ()


def test_without_a_run_no_phase_is_asked() -> None:
    verdict = judge(evidence(), LIMITS["heads"]["moderate"], SETTINGS)
    assert {"phase", "latency"}.isdisjoint(stage.stage for stage in verdict.stages)


@pytest.mark.parametrize(
    ("ratio", "answer"),
    [
        ((0.8, 0.7, 0.9), "passed"),
        ((0.8, 0.7, 0.9001), "inconclusive"),
        ((0.9, 0.8, 1.0), "inconclusive"),
        ((0.95, 0.9, 1.0), "inconclusive"),
        ((0.95, 0.9001, 1.0), "failed"),
        ((float("nan"),) * 3, "inconclusive"),
    ],
)
def test_an_interval_against_a_limit_in_time(
    ratio: tuple[float, float, float], answer: str
) -> None:
    assert within_limit(ratio, 0.9) == answer
    settings = settings_of(bootstrap=200, latency_limit=0.9)
    verdict = judge(evidence(latency=ratio), LIMITS["heads"]["moderate"], settings)
    wanted = {"passed": "accepted", "failed": "rejected"}.get(answer, answer)
    assert verdict.outcome == wanted
    assert verdict.stages[-1].stage == "latency"


def test_a_limit_in_time_waits_for_the_clock_and_never_stands_alone() -> None:
    settings = settings_of(bootstrap=200, latency_limit=0.9)
    limits = LIMITS["heads"]["moderate"]
    assert missing_stage(evidence(), limits, settings) == "latency"
    assert judge(evidence(), limits, settings).outcome == "inconclusive"
    fast = evidence(latency=(0.1, 0.1, 0.1), artefact=1.0)
    assert judge(fast, limits, settings).outcome == "failed"
    slow = evidence(latency=(9.0, 9.0, 9.0))
    assert judge(slow, limits, SETTINGS).outcome == "accepted"  # no limit was set


@pytest.mark.parametrize("kind", KINDS)
def test_rollback_at_the_drop_of_its_kind(kind: EditKind) -> None:
    limit = {"channels": 0.02, "heads": 0.03, "layers": 0.05}[kind]
    assert DROPS[kind] == limit
    for before in (0.95, 0.9, 0.7, 0.1, 1.0):
        assert rollback([kind], before, before - limit).roll_back
        assert rollback([kind], before, before - limit - 1e-6).roll_back
        assert not rollback([kind], before, before - limit + 1e-6).roll_back
        assert not rollback([kind], before, before).roll_back
    found = rollback([kind], 0.8, 0.5)
    assert found.drop == pytest.approx(0.3)
    assert f"a drop of 0.3; {kind} roll back at {limit:g}" in found.reason


def test_the_drop_is_absolute() -> None:
    assert not rollback(["channels"], 0.5, 0.485).roll_back  # 3 % of 0.5, 1.5 points
    assert rollback(["channels"], 0.5, 0.479).roll_back


def test_several_kinds_count_as_the_largest() -> None:
    assert not rollback(["channels", "layers", "heads"], 0.9, 0.86).roll_back
    assert rollback(["channels", "heads"], 0.9, 0.86).roll_back


@pytest.mark.parametrize("after", [float("nan"), float("-inf"), float("inf")])
def test_an_accuracy_that_is_no_number_rolls_back(after: float) -> None:
    found = rollback(["layers"], 0.9, after)
    assert found.roll_back
    assert found.drop is None


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match="none was given"):
        rollback([], 0.9, 0.9)
    with pytest.raises(DataError, match="must be a number and is nan"):
        rollback(["heads"], float("nan"), 0.9)
    with pytest.raises(DataError, match=r"the one after is 91\.2; divide a percentage by 100"):
        rollback(["heads"], 0.9, 91.2)
