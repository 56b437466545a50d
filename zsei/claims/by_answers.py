"""Claims about what the model answers: the difference of its outputs, and the accuracy kept."""

from math import inf

from zsei.claims.bench import Bench, Tried
from zsei.claims.claim import Claim
from zsei.claims.found import Found, by_number
from zsei.claims.record import ClaimVerdict
from zsei.claims.ways import REFUSED, Ways
from zsei.errors import SpeedUpRefused
from zsei.gate.criteria import Bounded, kept_criterion, limit_criteria, user_criterion
from zsei.gate.criteria import bound as bounded_by
from zsei.gate.quality import Quality
from zsei.gate.speed import speed_limits
from zsei.records import Failure
from zsei.speed.measure import named
from zsei.speedups.speedup import Step


def difference(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """Largest difference of outputs on held-out samples at real positions, relative to the largest
    output there (at least 1); no clock takes part.
    """
    del budget
    tried, left_out = _tried(bench, claim)
    if not tried:
        return Ways(usable=(), left_out=left_out).none()
    moved = [
        inf if one.evidence.difference is None else one.evidence.difference for _, one in tried
    ]
    value = min(moved)
    steps, one = tried[moved.index(value)]
    if value == inf:
        told = one.verdict.reason
        return Found(verdict="not held", reason=told, steps=steps, left_out=left_out)
    return by_number(claim, value).with_(steps=steps, left_out=left_out)


def accuracy(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """The accuracy kept, as the gate bounds it for any edit: by paired bootstrap on held-out
    samples, of the drop of the score, or of the loss where there is no score; without labels of the
    mean divergence. The limit is the claim's own, or else that of the safety level.

    *held* when every bound lies inside its limit, *not held* when a measured value itself lies
    outside, *not decided* when only a bound does: more samples would tell.
    """
    del budget
    tried, left_out = _tried(bench, claim)
    judged = [(_bounds(bench, claim, one.evidence.quality), one, steps) for steps, one in tried]
    if not judged:
        return Ways(usable=(), left_out=left_out).none()
    bounds, one, steps = min(judged, key=lambda entry: _worst(entry[0]))
    if not bounds:
        told = one.verdict.reason
        return Found(verdict="not held", reason=told, steps=steps, left_out=left_out)
    verdict: ClaimVerdict = "not decided"
    if any(bounded.outside for bounded in bounds):
        verdict = "not held"
    elif all(bounded.inside for bounded in bounds):
        verdict = "held"
    worst = max(bounds, key=lambda b: b.point / b.limit)
    scale = 100 if claim.measured_in == "%" else 1
    few = "" if worst.bound is not None else f"; {worst.n} samples are too few for a bound"
    return Found(
        verdict=verdict, value=scale * worst.point, steps=steps, left_out=left_out,
        reason="; ".join(bounded.text() for bounded in bounds) + few,
        measurements=tuple(bounded.measurement() for bounded in bounds),
    )  # fmt: skip


def _tried(
    bench: Bench, claim: Claim
) -> tuple[list[tuple[tuple[Step, ...], Tried]], tuple[Failure, ...]]:
    found, left_out = [], []
    for steps in claim.ways:
        try:
            found.append((steps, bench.tried(steps)))
        except SpeedUpRefused as refused:
            left_out.append(Failure(stage=REFUSED, what=named(steps), why=str(refused)))
    return found, tuple(left_out)


def _bounds(bench: Bench, claim: Claim, quality: Quality | None) -> tuple[Bounded, ...]:
    """What is bounded; nothing where outputs are no numbers or have another shape."""
    if quality is None or quality.nonfinite or not quality.n:
        return ()
    if claim.at_most is not None:
        limit = claim.at_most / 100 if claim.measured_in == "%" else claim.at_most
        return (bounded_by(user_criterion(quality, limit), bench.settings),)
    criteria = limit_criteria(quality, speed_limits(bench.settings))
    kept = kept_criterion(quality)
    every = (*criteria, kept) if kept is not None else criteria
    return tuple(bounded_by(criterion, bench.settings) for criterion in every)


def _worst(bounds: tuple[Bounded, ...]) -> float:
    return max((b.point / b.limit for b in bounds), default=inf)
