"""The ways in which a claim may be carried out: those that run here and keep the answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from zsei.claims.bench import Bench, Tried
from zsei.claims.claim import Claim
from zsei.claims.found import Found, not_measurable
from zsei.errors import SpeedUpRefused
from zsei.gate.speed import same_answers
from zsei.records import Failure, Measurement
from zsei.speed.measure import named
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Step

REFUSED, CHANGED, UNTOLD = "refused", "outputs", "samples"
"""Why a way does not count: it cannot be had here, it changes the answers, or there are too few
samples to tell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Way:
    """One way to run the model, ready to be timed."""

    steps: tuple[Step, ...]
    runnable: Runnable
    measurements: tuple[Measurement, ...] = ()
    """Difference and divergence of its outputs."""

    @property
    def name(self) -> str:
        """Its steps in one line."""
        return named(self.steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class Ways:
    """The ways of a claim, parted into those that count and those that do not."""

    usable: tuple[Way, ...]
    left_out: tuple[Failure, ...]
    """`stage` says why: "refused", "outputs" or "samples"."""

    def none(self) -> Found:
        """What is to be said when no way counts.

        A way that runs and changes the answers is no speed-up: then the claim does not hold.
        """
        reason = " ".join(f"{failure.what}: {failure.why}" for failure in self.left_out)
        stages = {failure.stage for failure in self.left_out}
        found = not_measurable(reason)
        if CHANGED in stages:
            found = found.with_(verdict="not held")
        elif UNTOLD in stages:
            found = found.with_(verdict="not decided")
        return found.with_(left_out=self.left_out)


def ways_of(bench: Bench, claim: Claim, *, same: bool = True) -> Ways:
    """All ways of a claim about inference.

    Args:
        bench: Where they are made; each is made once.
        claim: Its steps or alternatives. Without steps the baseline itself is the way.
        same: Whether a way must keep the answers, as the gate demands of a speed-up: outputs within
            1e-5 where exact, within the stated bound where not, and the task's metric.
    """
    usable: list[Way] = []
    left_out: list[Failure] = []
    for steps in claim.ways:
        if not steps:
            usable.append(Way(steps=(), runnable=bench.start()))
            continue
        try:
            tried = bench.tried(_together(bench.file.baseline_of("inference"), steps))
        except SpeedUpRefused as refused:
            left_out.append(Failure(stage=REFUSED, what=named(steps), why=str(refused)))
            continue
        if same and not same_answers(tried.verdict):
            why = f"it changes the answers; {tried.verdict.reason}"
            stage = UNTOLD if tried.verdict.outcome == "inconclusive" else CHANGED
            left_out.append(Failure(stage=stage, what=named(steps), why=why))
            continue
        usable.append(Way(steps=steps, runnable=tried.runnable, measurements=moved(tried)))
    return Ways(usable=tuple(usable), left_out=tuple(left_out))


def moved(tried: Tried) -> tuple[Measurement, ...]:
    """How far the outputs moved: the largest difference and the mean divergence."""
    quality, most = tried.evidence.quality, tried.evidence.difference
    found = []
    if most is not None and most != float("inf"):
        found.append(Measurement(name="relative_difference", value=most))
    if quality is not None and quality.n:
        mean, std = float(quality.divergence.mean()), float(quality.divergence.std())
        found.append(Measurement(name="divergence", value=mean, std=std, n=quality.n))
    return tuple(found)


def _together(baseline: Sequence[Step], steps: Sequence[Step]) -> tuple[Step, ...]:
    """The baseline's own steps and the claimed ones, which take their place where both name one."""
    taken = {step.speedup for step in steps}
    return (*(step for step in baseline if step.speedup not in taken), *steps)
