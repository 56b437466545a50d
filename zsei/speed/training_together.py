"""The accepted speed-ups of training together, added one at a time, each time judged again."""

import math
from collections.abc import Sequence
from dataclasses import replace

from zsei.errors import SpeedUpRefused
from zsei.records import Failure
from zsei.speed.alone import SPENT, Alone, OutOfTime, Report, speed_of
from zsei.speed.baseline import BASELINE
from zsei.speed.explain import explain
from zsei.speed.measure import CANDIDATE, named
from zsei.speed.record import Combination, PartTime, Trial
from zsei.speed.together import Order, in_order, steps_of, why_not
from zsei.speed.training_parts import PARTS, part_seconds
from zsei.speed.training_trials import TrainingBench, TrainingTried, try_training

FINAL_ROUNDS = 21
"""Timed steps of the whole: the 90 % interval leaves out six at each end."""
SMALLER_ONLY = (
    "it saves memory and costs time, so that it is added only where memory is asked for "
    "(save_memory)"
)
_SO_FAR = "so far"


def combine_training(
    bench: TrainingBench,
    alone: Alone,
    *,
    save_memory: bool = False,
    order: Order | None = None,
    final_rounds: int = FINAL_ROUNDS,
    out_of_time: OutOfTime,
    report: Report,
) -> Combination | None:
    """Combine the best accepted variant of each speed-up, and measure what comes of it.

    Those that save time come first, the fastest before the others unless `order` says otherwise;
    one is kept when the gate accepts all so far with it and a step takes no longer with it than
    without, both timed in the same rounds. Those that save memory follow where they are asked for;
    one is kept when the gate accepts and a step needs less memory with it than without.

    Args:
        bench: Where they are tried.
        alone: What came of each by itself.
        save_memory: Whether memory is worth time.
        order: Names of speed-ups in the order to add them.
        final_rounds: Timed rounds of the whole.
        out_of_time: Whether the budget is spent; no further step is then added.
        report: Told about progress.

    Returns:
        The combination; None when there is nothing to combine.
    """
    best = _best(bench, alone)
    for_time = in_order([t for t in best if not bench.is_for_memory(t.steps)], order)
    for_memory = in_order([t for t in best if bench.is_for_memory(t.steps)], order)
    queue = [*for_time, *(for_memory if save_memory else [])]
    left = [] if save_memory else [why_not(trial, SMALLER_ONLY) for trial in for_memory]
    kept: list[Trial] = []
    so_far: Trial | None = None
    for number, trial in enumerate(queue):
        report(number / len(queue), f"{named(steps_of(kept))} with {named(trial.steps)}")
        if out_of_time():
            left.append(why_not(trial, SPENT))
            continue
        if not kept:  # the first has been measured by itself just now
            kept.append(trial)
            so_far = trial
            continue
        steps = (*steps_of(kept), *trial.steps)
        try:
            tried = try_training(bench, steps, beside={_SO_FAR: steps_of(kept)})
        except SpeedUpRefused as error:
            left.append(why_not(trial, str(error)))
            continue
        why = _not_kept(bench, trial, tried)
        if why is not None:
            left.append(why_not(trial, why))
            continue
        kept.append(trial)
        so_far = tried.trial
    return None if so_far is None else _measured(bench, alone, kept, so_far, left, final_rounds)


def _best(bench: TrainingBench, alone: Alone) -> list[Trial]:
    """The best accepted variant of each: the fastest, or the one of least memory."""
    found: dict[str, Trial] = {}
    for trial in alone.trials:
        if trial.verdict.outcome != "accepted":
            continue
        name = trial.steps[0].speedup
        merit = memory_of if bench.is_for_memory(trial.steps) else _slowness
        if name not in found or merit(trial) < merit(found[name]):
            found[name] = trial
    return sorted(found.values(), key=lambda t: (-speed_of(t), t.steps[0].speedup))


def _slowness(trial: Trial) -> float:
    return -speed_of(trial)


def memory_of(trial: Trial) -> float:
    """Bytes of a step: what stands from step to step and the peak beyond it."""
    told = {m.name: m.value for m in trial.measurements}
    return (told.get("standing_bytes") or 0) + (told.get("peak_bytes") or 0)


def _not_kept(bench: TrainingBench, trial: Trial, tried: TrainingTried) -> str | None:
    """Why a step is left out of the combination; None where it is kept."""
    if tried.trial.verdict.outcome != "accepted":
        return f"together {tried.trial.verdict.reason}"
    if bench.is_for_memory(trial.steps):
        before, after = tried.raced.bytes(_SO_FAR), tried.raced.bytes(CANDIDATE)
        return None if after < before else f"{after} bytes with it, {before} without it"
    gain = tried.raced.rounds.speed_up(CANDIDATE, _SO_FAR)
    if gain.median >= 1:
        return None
    return f"{gain.median:.3g} times as fast as without it ({gain.low:.3g} to {gain.high:.3g})"


def _measured(
    bench: TrainingBench,
    alone: Alone,
    kept: Sequence[Trial],
    so_far: Trial,
    left: list[Failure],
    rounds: int,
) -> Combination:
    """The whole once more, with more rounds, beside the product of its parts."""
    steps = steps_of(kept)
    whole = so_far
    try:
        whole = try_training(replace(bench, rounds=rounds), steps).trial
    except SpeedUpRefused as error:  # it ran a moment ago: what was measured then stands
        left.append(Failure(stage="together", what=named(steps), why=str(error)))
    product = math.prod(speed_of(trial) for trial in kept)
    times = part_seconds(bench, {BASELINE: (), CANDIDATE: steps})
    parts = tuple(
        PartTime(
            component=part,
            baseline=times[BASELINE][part],
            predicted=times[BASELINE][part] * math.prod(alone.parts[t.id][part] for t in kept),
            combined=times[CANDIDATE][part],
        )
        for part in PARTS
    )
    return Combination(
        trial=whole, order=steps, left_out=tuple(left), product=product, parts=parts,
        explanation=explain(whole, kept, product, parts, alone.parts),
    )  # fmt: skip
