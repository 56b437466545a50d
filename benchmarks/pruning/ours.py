"""The same cuts by ZSEI; `python -m benchmarks.pruning.ours PART` prints a JSON line a cut.

What ZSEI sees of a part is its model and its calibration inputs: no label, no partner. All that is
particular to its interface stands in the three functions that give a model.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from math import ceil
from typing import Any

import torch
from torch import nn

from benchmarks.pruning.costs import cost
from benchmarks.pruning.layers import STACKS
from benchmarks.pruning.parts import PARTS, SENTENCES, Part, Target, parameters
from zsei.errors import ZseiError
from zsei.pruning.allocate import allocate
from zsei.pruning.layers import without_layers
from zsei.pruning.measure import reference_of
from zsei.pruning.prune import prune, prune_settings
from zsei.pruning.records import Budget
from zsei.pruning.search import best_repair, scored
from zsei.pruning.task import Found, Task, measured
from zsei.pruning.walk import Walk, origin, walk
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import UnitKind
from zsei.surgery.apply import apply_edits

MAX_DROP = 0.1
"""1 - mean cosine that the search may spend."""


BATCH = 8
"""Sentences or images to a batch: what the way back keeps in memory."""
ASIDE = 8
"""One of so many calibration batches chooses between cuts; the others score and repair."""


def task_of(part: Part) -> Task:
    """The part's model with all its calibration inputs; the gate, which takes half, is left out."""
    model, data = part.source
    settings = Settings(samples=SENTENCES, batch_size=BATCH, length=128)
    subject = prepare(model, data, settings=settings)
    batches = (*subject.calibration, *subject.held_out)
    aside = max(1, len(batches) // ASIDE)
    return Task(
        subject=subject, fit=batches[:-aside], choose=reference_of(subject, batches[-aside:]),
        kinds=("heads", "neurons", "channels"), settings=settings,
    )  # fmt: skip


def cut(task: Task, part: Part, target: Target) -> nn.Module:
    """Heads, neurons or channels cut until a target is reached."""
    if target.heads is not None and target.neurons is not None:
        return _model(task, _prescribed(task, target.heads, target.neurons))
    share = 1 - target.parameters / parameters(part.model)
    way = Walk(
        task=task, budget=Budget(parameters=share), found=[origin(task)],
        keep=lambda point: None, progress=lambda share, note: None,
    )  # fmt: skip
    walk(way)
    return _model(task, way.last)


def _prescribed(task: Task, heads: float, neurons: float) -> Found:
    """These shares of all heads and neurons, wherever they cost least."""
    curves, _ = scored(task, (), task.original, lambda share: None)
    totals = {"head": 0, "neuron": 0}
    for curve in curves:
        totals[curve.place.left.site.kind] += curve.place.left.site.units
    counts: dict[UnitKind, int] = {
        "head": round(heads * totals["head"]), "neuron": ceil(neurons * totals["neuron"])
    }  # fmt: skip
    chosen = allocate(curves, 0.0, "parameters", counts=counts)
    found = measured(task, chosen.edits, number=1, variant="prescribed", predicted=chosen.cost)
    assert found is not None
    return best_repair(task, found, lambda share, note: None)


def fewer_layers(task: Task, part: Part, count: int) -> nn.Module:
    """So many layers fewer."""
    del part
    found = without_layers(task, count)
    if found is None:
        raise RuntimeError("No layer can go.")
    return _model(task, found)


def search(part: Part, max_drop: float) -> nn.Module:
    """What `zsei prune --max-drop` finds, its gate included."""
    model, data = part.source
    pruned = prune(
        model, data, budget=Budget(max_drop=max_drop),
        settings=prune_settings(samples=SENTENCES, batch_size=32),
    )  # fmt: skip
    if pruned.edited is None:
        raise RuntimeError(f"The gate accepted nothing: {' '.join(pruned.record.notes)}")
    return pruned.edited.model


def _model(task: Task, found: Found) -> nn.Module:
    if found.cut is None:
        raise RuntimeError("Nothing can go.")
    return apply_edits(task.subject, found.edits, None, found.cut.weights).model


def judged(part: Part, model: nn.Module, target: Target | None = None) -> dict[str, Any]:
    """All figures of one model, under the names the peers' lines have."""
    line = {"removed": parameters(part.model) - parameters(model), **part.quality(model)}
    if part.full_quality and (target is None or target.heads is not None):
        line |= part.full_quality(model)
    found = cost(part, model)
    return line | asdict(found) | {"realised": found.realised}


def main() -> None:
    """Print a line for each cut of a part: `cut`, `layers` or `search`."""
    torch.set_num_threads(1)
    part, what = PARTS[sys.argv[1]](), sys.argv[2]
    if what == "search":
        _print(part, "search", None, lambda: search(part, MAX_DROP))
        return
    begin = time.process_time()
    task = task_of(part)
    preparing = time.process_time() - begin
    if what == "cut":
        for target in part.targets:
            make = partial(cut, task, part, target)
            _print(part, target.name, target, make, preparing)
    elif part.name in STACKS:
        for count in (1, 2, 3):
            _print(part, str(count), None, partial(fewer_layers, task, part, count), preparing)


def _print(
    part: Part, name: str, target: Target | None, make: Callable[[], nn.Module],
    preparing: float = 0.0,
) -> None:  # fmt: skip
    """A line of figures; seconds are CPU time, memory is the peak before the judging."""
    resting, start = _resident(), time.process_time()
    try:
        model = make()
    except (ZseiError, RuntimeError) as error:
        print(json.dumps({"target": name, "error": f"{error}"}), flush=True)
        return
    found = {"target": name, "seconds": time.process_time() - start, "preparing": preparing}
    found |= {"resting_mb": resting, "peak_mb": _resident()}
    print(json.dumps(found | judged(part, model, target)), flush=True)


def _resident() -> float:
    """Largest resident memory so far, MB (ru_maxrss is in kibibytes on Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
