"""The verdict on a speed-up: a pure function of measurements and settings. No text reaches it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from zsei.gate.criteria import (
    Bounded,
    Criterion,
    kept_criterion,
    limit_criteria,
    user_criterion,
)
from zsei.gate.criteria import bound as bounded_by
from zsei.gate.judge import SKIPPED, answered, scored
from zsei.gate.quality import Quality
from zsei.gate.statistics import MINIMUM_SAMPLES
from zsei.records import Outcome, StageResult, Verdict
from zsei.settings import LIMITS, SPEED_BOUNDS, Settings
from zsei.timing.interval import Interval

EXACT = 1e-5
"""Largest difference of outputs where a speed-up is exact, relative to the largest output (at
least 1)."""

Answer = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True, kw_only=True, eq=False)
class SpeedEvidence:
    """All that is measured about a way to run a model; what is None was not measured."""

    same_shape: bool | None = None
    """Whether every output has the shape of the baseline's."""
    difference: float | None = None
    """Largest difference at real positions, relative to the largest output (at least 1)."""
    quality: Quality | None = None
    """Answers on the held-out samples beside the baseline's."""
    speed_up: Interval | None = None
    """Baseline time / time, over interleaved rounds."""


def judge_speed(
    evidence: SpeedEvidence,
    *,
    exact: bool,
    bound: float,
    limits: tuple[float, float],
    settings: Settings,
) -> Verdict:
    """Decide about one way to run a model.

    Stages are asked in order and the first that says no decides: *shape*, *forward* (finite),
    *tolerance*, *quality* (as of any edit), *faster*. Where a number has a spread, its bound is
    compared: the upper bound of the mean divergence, of each criterion, and the interval of the
    speed-up, which must lie wholly above 1. Straddling is *inconclusive*, which is a no.

    Args:
        evidence: What was measured.
        exact: Whether the same outputs are promised: within `EXACT`.
        bound: Largest mean divergence where they are not, in the unit of the objective's metric.
        limits: Largest (accuracy drop, relative loss increase), under fidelity (1 - agreement,
            mean divergence); `settings.max_drop` stands in the place of both.
        settings: Resamples, confidence and seed of the bounds.

    Returns:
        A verdict without the id of what was judged, which the judge does not know.
    """
    case = _Case(evidence=evidence, exact=exact, bound=bound, limits=limits, settings=settings)
    results: list[StageResult] = []
    outcome: Outcome = "accepted"
    reason = "; ".join(detail for _, detail in (_tolerance(case), _faster(case)))
    for name, check, failure in _STAGES:
        if outcome != "accepted":
            results.append(StageResult(stage=name, outcome="skipped", detail=SKIPPED))
            continue
        answer, detail = check(case)
        results.append(StageResult(stage=name, outcome=answer, detail=detail))
        if answer != "passed":
            outcome = failure if answer == "failed" else "inconclusive"
            reason = f"{name}: {detail}"
    quality = evidence.quality
    measured = quality is not None and quality.n > 0
    return Verdict(
        proposal_id="",
        outcome=outcome,
        before=scored(quality, 0) if quality is not None and measured else (),
        after=answered(quality) if quality is not None and measured else (),
        bounds=tuple(bounded.measurement() for bounded in case.bounds),
        stages=tuple(results),
        reason=f"{outcome}: {reason}",
    )


def same_answers(verdict: Verdict) -> bool:
    """Whether every stage before the clock's was passed: outputs and quality are good enough."""
    return all(r.outcome == "passed" for r in verdict.stages if r.stage != "faster")


def speed_limits(settings: Settings) -> tuple[float, float]:
    """The limits of the smallest kind of change: a speed-up removes nothing."""
    return LIMITS["channels"][settings.safety]


def divergence_bound(output: str, settings: Settings) -> float:
    """The stated bound on the mean divergence for this kind of output."""
    given = settings.max_divergence
    return SPEED_BOUNDS[output] if given is None else given


@dataclass(frozen=True, kw_only=True)
class _Case:
    evidence: SpeedEvidence
    exact: bool
    bound: float
    limits: tuple[float, float]
    settings: Settings

    @cached_property
    def moved(self) -> Bounded | None:
        """The mean divergence against the stated bound."""
        quality = self.evidence.quality
        if quality is None or quality.n == 0:
            return None
        criterion = user_criterion(_without_labels(quality), self.bound)
        return bounded_by(criterion, self.settings)

    @cached_property
    def bounds(self) -> tuple[Bounded, ...]:
        """The criteria of any edit, bounded."""
        quality = self.evidence.quality
        if quality is None or quality.n == 0:
            return ()
        allowed = self.settings.max_drop
        found: tuple[Criterion, ...] = (
            limit_criteria(quality, self.limits)
            if allowed is None
            else (user_criterion(quality, allowed),)
        )
        kept = kept_criterion(quality)
        return tuple(bounded_by(c, self.settings) for c in ((*found, kept) if kept else found))


def _without_labels(quality: Quality) -> Quality:
    """The same samples under fidelity, where the divergence is what is bounded."""
    return Quality(
        output=quality.output, divergence=quality.divergence, agreement=None, loss=None,
        correct=None, similarity=None, groups=quality.groups, stride=1,
    )  # fmt: skip


_NOT_MEASURED: tuple[Answer, str] = ("inconclusive", "not measured")


def _shape(case: _Case) -> tuple[Answer, str]:
    same = case.evidence.same_shape
    if same is None:
        return _NOT_MEASURED
    if not same:
        return "failed", "the output has another shape than the baseline's"
    return "passed", "the output keeps its shape"


def _forward(case: _Case) -> tuple[Answer, str]:
    quality = case.evidence.quality
    if quality is None:
        return _NOT_MEASURED
    if quality.nonfinite:
        return "failed", f"{quality.nonfinite} output values are NaN or infinite"
    return "passed", f"all outputs of {quality.n} held-out samples are finite"


def _tolerance(case: _Case) -> tuple[Answer, str]:
    difference, moved = case.evidence.difference, case.moved
    if case.exact:
        if difference is None:
            return _NOT_MEASURED
        told = f"largest relative difference {difference:.3g}, allowed {EXACT:g}"
        return ("passed" if difference <= EXACT else "failed"), told
    if moved is None:
        return _NOT_MEASURED
    if moved.bound is None:
        return "inconclusive", f"{_too_few(moved.n)}; {moved.text()}"
    return ("passed" if moved.inside else "failed"), moved.text()


def _quality(case: _Case) -> tuple[Answer, str]:
    if not case.bounds:
        return _NOT_MEASURED
    detail = "; ".join(bounded.text() for bounded in case.bounds)
    if any(bounded.bound is None for bounded in case.bounds):
        return "inconclusive", f"{_too_few(min(b.n for b in case.bounds))}; {detail}"
    return ("passed" if all(bounded.inside for bounded in case.bounds) else "failed"), detail


def _too_few(n: int) -> str:
    return f"{n} samples, at least {MINIMUM_SAMPLES} are needed"


def _faster(case: _Case) -> tuple[Answer, str]:
    """The only stage that a clock moves."""
    found = case.evidence.speed_up
    if found is None:
        return _NOT_MEASURED
    told = f"{found.median:.3g} times as fast ({found.low:.3g} to {found.high:.3g})"
    if found.low > 1:
        return "passed", told
    if found.high < 1:
        return "failed", told
    return "inconclusive", f"{told}: the interval straddles 1"


_STAGES: tuple[tuple[str, Callable[[_Case], tuple[Answer, str]], Outcome], ...] = (
    ("shape", _shape, "failed"),
    ("forward", _forward, "failed"),
    ("tolerance", _tolerance, "rejected"),
    ("quality", _quality, "rejected"),
    ("faster", _faster, "rejected"),
)
