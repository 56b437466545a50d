"""The verdict on a speed-up of training: a pure function of measurements and settings."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from zsei.gate.criteria import Bounded, bound, kept_criterion, limit_criteria, user_criterion
from zsei.gate.judge import SKIPPED, answered, scored
from zsei.gate.quality import Quality
from zsei.gate.speed import EXACT
from zsei.gate.statistics import MINIMUM_SAMPLES
from zsei.records import Outcome, StageResult, Verdict
from zsei.settings import Settings
from zsei.timing.interval import Interval

Answer = Literal["passed", "failed", "inconclusive"]
Gain = Literal["time", "memory"]


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingEvidence:
    """All that is measured about a way to train; what is None was not measured."""

    finite: bool | None = None
    """Whether losses and weights stayed finite over the steps."""
    difference: float | None = None
    """Largest relative difference of single steps (`zsei.speed.training_same.Sameness`)."""
    quality: Quality | None = None
    """Held-out answers after some steps, beside those after as many steps of the baseline."""
    speed_up: Interval | None = None
    """Baseline time / time of a step, over interleaved rounds."""
    bytes: tuple[int, int] | None = None
    """Memory of a step, baseline and this way: what stands from step to step and the peak."""


def judge_training(
    evidence: TrainingEvidence,
    *,
    exact: bool,
    gain: Gain,
    limits: tuple[float, float],
    settings: Settings,
) -> Verdict:
    """Decide about one way to train.

    Stages are asked in order and the first that says no decides: *finite*; *tolerance*, where the
    same steps are promised; *quality*, the held-out loss and score after training, held against
    the limits of any edit by their bounds; then what it is for, *faster* (the interval of the
    speed-up lies wholly above 1) or *smaller* (fewer bytes; they are counted, not sampled).

    Args:
        evidence: What was measured.
        exact: Whether the same gradients and updates are promised: within `EXACT`.
        gain: What it is for.
        limits: Largest (accuracy drop, relative loss increase); `settings.max_drop` stands in the
            place of both.
        settings: Resamples, confidence and seed of the bounds.

    Returns:
        A verdict without the id of what was judged, which the judge does not know.
    """
    case = _Case(evidence=evidence, exact=exact, limits=limits, settings=settings)
    last = ("faster", _faster) if gain == "time" else ("smaller", _smaller)
    stages = (("finite", _finite), ("tolerance", _tolerance), ("quality", _quality), last)
    results: list[StageResult] = []
    outcome: Outcome = "accepted"
    reason = "; ".join(detail for _, detail in (_tolerance(case), last[1](case)))
    for name, check in stages:
        if outcome != "accepted":
            results.append(StageResult(stage=name, outcome="skipped", detail=SKIPPED))
            continue
        answer, detail = check(case)
        results.append(StageResult(stage=name, outcome=answer, detail=detail))
        if answer != "passed":
            no: Outcome = "failed" if name == "finite" else "rejected"
            outcome = no if answer == "failed" else "inconclusive"
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


@dataclass(frozen=True, kw_only=True)
class _Case:
    evidence: TrainingEvidence
    exact: bool
    limits: tuple[float, float]
    settings: Settings

    @cached_property
    def bounds(self) -> tuple[Bounded, ...]:
        """The criteria of any edit, bounded."""
        quality = self.evidence.quality
        if quality is None or quality.n == 0:
            return ()
        allowed = self.settings.max_drop
        found = (
            limit_criteria(quality, self.limits)
            if allowed is None
            else (user_criterion(quality, allowed),)
        )
        kept = kept_criterion(quality)
        return tuple(bound(one, self.settings) for one in ((*found, kept) if kept else found))


_NOT_MEASURED: tuple[Answer, str] = ("inconclusive", "not measured")


def _finite(case: _Case) -> tuple[Answer, str]:
    finite, quality = case.evidence.finite, case.evidence.quality
    if finite is None or quality is None:
        return _NOT_MEASURED
    if not finite or quality.nonfinite:
        return "failed", "losses, weights or held-out outputs are NaN or infinite after training"
    return "passed", "losses, weights and held-out outputs stay finite"


def _tolerance(case: _Case) -> tuple[Answer, str]:
    difference = case.evidence.difference
    if difference is None:
        return _NOT_MEASURED
    told = f"steps differ by {difference:.3g} at most, relative to the baseline's"
    if not case.exact:
        return "passed", f"{told}; none is promised, the held-out loss decides"
    return ("passed" if difference <= EXACT else "failed"), f"{told}, allowed {EXACT:g}"


def _quality(case: _Case) -> tuple[Answer, str]:
    if not case.bounds:
        return _NOT_MEASURED
    detail = "; ".join(bounded.text() for bounded in case.bounds)
    if any(bounded.bound is None for bounded in case.bounds):
        few = min(bounded.n for bounded in case.bounds)
        return "inconclusive", (
            f"{few} samples, at least {MINIMUM_SAMPLES} are needed; {detail}"
        )  # fmt: skip
    return ("passed" if all(bounded.inside for bounded in case.bounds) else "failed"), detail


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


def _smaller(case: _Case) -> tuple[Answer, str]:
    if case.evidence.bytes is None:
        return _NOT_MEASURED
    before, after = case.evidence.bytes
    told = f"{after} of {before} bytes of memory ({after / before:.1%})"
    return ("passed" if after < before else "failed"), told
