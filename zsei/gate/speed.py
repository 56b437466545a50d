"""The verdict on a speed-up: a pure function of measurements and settings. No text reaches it."""

from dataclasses import dataclass

from zsei.gate.criteria import Bounded, bounds_of, user_criterion
from zsei.gate.criteria import bound as bounded
from zsei.gate.quality import Quality
from zsei.gate.speed_stages import (
    EXACT,
    NOT_MEASURED,
    Asked,
    Told,
    faster,
    quality_kept,
    too_few,
    verdict_of,
)
from zsei.records import Verdict
from zsei.settings import LIMITS, SPEED_BOUNDS, Settings
from zsei.timing.interval import Interval


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
    quality = evidence.quality
    bounds = bounds_of(quality, limits, settings)
    if exact:
        tolerance = _same(evidence.difference)
    else:
        tolerance = _moved(_divergence(quality, bound, settings))
    speed = faster(evidence.speed_up)
    return verdict_of(
        (
            Asked(stage="shape", told=_shape(evidence.same_shape), failure="failed"),
            Asked(stage="forward", told=_finite(quality), failure="failed"),
            Asked(stage="tolerance", told=tolerance),
            Asked(stage="quality", told=quality_kept(bounds)),
            Asked(stage="faster", told=speed),
        ),
        quality=quality, bounds=bounds, merits=(tolerance[1], speed[1]),
    )  # fmt: skip


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


def _shape(same: bool | None) -> Told:
    if same is None:
        return NOT_MEASURED
    if not same:
        return "failed", "the output has another shape than the baseline's"
    return "passed", "the output keeps its shape"


def _finite(quality: Quality | None) -> Told:
    if quality is None:
        return NOT_MEASURED
    if quality.nonfinite:
        return "failed", f"{quality.nonfinite} output values are NaN or infinite"
    return "passed", f"all outputs of {quality.n} held-out samples are finite"


def _same(difference: float | None) -> Told:
    if difference is None:
        return NOT_MEASURED
    told = f"largest relative difference {difference:.3g}, allowed {EXACT:g}"
    return ("passed" if difference <= EXACT else "failed"), told


def _moved(moved: Bounded | None) -> Told:
    if moved is None:
        return NOT_MEASURED
    if moved.bound is None:
        return "inconclusive", f"{too_few(moved.n)}; {moved.text()}"
    return ("passed" if moved.inside else "failed"), moved.text()


def _divergence(quality: Quality | None, largest: float, settings: Settings) -> Bounded | None:
    """The mean divergence against the stated bound, whatever the objective."""
    if quality is None or quality.n == 0:
        return None
    without_labels = Quality(
        output=quality.output, divergence=quality.divergence, agreement=None, loss=None,
        correct=None, similarity=None, groups=quality.groups, stride=1,
    )  # fmt: skip
    return bounded(user_criterion(without_labels, largest), settings)
