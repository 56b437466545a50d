"""The search: step by step to smaller models, each step scored anew on the one before it.

A step scores every place of the current model, takes the cheapest units for what they save, repairs
what is left, and measures. Several allocations compete at each step; the one that measures best is
kept. What units cost changes as others go: that is why there are steps.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from zsei.errors import SurgeryRefused
from zsei.pruning.allocate import Saving, allocate, joined
from zsei.pruning.cut import REPAIRS
from zsei.pruning.evidence import gather
from zsei.pruning.experts import expert_curves
from zsei.pruning.layers import layer_options
from zsei.pruning.order import Curve, removal_curve
from zsei.pruning.places import find_places, sites_left
from zsei.pruning.records import PruneKind
from zsei.pruning.task import Found, Task, measured
from zsei.subject.program import Program
from zsei.subject.types import UnitKind
from zsei.surgery.calls import tensor_of
from zsei.surgery.edits import Edit, RemoveUnits, stands_inside
from zsei.surgery.program_form import plan_edits

KINDS: dict[PruneKind, UnitKind] = {"heads": "head", "neurons": "neuron", "channels": "channel"}
VARIANTS: dict[str, dict[UnitKind, float]] = {
    "as predicted": {},
    "heads dearer": {"head": 2.0},
    "heads cheaper": {"head": 0.5},
}
"""Allocations that compete: what a kind's predicted costs are multiplied by."""
PART = 3
"""One of so many batches repairs the allocations that are only compared."""
DRAWS = 2
"""Random directions of the output per batch; the sums run over hundreds of samples."""


def scored(
    task: Task, edits: Sequence[Edit], program: Program, progress: Callable[[float], None]
) -> tuple[list[Curve], dict[str, str]]:
    """The removal curve of every place of a program, and why others cannot be cut."""
    units = [edit for edit in edits if isinstance(edit, RemoveUnits)]
    wanted = {KINDS[kind] for kind in task.kinds if kind in KINDS}
    left = [own for own in sites_left(task.subject.anatomy, units) if own.site.kind in wanted]
    places, refused = find_places(program, left, task.settings, task.spared)
    curves: list[Curve] = []
    if "experts" in task.kinds:
        curves, others = expert_curves(task, edits)
        refused |= others
    if not places:
        return curves, refused
    evidence = gather(
        program, task.subject.objective, places, task.fit, draws=DRAWS, seed=task.settings.seed,
        progress=progress,
    )  # fmt: skip
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    for place in places:
        own = evidence.pop(0)  # its sums are large, and nobody needs them afterwards
        weights = []
        for reader in place.readers:
            weight = tensor_of(program.graph_module, nodes[reader.weight_node]).detach()
            weights.append(weight.T if reader.transposed else weight.flatten(1))
        curves.append(removal_curve(place, own, weights))
    return curves, refused


def step(
    task: Task,
    before: Found,
    curves: Sequence[Curve],
    goal: float,
    saving: Saving,
    number: int,
    progress: Callable[[float, str], None],
) -> Found | None:
    """The best of several cuts that save the share `goal`, going on from `before`.

    Args:
        task: What is searched.
        before: The cut to go on from.
        curves: What `scored` says of it.
        goal: Share of the original to save.
        saving: Of what.
        number: Of the step.
        progress: Called with the share done and what is being done.

    Returns:
        None when nothing more can go.
    """
    best: Found | None = None
    tried: set[frozenset[Edit]] = set()
    options = list(_options(task, before, curves, goal, saving))
    # Where there is much to fit on, a part of it tells one allocation from another.
    some = replace(task, fit=task.fit[::PART]) if len(task.fit) >= 3 * PART else task
    for place, (variant, edits, predicted) in enumerate(options):
        progress(0.8 * place / len(options), f"repairing: {variant}")
        key = frozenset(edits)
        if key in tried or not edits or key == frozenset(before.edits):
            continue
        tried.add(key)
        total = before.point.predicted + predicted
        found = measured(some, edits, number=number, variant=variant, predicted=total)
        best = _better(best, found)
        del found
    if best is not None and some is not task:
        point = best.point
        progress(0.9, f"repairing: {point.variant}")
        best = measured(
            task, best.edits, number=number, variant=point.variant, predicted=point.predicted
        ) or best  # fmt: skip
    return best


def best_repair(task: Task, found: Found, progress: Callable[[float, str], None]) -> Found:
    """The same cut with the repair that measures best."""
    best = found
    for place, repair in enumerate(name for name in REPAIRS if name != found.point.repair):
        progress(place / len(REPAIRS), f"repair: {repair}")
        other = measured(
            task, found.edits, number=found.point.number, variant=found.point.variant,
            predicted=found.point.predicted, repair=repair,
        )  # fmt: skip
        best = _better(best, other) or best
    return best


def _better(best: Found | None, other: Found | None) -> Found | None:
    """The one that measures better; the other's weights are forgotten at once."""
    if best is None or other is None:
        return best or other
    return other if other.point.loss < best.point.loss else best


def foreseen(
    task: Task, curves: Sequence[Curve], goal: float, saving: Saving
) -> tuple[tuple[Edit, ...], float, float]:
    """(what would go to save the share `goal`, divergence predicted for it, share it saves).

    Nothing is cut, repaired or measured: units as the first scoring of the original ranks them, and
    no whole layers, which only measuring can choose. The goal may lie beyond what can go.
    """
    edits, predicted = _until(task, (), curves, goal, 0.0, saving)
    return edits, predicted, _saved(task, edits, saving)


def _options(
    task: Task, before: Found, curves: Sequence[Curve], goal: float, saving: Saving
) -> Iterator[tuple[str, tuple[Edit, ...], float]]:
    """(variant, all edits since the original, predicted cost of the new ones)."""
    edits = before.edits
    done = _saved(task, edits, saving)
    kinds = {curve.place.left.site.kind for curve in curves}
    for name, dearer in VARIANTS.items():
        if dearer and (len(kinds) < 2 or "head" not in kinds):
            continue
        yield name, *_until(task, edits, [_priced(c, dearer) for c in curves], goal, done, saving)
    for name, with_layer in layer_options(task, edits):
        component = with_layer[-1].site.component
        rest = [c for c in curves if not stands_inside(c.place.left.site.component, component)]
        try:
            saved = _saved(task, with_layer, saving)
        except SurgeryRefused:
            continue
        if saved < 1.1 * goal:
            yield name, *_until(task, with_layer, rest, goal, saved, saving)


def _until(
    task: Task, edits: Sequence[Edit], curves: Sequence[Curve], goal: float, done: float,
    saving: Saving,
) -> tuple[tuple[Edit, ...], float]:  # fmt: skip
    """Units taken along the curves until the plan of all edits saves the goal."""
    total = task.cost.parameters if saving == "parameters" else 1.0
    units = [edit for edit in edits if isinstance(edit, RemoveUnits)]
    layers = [edit for edit in edits if not isinstance(edit, RemoveUnits)]
    wanted = (goal - done) * total
    if wanted <= 0:
        return tuple(edits), 0.0
    whole: tuple[Edit, ...] = tuple(edits)
    cost = 0.0
    for _ in range(4):
        # Places that share weights save less together than each alone: ask for more, and look.
        chosen = allocate(curves, wanted, saving)
        whole = (*joined(units, chosen.edits), *layers)
        cost = chosen.cost
        try:
            short = goal - _saved(task, whole, saving)
        except SurgeryRefused:
            return tuple(edits), 0.0
        if short <= 1e-9:
            break
        wanted += short * total
    return whole, cost


def _saved(task: Task, edits: Sequence[Edit], saving: Saving) -> float:
    if not edits:
        return 0.0
    plan = plan_edits(task.original, edits)
    if saving == "flops":
        return plan.flops_removed_share
    return plan.parameters_removed / max(task.cost.parameters, 1)


def _priced(curve: Curve, dearer: dict[UnitKind, float]) -> Curve:
    factor = dearer.get(curve.place.left.site.kind, 1.0)
    return replace(curve, costs=tuple(cost * factor for cost in curve.costs))
