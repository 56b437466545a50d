"""The verdict on a speed-up of training: a pure function of measurements and settings."""

from dataclasses import dataclass
from typing import Literal

from zsei.gate.criteria import bounds_of
from zsei.gate.quality import Quality
from zsei.gate.speed_stages import (
    EXACT,
    NOT_MEASURED,
    Asked,
    Told,
    faster,
    quality_kept,
    verdict_of,
)
from zsei.records import Verdict
from zsei.settings import Settings
from zsei.timing.interval import Interval

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
    quality = evidence.quality
    bounds = bounds_of(quality, limits, settings)
    tolerance = _same_steps(evidence.difference, exact)
    if gain == "time":
        last = Asked(stage="faster", told=faster(evidence.speed_up))
    else:
        last = Asked(stage="smaller", told=_smaller(evidence.bytes))
    return verdict_of(
        (
            Asked(stage="finite", told=_finite(evidence.finite, quality), failure="failed"),
            Asked(stage="tolerance", told=tolerance),
            Asked(stage="quality", told=quality_kept(bounds)),
            last,
        ),
        quality=quality, bounds=bounds, merits=(tolerance[1], last.told[1]),
    )  # fmt: skip


def _finite(finite: bool | None, quality: Quality | None) -> Told:
    if finite is None or quality is None:
        return NOT_MEASURED
    if not finite or quality.nonfinite:
        return "failed", "losses, weights or held-out outputs are NaN or infinite after training"
    return "passed", "losses, weights and held-out outputs stay finite"


def _same_steps(difference: float | None, exact: bool) -> Told:
    if difference is None:
        return NOT_MEASURED
    told = f"steps differ by {difference:.3g} at most, relative to the baseline's"
    if not exact:
        return "passed", f"{told}; none is promised, the held-out loss decides"
    return ("passed" if difference <= EXACT else "failed"), f"{told}, allowed {EXACT:g}"


def _smaller(counted: tuple[int, int] | None) -> Told:
    if counted is None:
        return NOT_MEASURED
    before, after = counted
    told = f"{after} of {before} bytes of memory ({after / before:.1%})"
    return ("passed" if after < before else "failed"), told
