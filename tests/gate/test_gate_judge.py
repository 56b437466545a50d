import dataclasses
import typing
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pytest
from gate_subjects import settings_of
from oracles import bootstrap as oracle

from zsei.gate.cost import Cost
from zsei.gate.evidence import Cut, Evidence, Reach, Size, limits_for
from zsei.gate.judge import judge, missing_stage, refused
from zsei.gate.quality import Quality
from zsei.gate.stages import STAGES
from zsei.records import Verdict
from zsei.settings import LIMITS, EditKind, SafetyLevel
from zsei.subject.types import Site
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits

SETTINGS = settings_of(bootstrap=200)
ROWS = [(kind, level) for kind in LIMITS for level in LIMITS[kind]]
ASKED = [stage.name for stage in STAGES if stage.name not in ("phase", "latency")]
"""Stages of a one-off analysis without a limit in time."""
COST = Cost(parameters=1000, flops=5000, activation_bytes=64, peak_bytes=32, weight_bytes=4000)
SMALLER = dataclasses.replace(COST, parameters=981, flops=4900)


def fidelity(divergence: Any = 0.0, changed: Any = 0.0, n: int = 64, **more: Any) -> Quality:
    """Held-out samples that moved by `divergence` and changed `changed` of their decisions."""
    return Quality(
        output=more.pop("output", "logits"),
        divergence=np.broadcast_to(np.asarray(divergence, float), n).copy(),
        agreement=1 - np.broadcast_to(np.asarray(changed, float), n).copy(),
        **{"loss": None, "correct": None, "similarity": None,
           "groups": np.arange(n) % 2, **more},
    )  # fmt: skip


def supervised(drop: float = 0.0, increase: float = 0.0, n: int = 64) -> Quality:
    """Labelled samples whose accuracy drops by `drop` and whose loss grows by that share."""
    before = np.linspace(0.5, 1.5, n)
    return dataclasses.replace(
        fidelity(n=n),
        loss=(before, before * (1 + increase)),
        correct=(np.ones(n), np.ones(n) - drop),
    )


def evidence(quality: Quality | None = None, **changes: Any) -> Evidence:
    """Evidence that passes every stage, but for what is changed."""
    chosen = {
        "size": Size(cuts=(Cut(kind="heads", units=8, removed=1),), layers=6, layers_removed=0),
        "before": COST,
        "after": SMALLER,
        "same_output": True,
        "calls_lost": 0,
        "quality": fidelity() if quality is None else quality,
        "reach": Reach(demanded=10, lost=0, nonfinite=0),
        "groups": 2,
        "other_length": True,
        "shorter": fidelity(),
        "artefact": 0.0,
    }
    return Evidence(**{**chosen, **changes})


def decided(verdict: Verdict) -> str:
    """The stage that did not pass."""
    return next(s.stage for s in verdict.stages if s.outcome in ("failed", "inconclusive"))


def test_an_edit_that_changes_nothing_and_is_smaller_is_accepted() -> None:
    verdict = judge(evidence(), (0.05, 0.12), SETTINGS)
    assert verdict.outcome == "accepted"
    assert [s.stage for s in verdict.stages] == ASKED
    assert {s.outcome for s in verdict.stages} == {"passed"}
    assert verdict.reason == (
        "accepted: 1 - agreement 0, bound 0 inside 0.05; mean divergence (nats) 0, bound 0 inside "
        "0.12; 1.9 % fewer parameters; 2 % fewer operations"
    )


@pytest.mark.parametrize(("kind", "level"), ROWS)
def test_fidelity_limits(kind: EditKind, level: SafetyLevel) -> None:
    first, second = LIMITS[kind][level]
    for changed, moved, expected in [
        (0.99 * first, 0.99 * second, "accepted"),
        (1.01 * first, 0.0, "rejected"),
        (0.0, 1.01 * second, "rejected"),
    ]:
        verdict = judge(evidence(fidelity(moved, changed)), (first, second), SETTINGS)
        assert verdict.outcome == expected
        bounds = {b.name: b for b in verdict.bounds}
        assert bounds["disagreement"].value == pytest.approx(changed)
        assert bounds["disagreement"].note.startswith(f"limit {first:g};")
        assert bounds["divergence"].note.startswith(f"limit {second:g};")


@pytest.mark.parametrize(("kind", "level"), ROWS)
def test_supervised_limits(kind: EditKind, level: SafetyLevel) -> None:
    first, second = LIMITS[kind][level]
    most = min(first, 0.05)  # of the original's accuracy, here 1, 95 % must stay
    for drop, increase, expected in [
        (0.99 * most, 0.99 * second, "accepted"),
        (1.01 * most, 0.0, "rejected"),
        (0.0, 1.01 * second, "rejected"),
        (-0.1, -0.1, "accepted"),
    ]:
        limits = (first, second)
        verdict = judge(evidence(supervised(drop, increase)), limits, SETTINGS)
        assert verdict.outcome == expected, verdict.reason
        names = {b.name for b in verdict.bounds}
        assert names == {"accuracy_drop", "relative_loss_increase", "accuracy_lost_share"}


def test_a_mean_inside_does_not_do_when_its_bound_is_outside() -> None:
    """3 of 64 changed is 0.047, inside 0.05; the bound is not."""
    changed = np.zeros(64)
    changed[:3] = 1
    verdict = judge(evidence(fidelity(0.0, changed)), (0.05, 0.12), SETTINGS)
    assert verdict.outcome == "rejected"
    assert decided(verdict) == "quality"
    (bound,) = [b for b in verdict.bounds if b.name == "disagreement"]
    assert bound.value is not None
    assert bound.value > 0.05
    assert "measured 0.04688; exact binomial bound 0.1" in bound.note


def test_no_change_among_64_passes_though_the_binomial_bound_is_wider() -> None:
    verdict = judge(evidence(), LIMITS["channels"]["moderate"], SETTINGS)
    assert verdict.outcome == "accepted"
    assert "exact binomial bound 0.04573" in verdict.bounds[0].note


@pytest.mark.parametrize(
    ("changes", "outcome", "stage"),
    [
        ({"size": Size(cuts=(Cut(kind="heads", units=3, removed=2),), layers=6, layers_removed=0)},
         "inapplicable", "size"),
        ({"size": Size(cuts=(Cut(kind="channels", units=32, removed=17),), layers=6,
                       layers_removed=0)}, "inapplicable", "size"),
        ({"size": Size(cuts=(), layers=6, layers_removed=3)}, "inapplicable", "size"),
        ({"size": Size(cuts=(), layers=6, layers_removed=0)}, "inapplicable", "size"),
        ({"same_output": False}, "inapplicable", "shape"),
        ({"calls_lost": 1}, "rejected", "architecture"),
        ({"quality": dataclasses.replace(fidelity(n=0), nonfinite=3)}, "failed", "forward"),
        ({"reach": Reach(demanded=10, lost=1, nonfinite=0)}, "rejected", "gradients"),
        ({"reach": Reach(demanded=10, lost=0, nonfinite=1)}, "rejected", "gradients"),
        ({"quality": fidelity(n=7)}, "inconclusive", "quality"),
        ({"after": COST}, "rejected", "cost"),
        ({"after": dataclasses.replace(COST, parameters=1001, flops=5000)}, "rejected", "cost"),
        ({"quality": fidelity(np.where(np.arange(64) < 8, 0.2, 0.0),
                              groups=(np.arange(64) < 8).astype(int))}, "rejected", "groups"),
        ({"quality": fidelity(groups=np.arange(64) // 4), "groups": 16}, "inconclusive", "groups"),
        ({"shorter": fidelity(0.2)}, "rejected", "lengths"),
        ({"shorter": dataclasses.replace(fidelity(n=0), nonfinite=1)}, "rejected", "lengths"),
        ({"artefact": 2e-5}, "failed", "artefact"),
        ({"artefact": float("inf")}, "failed", "artefact"),
        ({"artefact": float("nan")}, "failed", "artefact"),
    ],
)  # fmt: skip
def test_each_stage_says_no(changes: dict[str, Any], outcome: str, stage: str) -> None:
    verdict = judge(evidence(**changes), (0.05, 0.12), SETTINGS)
    assert (verdict.outcome, decided(verdict)) == (outcome, stage), verdict.reason
    assert verdict.reason.startswith(f"{outcome}: {stage}: ")
    later = [s.outcome for s in verdict.stages[ASKED.index(stage) + 1 :]]
    assert set(later) <= {"skipped"}


@pytest.mark.parametrize(
    "missing", ["after", "same_output", "calls_lost", "quality", "reach", "shorter", "artefact"]
)
def test_what_was_not_measured_is_a_no(missing: str) -> None:
    incomplete = dataclasses.replace(evidence(), **{missing: None})
    verdict = judge(incomplete, (0.05, 0.12), SETTINGS)
    assert verdict.outcome == "inconclusive"
    assert missing_stage(incomplete, (0.05, 0.12), SETTINGS) == decided(verdict)


def test_nothing_is_asked_for_once_it_is_decided() -> None:
    lost = dataclasses.replace(evidence(calls_lost=1), quality=None, reach=None, artefact=None)
    assert missing_stage(lost, (0.05, 0.12), SETTINGS) is None
    assert missing_stage(evidence(), (0.05, 0.12), SETTINGS) is None


def test_a_no_that_was_measured_counts_before_what_was_not() -> None:
    """A costly stage is left out when a later one has already said no, and is not called passed."""
    moved = dataclasses.replace(evidence(fidelity(0.5)), reach=None, artefact=None, shorter=None)
    assert missing_stage(moved, (0.05, 0.12), SETTINGS) is None
    verdict = judge(moved, (0.05, 0.12), SETTINGS)
    assert (verdict.outcome, decided(verdict)) == ("rejected", "quality")
    told = {s.stage: s.outcome for s in verdict.stages}
    assert {told[name] for name in ("gradients", "cost", "lengths", "artefact")} == {"skipped"}


def test_what_cannot_exist_is_skipped_and_no_obstacle() -> None:
    verdict = judge(evidence(groups=1, other_length=False, shorter=None), (0.05, 0.12), SETTINGS)
    skipped = {s.stage for s in verdict.stages if s.outcome == "skipped"}
    assert (verdict.outcome, skipped) == ("accepted", {"groups", "lengths"})


def test_a_group_too_small_to_decide_is_told_and_does_not_decide() -> None:
    """Four bad samples of a third group: 0.3 each, 0.019 on average over all."""
    moved, groups = np.zeros(64), np.arange(64) % 2
    moved[:4], groups[:4] = 0.3, 2
    verdict = judge(evidence(fidelity(moved, groups=groups), groups=3), (0.05, 0.12), SETTINGS)
    assert verdict.outcome == "accepted"
    (stage,) = [s for s in verdict.stages if s.stage == "groups"]
    assert "group 2: 1 - agreement 0, no bound, limit 0.05" in stage.detail
    assert "(too few samples to decide)" in stage.detail


def test_values_have_no_agreement_and_the_verdict_says_so() -> None:
    alone = dataclasses.replace(fidelity(0.01, output="values"), agreement=None)
    verdict = judge(evidence(alone), (0.05, 0.12), SETTINGS)
    assert verdict.outcome == "accepted"
    assert [b.name for b in verdict.bounds] == ["divergence"]
    assert "decide nothing" in next(s.detail for s in verdict.stages if s.stage == "quality")
    (agreement,) = [m for m in verdict.after if m.name == "agreement"]
    assert (agreement.value, agreement.state) == (None, "could not tell")


def test_the_verdict_holds_the_numbers() -> None:
    moved = np.linspace(0, 0.1, 64)
    quality = dataclasses.replace(supervised(0.01, 0.02), divergence=moved)
    verdict = judge(evidence(quality), (0.05, 0.12), SETTINGS)
    before = {m.name: m for m in verdict.before}
    after = {m.name: m for m in verdict.after}
    assert before["parameters"].value == 1000
    assert after["parameters"].value == 981
    assert after["flops"].value == 4900
    assert before["loss"].value == pytest.approx(1.0)
    assert after["loss"].value == pytest.approx(1.02)
    assert after["loss"].n == 64
    assert after["loss"].std == pytest.approx(np.linspace(0.5, 1.5, 64).std() * 1.02)
    assert (before["accuracy"].value, after["accuracy"].value) == (1.0, pytest.approx(0.99))
    assert after["divergence"].value == pytest.approx(0.05)
    assert after["divergence_p95"].value == pytest.approx(0.095)
    assert after["divergence_worst"].value == pytest.approx(0.1)
    assert after["agreement"].value == 1


def test_similarity_is_judged_by_pairs() -> None:
    gold = np.repeat(np.linspace(0, 1, 32), 2)
    rng = np.random.default_rng(0)
    after = gold + np.repeat(rng.normal(0, 0.6, 32), 2)
    quality = dataclasses.replace(
        fidelity(output="embedding"),
        loss=(np.ones(64), np.ones(64)), similarity=(gold, gold, after), stride=2,
    )  # fmt: skip
    verdict = judge(evidence(quality), (0.05, 0.12), SETTINGS)
    assert verdict.outcome == "rejected"
    bounds = {b.name: b for b in verdict.bounds}
    assert set(bounds) == {"spearman_drop", "relative_loss_increase", "spearman_lost_share"}
    assert {b.n for b in bounds.values()} == {32}
    measured = {m.name: m.value for m in verdict.after}
    assert measured["spearman"] == pytest.approx(oracle.spearman(gold[::2], after[::2]))
    fine = dataclasses.replace(quality, similarity=(gold, gold, gold))
    assert judge(evidence(fine), (0.05, 0.12), SETTINGS).outcome == "accepted"


def test_an_original_without_accuracy_has_none_to_keep() -> None:
    hopeless = dataclasses.replace(supervised(), correct=(np.zeros(64), np.zeros(64)))
    verdict = judge(evidence(hopeless), (0.05, 0.12), SETTINGS)
    assert verdict.outcome == "accepted"
    assert "accuracy_lost_share" not in {b.name for b in verdict.bounds}


def test_a_perfect_model_is_not_held_to_an_infinite_ratio() -> None:
    perfect = dataclasses.replace(supervised(), loss=(np.zeros(64), np.full(64, 1e-9)))
    assert judge(evidence(perfect), (0.05, 0.12), SETTINGS).outcome == "accepted"
    worse = dataclasses.replace(supervised(), loss=(np.zeros(64), np.full(64, 1e-3)))
    assert judge(evidence(worse), (0.05, 0.12), SETTINGS).outcome == "rejected"


def random_evidence(rng: np.random.Generator) -> Evidence:
    """Anything a measurement could bring, mostly near the limits."""
    n = int(rng.integers(4, 24))
    scale = rng.choice([0.0, 0.01, 0.05, 0.2])
    moved = rng.exponential(scale, n)
    changed = (rng.random(n) < scale).astype(float)
    quality = fidelity(moved, changed, n=n)
    if rng.random() < 0.5:
        before, right = rng.exponential(1, n) + 0.1, (rng.random(n) < 0.9).astype(float)
        after = before * (1 + scale * rng.normal(0.5, 1, n))
        still = np.where(rng.random(n) < scale, 0.0, right)
        quality = dataclasses.replace(quality, loss=(before, after), correct=(right, still))
    return evidence(
        quality,
        after=rng.choice(np.array([COST, SMALLER], dtype=object)),
        calls_lost=int(rng.random() < 0.05),
        same_output=bool(rng.random() > 0.05),
        groups=1,
        reach=Reach(demanded=9, lost=int(rng.random() < 0.05), nonfinite=0),
        artefact=float(rng.choice([0.0, 1e-3], p=[0.95, 0.05])),
    )


def slow_bounds(quality: Quality) -> Iterator[tuple[float, int]]:
    """Every bound that must hold, by the slow loop, with its column of limits (2: the 5 %)."""

    def bound(statistic: Any) -> float:
        return oracle.bca_upper_bound(
            statistic, quality.n, SETTINGS.bootstrap, SETTINGS.confidence, SETTINGS.seed
        )

    def mean(values: np.ndarray, rows: list[int]) -> float:
        return sum(float(values[i]) for i in rows) / len(rows)

    if quality.loss is None or quality.correct is None:
        agreement = quality.agreement
        assert agreement is not None
        yield bound(lambda rows: mean(1 - agreement, rows)), 0
        yield bound(lambda rows: mean(quality.divergence, rows)), 1
        return
    (was, now), (right, still) = quality.loss, quality.correct

    def lost(rows: list[int]) -> float:
        base = mean(right, rows)
        return 1 - mean(still, rows) / base if base > 0 else 0.0

    yield bound(lambda rows: mean(right, rows) - mean(still, rows)), 0
    yield bound(lambda rows: mean(now, rows) / mean(was, rows) - 1), 1
    if right.sum() > 0:
        yield bound(lost), 2


def test_accepted_implies_that_every_bound_is_inside() -> None:
    rng = np.random.default_rng(11)
    outcomes = []
    for _ in range(120):
        tried = random_evidence(rng)
        kind, level = ROWS[rng.integers(len(ROWS))]
        limits = LIMITS[kind][level]
        verdict = judge(tried, limits, SETTINGS)
        assert judge(tried, limits, SETTINGS) == verdict
        outcomes.append(verdict.outcome)
        quality = tried.quality
        assert quality is not None
        inside = quality.n >= 8 and all(
            value <= (*limits, 0.05)[column] + 1e-12 for value, column in slow_bounds(quality)
        )
        whole = (
            tried.after is SMALLER and tried.calls_lost == 0 and tried.same_output
            and tried.reach == Reach(demanded=9, lost=0, nonfinite=0) and tried.artefact == 0
        )  # fmt: skip
        assert (verdict.outcome == "accepted") == (inside and whole), verdict.reason
    assert {"accepted", "rejected", "inconclusive"} <= set(outcomes)
    assert outcomes.count("accepted") > 15


def types_within(annotation: Any) -> Iterator[Any]:
    """All classes an annotation is made of, those of dataclass fields included."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return
    if origin is np.ndarray:
        parts = parts[1:]  # the first is its shape
    if parts:
        for part in parts:
            yield from types_within(part)
    elif dataclasses.is_dataclass(annotation):
        for hint in typing.get_type_hints(annotation).values():
            yield from types_within(hint)
    else:
        yield annotation


def test_no_text_fits_into_the_evidence() -> None:
    found = set(types_within(Evidence))
    assert {int, float, bool} <= found
    assert not found & {str, bytes, dict, object, Any}


def test_what_never_was_judged_is_always_a_no() -> None:
    for outcome in ("inapplicable", "failed"):
        verdict = refused(outcome, "p-1", "accepted: every bound is inside")
        assert (verdict.outcome, verdict.proposal_id) == (outcome, "p-1")


@pytest.mark.parametrize(
    ("kinds", "named", "row"),
    [
        (["head"], "heads", "heads"),
        (["head"], "layers", "heads"),  # what it is called cannot loosen what it is
        (["neuron", "channel"], "heads", "channels"),
        (["layer"], "layers", "layers"),
        (["layer"], "channels", "channels"),  # but it may narrow it
        (["neuron", "layer"], "layers", "layers"),
    ],
)
def test_the_row_of_limits_follows_the_edits(kinds: list[str], named: str, row: str) -> None:
    edits: list[Edit] = []
    for kind in kinds:
        site = Site(component="c", kind=kind, node="n", axis=1, units=8)  # type: ignore[arg-type]
        edits.append(
            BypassLayer(site=site) if kind == "layer" else RemoveUnits(site=site, units=(0,))
        )
    found = limits_for(named, edits, "moderate")  # type: ignore[arg-type]
    assert found == LIMITS[row]["moderate"]  # type: ignore[index]
