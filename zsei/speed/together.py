"""The accepted speed-ups together, added one at a time, each time judged and raced again."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from zsei.errors import SpeedUpRefused
from zsei.gate.speed import same_answers
from zsei.records import Failure
from zsei.speed.alone import SPENT, Alone, OutOfTime, Report, speed_of
from zsei.speed.baseline import BASELINE
from zsei.speed.explain import explain
from zsei.speed.measure import CANDIDATE, Bench, Tried, attempt, named
from zsei.speed.parts import PartTimes, part_times
from zsei.speed.record import Combination, PartTime, Trial
from zsei.speed.state import undisturbed
from zsei.speedups import Step
from zsei.timing.interval import Interval

FINAL_ROUNDS = 21
"""Timed rounds of the whole: the 90 % interval leaves out six at each end."""
BRANCHES = 3
"""Starts at most; each after the first begins with an alternative that no branch could keep."""
_SO_FAR = "so far"

Order = Callable[[Sequence[Trial]], Sequence[str]]
"""From the accepted trials to names of speed-ups in the order in which they are added."""


@dataclass(kw_only=True)
class _Branch:
    """A combination that grows."""

    kept: list[Trial]
    tried: Tried
    left_out: list[Failure] = field(default_factory=list)
    barred: list[Trial] = field(default_factory=list)
    """Steps that cannot stand beside the kept ones, however fast they are: alternatives."""
    beside: Interval | None = None
    """How many times as fast as the fastest branch, in the same rounds."""


def combine(
    bench: Bench,
    alone: Alone,
    *,
    order: Order | None = None,
    final_rounds: int = FINAL_ROUNDS,
    out_of_time: OutOfTime,
    report: Report,
) -> Combination | None:
    """Combine the best accepted variant of each speed-up, and measure what comes of it.

    A step is kept when the gate accepts all steps so far with it, and it is not slower with it
    than without, both raced in the same rounds. What cannot be combined with the steps kept
    (refused, or outside a bound together) starts a branch of its own. The branch that is fastest
    in one race of them all is measured again with more rounds, and loses its last steps until that
    accepts it.

    Args:
        bench: Where steps are tried.
        alone: What came of each by itself.
        order: Names of speed-ups in the order to add them; None, and names it leaves out, follow
            the measured speed-up.
        final_rounds: Timed rounds of the whole.
        out_of_time: Whether the budget is spent; no further step is then added.
        report: Told about progress.

    Returns:
        The combination; None when nothing was accepted alone, or nothing runs any more.
    """
    queue = in_order(alone.best(), order)
    if not queue:
        return None
    branches: list[_Branch] = []
    start: Trial | None = queue[0]
    while start is not None and len(branches) < BRANCHES:
        begun = len(branches) / BRANCHES

        def told(share: float, note: str, begun: float = begun) -> None:
            report(begun + share / BRANCHES, note)

        branch = _grown(bench, start, queue, out_of_time, told)
        if branch is not None:
            branches.append(branch)
        tried = {t.id for b in branches for t in b.kept} | {start.id}
        start = next((t for b in branches for t in b.barred if t.id not in tried), None)
        if out_of_time():
            break
    if not branches:
        return None
    return _measured(bench, alone, _fastest(bench, branches), branches, final_rounds)


def _fastest(bench: Bench, branches: Sequence[_Branch]) -> _Branch:
    """The fastest in one race of them all: each was measured at a time of its own.

    What the others came to beside it is left with them.
    """
    if len(branches) == 1:
        return branches[0]
    sides = {str(number): branch.tried.runnable for number, branch in enumerate(branches)}
    try:
        with undisturbed():
            rounds = bench.race(bench.workload, sides, rounds=bench.rounds, budget=bench.seconds)
    except Exception:  # what was measured before stands
        return max(branches, key=lambda branch: speed_of(branch.tried.trial))
    first = min(range(len(branches)), key=lambda n: rounds.time(str(n)).median)
    for number, branch in enumerate(branches):
        branch.beside = rounds.speed_up(str(number), str(first))
    return branches[first]


def in_order(best: Sequence[Trial], order: Order | None) -> list[Trial]:
    """Those that are named first, then the others as they come."""
    if order is None:
        return list(best)
    by_name = {trial.steps[0].speedup: trial for trial in best}
    first = [by_name[name] for name in dict.fromkeys(order(best)) if name in by_name]
    return [*first, *(trial for trial in best if trial not in first)]


def _grown(
    bench: Bench, start: Trial, queue: Sequence[Trial], out_of_time: OutOfTime, report: Report
) -> _Branch | None:
    """A branch from one step through all others; None when the step itself runs no more."""
    try:
        branch = _Branch(kept=[start], tried=attempt(bench, start.steps))
    except SpeedUpRefused:
        return None
    others = [trial for trial in queue if trial is not start]
    for number, trial in enumerate(others):
        report(number / len(others), f"{named(steps_of(branch.kept))} with {named(trial.steps)}")
        if out_of_time():
            branch.left_out.append(why_not(trial, SPENT))
            continue
        _add(bench, branch, trial)
    return branch


def _add(bench: Bench, branch: _Branch, trial: Trial) -> None:
    """Keep one more step, or leave it out with what was measured."""
    steps = (*steps_of(branch.kept), *trial.steps)
    try:
        tried = attempt(bench, steps, beside={_SO_FAR: branch.tried.runnable})
    except SpeedUpRefused as error:
        branch.left_out.append(why_not(trial, str(error)))
        branch.barred.append(trial)
        return
    if tried.trial.verdict.outcome != "accepted" or tried.rounds is None:
        branch.left_out.append(why_not(trial, f"together {tried.trial.verdict.reason}"))
        if not same_answers(tried.trial.verdict):
            branch.barred.append(trial)
        return
    gain = tried.rounds.speed_up(CANDIDATE, _SO_FAR)
    if gain.median < 1:
        told = f"{gain.median:.3g} times as fast as without it ({gain.low:.3g} to {gain.high:.3g})"
        branch.left_out.append(why_not(trial, told))
        return
    branch.kept.append(trial)
    branch.tried = tried


def _measured(
    bench: Bench, alone: Alone, fastest: _Branch, branches: Sequence[_Branch], rounds: int
) -> Combination:
    """The whole once more, with more rounds, beside the product of its parts."""
    whole = _confirmed(replace(bench, rounds=rounds), fastest)
    product = math.prod(speed_of(trial) for trial in fastest.kept)
    parts = _parts(bench, alone, fastest.kept, whole)
    others = [b for b in branches if b is not fastest]
    left = [f.model_copy(update={"why": _beside(f, others)}) for f in fastest.left_out]
    return Combination(
        trial=whole.trial,
        order=steps_of(fastest.kept),
        left_out=tuple(left),
        product=product,
        parts=parts,
        explanation=explain(whole.trial, fastest.kept, product, parts, alone.parts),
    )


def _confirmed(bench: Bench, branch: _Branch) -> Tried:
    """The branch measured again; while that does not accept it, without the step added last."""
    while True:
        steps = steps_of(branch.kept)
        try:
            whole = attempt(bench, steps)
        except SpeedUpRefused as error:  # it ran a moment ago: what was measured then stands
            branch.left_out.append(Failure(stage="together", what=named(steps), why=str(error)))
            return branch.tried
        if whole.trial.verdict.outcome == "accepted" or len(branch.kept) == 1:
            return whole
        last = branch.kept.pop()
        why = f"with more rounds, together {whole.trial.verdict.reason}"
        branch.left_out.append(why_not(last, why))


def _beside(failure: Failure, others: Sequence[_Branch]) -> str:
    """Why a step was left out, and how the branch that kept it did beside the fastest."""
    for branch in others:
        if any(named(trial.steps) == failure.what for trial in branch.kept):
            told = "could not be raced against the steps that were kept"
            if (found := branch.beside) is not None:
                told = (
                    f"{found.median:.3g} times as fast as the steps that were kept "
                    f"({found.low:.3g} to {found.high:.3g})"
                )
            kept = named(steps_of(branch.kept))
            return f"{failure.why.rstrip('.')}; {kept} were tried in its place: {told}"
    return failure.why


def _parts(
    bench: Bench, alone: Alone, kept: Sequence[Trial], whole: Tried
) -> tuple[PartTime, ...]:  # fmt: skip
    """Where the time went and goes, part by part."""
    sides = {BASELINE: bench.baseline.runnable, CANDIDATE: whole.runnable}
    try:
        with undisturbed():
            times = part_times(bench.workload, sides)
    except Exception:
        return ()  # the explanation then rests on the whole alone
    before, after = times[BASELINE], times[CANDIDATE]
    if before is None:
        return ()
    return tuple(
        PartTime(
            component=part,
            baseline=seconds,
            predicted=seconds * math.prod(_ratio(alone.parts.get(t.id), t, part) for t in kept),
            combined=None if after is None else after.get(part, 0.0),
        )
        for part, seconds in sorted(before.items(), key=lambda item: -item[1])
    )


def _ratio(parts: PartTimes | None, trial: Trial, part: str) -> float:
    """Time with a step / without it on one part; of an opaque step, on the whole."""
    if parts is not None and part in parts:
        return parts[part]
    return 1 / speed_of(trial)


def steps_of(trials: Sequence[Trial]) -> tuple[Step, ...]:
    """The steps of all."""
    return tuple(step for trial in trials for step in trial.steps)


def why_not(trial: Trial, why: str) -> Failure:
    """Why a trial is not in the combination."""
    return Failure(stage="together", what=named(trial.steps), why=why)
