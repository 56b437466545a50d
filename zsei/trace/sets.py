"""Exact ablation of many sets of units: what sets share is run once.

Sets that begin with the same units share the run up to where they part, the clean run being the
beginning of all. For 200 paths through MiniLM that saves a fifth of whole runs, and half where the
sets are single parts. Every output equals that of a whole run (`Engine.together`) to the bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from zsei.subject.objective import Objective, divergence, readout
from zsei.subject.types import Batch, Replacement
from zsei.trace.ablation import ReplacementName, Target, replacements_of
from zsei.trace.engine import Engine, replaced
from zsei.trace.interpreter import ProgramEngine, Values, call, drop
from zsei.trace.parallel import each

Waiting = tuple[int, tuple[tuple[str, tuple[Replacement, ...]], ...]]
"""Index of a set, and what is still to be replaced: (node, replacements there) in program order."""


def ablate_sets(
    engine: Engine,
    objective: Objective,
    batch: Batch,
    sets: Sequence[Sequence[Target]],
    *,
    means: Mapping[tuple[str, str], Tensor],
    replacement: ReplacementName = "mean",
    seed: int = 0,
) -> list[Tensor]:
    """Divergence per sample [n] for each set, all targets of a set ablated at once.

    Args:
        engine: Runs the model.
        objective: Gives the divergence.
        batch: The samples.
        sets: What to ablate together; no layers, whose bypass depends on what enters them.
        means: Mean value per (component, kind), used by "mean".
        replacement: What stands in: the mean, zero, or the value of another sample of the batch.
        seed: Orders the other samples for "resample".
    """
    targets = {_key(t): t for members in sets for t in members}
    made = replacements_of(
        engine, batch, list(targets.values()), means=means, replacement=replacement, seed=seed
    )
    known = dict(zip(targets, made, strict=True))
    # The empty set is the clean run, which all the others begin with.
    wanted = [[], *([known[_key(t)] for t in members] for members in sets)]

    def part(numbers: Sequence[int]) -> dict[int, Tensor]:
        swept = _sweep(engine, batch, [wanted[i] for i in numbers])
        return {numbers[i]: readout(objective, output, batch) for i, output in swept}

    outputs: dict[int, Tensor] = {}
    for found in each(part, _parts(wanted, torch.get_num_threads()), engine.concurrent):
        outputs |= found
    with torch.no_grad():
        clean = outputs[0]
        return [divergence(objective, outputs[i], clean, batch) for i in range(1, len(wanted))]


def _parts(sets: Sequence[Sequence[Replacement]], count: int) -> list[list[int]]:
    """Numbers of the sets, shared out so that those that begin alike stay together."""
    alike: dict[str, list[int]] = {}
    for number, members in enumerate(sets):
        alike.setdefault(members[0].site.node if members else "", []).append(number)
    parts: list[list[int]] = [[] for _ in range(count)]
    for numbers in sorted(alike.values(), key=len, reverse=True):
        min(parts, key=len).extend(numbers)
    return [part for part in parts if part]


def _key(target: Target) -> tuple[str, str, tuple[int, ...]]:
    return target.site.component, target.site.kind, target.units


def _sweep(
    engine: Engine, batch: Batch, sets: Sequence[Sequence[Replacement]]
) -> Iterator[tuple[int, Tensor]]:
    """(index of the set, output under it) for each."""
    if type(engine) is not ProgramEngine:
        for index, members in enumerate(sets):
            yield index, engine.together(batch, members)
        return
    waiting: list[Waiting] = []
    for index, members in enumerate(sets):
        ordered = sorted(members, key=lambda r: engine.position[r.site.node])
        there = groupby(ordered, key=lambda r: r.site.node)
        waiting.append((index, tuple((node, tuple(group)) for node, group in there)))
    yield from _walk(engine, engine.start(batch, None), 0, waiting)


def _walk(
    engine: ProgramEngine, values: Values, start: int, waiting: list[Waiting]
) -> Iterator[tuple[int, Tensor]]:
    """Run on from `start` for all sets that have had the same replacements so far."""
    for number in range(start, len(engine.steps)):
        step = engine.steps[number]
        value = values[step.name] = call(step, values)
        parting: dict[tuple[int, ...], list[Waiting]] = {}
        for index, left in waiting:
            if left and left[0][0] == step.name:
                same = tuple(id(replacement) for replacement in left[0][1])
                parting.setdefault(same, []).append((index, left))
        for members in parting.values():
            edited = value
            for replacement in members[0][1][0][1]:
                edited = replaced(edited, replacement, None)
            branch = {**values, step.name: edited}
            drop(branch, step.drops)
            rest = [(index, left[1:]) for index, left in members]
            yield from _walk(engine, branch, number + 1, rest)
        if parting:
            waiting = [w for w in waiting if not (w[1] and w[1][0][0] == step.name)]
            if not waiting:
                return
        drop(values, step.drops)
    for index, _ in waiting:
        yield index, values[engine.output]
