"""The gate's stages, in order: each looks at the evidence and passes, fails or cannot tell.

Pure functions of numbers. A stage whose evidence is missing cannot tell, which is a no; only what
cannot exist for a model (other lengths, a second group) is skipped with its reason.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from zsei.gate.criteria import Bounded, bounds_of
from zsei.gate.evidence import Evidence
from zsei.gate.latency import within_limit
from zsei.gate.phases import refused_by_phase
from zsei.gate.quality import Quality
from zsei.gate.statistics import MINIMUM_SAMPLES
from zsei.records import Outcome
from zsei.settings import Settings

Answer = Literal["passed", "failed", "inconclusive", "skipped", "missing"]
SAME_OUTPUTS = 1e-5
"""Largest relative difference at which a loaded artefact counts as giving the same outputs."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Evidence with the limits it is held against."""

    evidence: Evidence
    limits: tuple[float, float]
    settings: Settings

    @cached_property
    def bounds(self) -> tuple[Bounded, ...]:
        """All criteria of the held-out samples, bounded; none when there is nothing to bound."""
        return self.bounds_of(self.evidence.quality, whole=True)

    def bounds_of(self, quality: Quality | None, *, whole: bool) -> tuple[Bounded, ...]:
        """The criteria of some samples, bounded; `whole` adds the share of the score to keep."""
        return bounds_of(quality, self.limits, self.settings, whole=whole)


Check = Callable[[Case], tuple[Answer, str]]
_NOT_MEASURED: tuple[Answer, str] = ("missing", "not measured")


def _size(case: Case) -> tuple[Answer, str]:
    size, settings = case.evidence.size, case.settings
    least = {"heads": settings.min_heads, "channels": settings.min_channels, "layers": 1}
    for cut in size.cuts:
        left = cut.units - cut.removed
        if left < (1 if cut.experts else least[cut.kind]):
            return "failed", (
                f"{left} of {cut.units} {cut.kind} would be left and at least "
                f"{least[cut.kind]} must be (setting min_{cut.kind})"
            )
    # 1e-9: a share such as 0.2 times 5 must not lose a layer to rounding.
    if size.layers_removed > settings.max_layer_share * size.layers + 1e-9:
        return "failed", (
            f"{size.layers_removed} of {size.layers} layers would go and at most "
            f"{settings.max_layer_share:.0%} may (setting max_layer_share)"
        )
    if not size.cuts and not size.layers_removed and not size.linears_thinned:
        return "failed", "the edit removes nothing"
    removed = sum(cut.removed for cut in size.cuts)
    return "passed", f"{removed} units and {size.layers_removed} layers go"


def _shape(case: Case) -> tuple[Answer, str]:
    if case.evidence.same_output is None:
        return _NOT_MEASURED
    if not case.evidence.same_output:
        return "failed", "the edit changes the output's shape or type"
    return "passed", "the shape-only run keeps the output's shape"


def _phase(case: Case) -> tuple[Answer, str]:
    """A phase of a training run has its own cap and its own kinds of change."""
    evidence, run = case.evidence, case.evidence.run
    if run is None or evidence.after is None:
        return _NOT_MEASURED
    before, after = evidence.before.parameters, evidence.after.parameters
    reason = refused_by_phase(run, evidence.size.kinds, before, after)
    if reason is not None:
        return "failed", reason
    return "passed", f"{run.share(after):.2%} of the run's parameters would be gone ({run.phase})"


def _architecture(case: Case) -> tuple[Answer, str]:
    lost = case.evidence.calls_lost
    if lost is None:
        return _NOT_MEASURED
    if lost:
        return "failed", f"{lost} components outside the edit lost calls"
    return "passed", "every component outside the edit has all its calls"


def _forward(case: Case) -> tuple[Answer, str]:
    quality = case.evidence.quality
    if quality is None:
        return _NOT_MEASURED
    if quality.nonfinite:
        return "failed", f"{quality.nonfinite} output values are NaN or infinite"
    return "passed", f"all outputs of {quality.n} held-out samples are finite"


def _gradients(case: Case) -> tuple[Answer, str]:
    reach = case.evidence.reach
    if reach is None:
        return _NOT_MEASURED
    if reach.nonfinite:
        return "failed", f"the gradients of {reach.nonfinite} parameters are NaN or infinite"
    if reach.lost:
        return "failed", f"gradients no longer reach {reach.lost} of {reach.demanded} parameters"
    if not reach.demanded:
        return "skipped", "gradients reach no parameter that is left"
    return "passed", f"gradients reach all {reach.demanded} parameters they reached before"


def _quality(case: Case) -> tuple[Answer, str]:
    quality = case.evidence.quality
    if quality is None or not case.bounds:
        return _NOT_MEASURED
    texts = [bounded.text() for bounded in case.bounds]
    if quality.loss is None and quality.agreement is None:
        texts.append("outputs decide nothing that could agree, so the divergence stands alone")
    texts.append(
        f"95 % of samples moved less than {np.quantile(quality.divergence, 0.95):.4g}, "
        f"the worst {quality.divergence.max():.4g}"
    )
    detail = "; ".join(texts)
    if any(bounded.bound is None for bounded in case.bounds):
        least = min(bounded.n for bounded in case.bounds)
        return "inconclusive", f"{least} samples, at least {MINIMUM_SAMPLES} are needed; {detail}"
    return ("passed" if all(bounded.inside for bounded in case.bounds) else "failed"), detail


def _cost(case: Case) -> tuple[Answer, str]:
    before, after = case.evidence.before, case.evidence.after
    if after is None:
        return _NOT_MEASURED
    fewer = f"{saving(before.parameters, after.parameters)} parameters, "
    fewer += f"{saving(before.flops, after.flops)} operations"
    if after.parameters >= before.parameters and after.flops >= before.flops:
        return "failed", f"the edit removes nothing: {fewer}"
    return "passed", fewer


def saving(before: int, after: int) -> str:
    """How much smaller, in words: "1.9 % fewer"."""
    share = (before - after) / max(before, 1)
    return f"{abs(share) * 100:.3g} % {'more' if share < 0 else 'fewer'}"


def _groups(case: Case) -> tuple[Answer, str]:
    """Each group of at least `MINIMUM_SAMPLES` has its own measured values inside the limits.

    Point values decide here, since the bound over all samples has already held; the group's own
    bound is told. A smaller group is told and decides nothing, unless there are only small ones.
    """
    quality, groups = case.evidence.quality, case.evidence.groups
    if quality is None:
        return _NOT_MEASURED
    if groups < 2:
        return "skipped", "the held-out samples are one group"
    told, outside, decided = [], False, 0
    for group in range(groups):
        bounds = case.bounds_of(quality.of_group(group), whole=False)
        enough = bool(bounds) and all(bounded.n >= MINIMUM_SAMPLES for bounded in bounds)
        decided += enough
        outside |= enough and any(bounded.outside for bounded in bounds)
        words = ", ".join(bounded.text() for bounded in bounds) or "no samples"
        told.append(f"group {group}: {words}{'' if enough else ' (too few samples to decide)'}")
    detail = "; ".join(told)
    if outside:
        return "failed", detail
    return ("passed" if decided else "inconclusive"), detail


def _lengths(case: Case) -> tuple[Answer, str]:
    evidence = case.evidence
    if evidence.other_length is False:
        return "skipped", "inputs of another length cannot be tried"
    if evidence.shorter is None:
        return _NOT_MEASURED
    if evidence.shorter.nonfinite:
        return "failed", f"{evidence.shorter.nonfinite} output values are NaN or infinite"
    bounds = case.bounds_of(evidence.shorter, whole=False)
    detail = "; ".join(bounded.text() for bounded in bounds)
    return ("failed" if any(bounded.outside for bounded in bounds) else "passed"), detail


def _artefact(case: Case) -> tuple[Answer, str]:
    difference = case.evidence.artefact
    if difference is None:
        return _NOT_MEASURED
    if not difference <= SAME_OUTPUTS:
        return "failed", f"the saved model answers differently by {difference:.3g} of the largest"
    return "passed", f"saved and loaded back, outputs differ by {difference:.3g} of the largest"


def _latency(case: Case) -> tuple[Answer, str]:
    """The only stage that a clock moves; its numbers stand with the other clock values."""
    ratio, limit = case.evidence.latency, case.settings.latency_limit
    if ratio is None or limit is None:
        return _NOT_MEASURED
    answer = within_limit(ratio, limit)
    where = {"passed": "lies inside", "failed": "lies above", "inconclusive": "straddles"}[answer]
    return answer, f"the interval of the measured latency ratio {where} the limit of {limit:g}"


def _always(_: Case) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: what it is called, what it checks, and what a failure means for the verdict."""

    name: str
    check: Check
    failure: Outcome
    asked: Callable[[Case], bool] = _always
    """Whether there is anything to ask; a stage that is not asked is no part of the verdict."""


STAGES: tuple[Stage, ...] = (
    Stage(name="size", check=_size, failure="inapplicable"),
    Stage(name="shape", check=_shape, failure="inapplicable"),
    Stage(
        name="phase", check=_phase, failure="rejected",
        asked=lambda case: case.evidence.run is not None,
    ),
    Stage(name="architecture", check=_architecture, failure="rejected"),
    Stage(name="forward", check=_forward, failure="failed"),
    Stage(name="gradients", check=_gradients, failure="rejected"),
    Stage(name="quality", check=_quality, failure="rejected"),
    Stage(name="cost", check=_cost, failure="rejected"),
    Stage(name="groups", check=_groups, failure="rejected"),
    Stage(name="lengths", check=_lengths, failure="rejected"),
    Stage(name="artefact", check=_artefact, failure="failed"),
    Stage(
        name="latency", check=_latency, failure="rejected",
        asked=lambda case: case.settings.latency_limit is not None,
    ),
)  # fmt: skip


def stages_of(case: Case) -> tuple[Stage, ...]:
    """The stages that are asked about a case, in order."""
    return tuple(stage for stage in STAGES if stage.asked(case))
