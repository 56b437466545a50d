"""What the judges of speed-ups share: two stages, and the verdict that all answers come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from zsei.gate.criteria import Bounded
from zsei.gate.judge import SKIPPED, answered, scored
from zsei.gate.quality import Quality
from zsei.gate.statistics import MINIMUM_SAMPLES
from zsei.records import Outcome, StageResult, Verdict
from zsei.timing.interval import Interval

EXACT = 1e-5
"""Largest difference of outputs where a speed-up is exact, relative to the largest output (at
least 1)."""

Answer = Literal["passed", "failed", "inconclusive"]
Told = tuple[Answer, str]
"""An answer and its reason."""
NOT_MEASURED: Told = ("inconclusive", "not measured")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A stage with its answer."""

    stage: str
    told: Told
    failure: Outcome = "rejected"
    """What the verdict is when this stage fails."""


def quality_kept(bounds: Sequence[Bounded]) -> Told:
    """Every criterion's bound lies inside its limit."""
    if not bounds:
        return NOT_MEASURED
    detail = "; ".join(bounded.text() for bounded in bounds)
    if any(bounded.bound is None for bounded in bounds):
        return "inconclusive", f"{too_few(min(b.n for b in bounds))}; {detail}"
    return ("passed" if all(bounded.inside for bounded in bounds) else "failed"), detail


def faster(found: Interval | None) -> Told:
    """The interval of the speed-up lies wholly above 1; the only stage that a clock moves."""
    if found is None:
        return NOT_MEASURED
    told = f"{found.median:.3g} times as fast ({found.low:.3g} to {found.high:.3g})"
    if found.low > 1:
        return "passed", told
    if found.high < 1:
        return "failed", told
    return "inconclusive", f"{told}: the interval straddles 1"


def too_few(n: int) -> str:
    """Why nothing is bounded."""
    return f"{n} samples, at least {MINIMUM_SAMPLES} are needed"


def verdict_of(
    stages: Sequence[Asked],
    *,
    quality: Quality | None,
    bounds: Sequence[Bounded],
    merits: Sequence[str],
) -> Verdict:
    """The first stage that says no decides; where none does, the merits are the reason."""
    results: list[StageResult] = []
    outcome: Outcome = "accepted"
    reason = "; ".join(merits)
    for asked in stages:
        if outcome != "accepted":
            results.append(StageResult(stage=asked.stage, outcome="skipped", detail=SKIPPED))
            continue
        answer, detail = asked.told
        results.append(StageResult(stage=asked.stage, outcome=answer, detail=detail))
        if answer != "passed":
            outcome = asked.failure if answer == "failed" else "inconclusive"
            reason = f"{asked.stage}: {detail}"
    measured = quality if quality is not None and quality.n else None
    return Verdict(
        proposal_id="",
        outcome=outcome,
        before=() if measured is None else scored(measured, 0),
        after=() if measured is None else answered(measured),
        bounds=tuple(bounded.measurement() for bounded in bounds),
        stages=tuple(results),
        reason=f"{outcome}: {reason}",
    )
