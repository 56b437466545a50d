"""Whether an edit left alone what it does not name: calls outside of it are all still there."""

from collections import Counter
from collections.abc import Collection, Iterable

from torch import fx

from zsei.gate.cost import live_nodes
from zsei.subject.program import Program
from zsei.subject.reading import LAYOUT, operation, owner, shape, value
from zsei.subject.types import Anatomy
from zsei.surgery.edits import Edit

_Key = tuple[str, int, str]
"""(module path, which call of it, operation)."""


def same_output(original: Program, edited: Program) -> bool:
    """Whether both programs return one tensor of one shape and type, by their nodes' shapes."""
    outputs = [list(p.graph_module.graph.nodes)[-1].all_input_nodes for p in (original, edited)]
    if any(len(nodes) != 1 for nodes in outputs):
        return False
    before, after = (nodes[0] for nodes in outputs)
    was, now = value(before), value(after)
    if was is None or now is None:
        return False
    return shape(before) == shape(after) and was.dtype == now.dtype


def edited_components(edits: Iterable[Edit], anatomy: Anatomy) -> frozenset[str]:
    """Components the edits may change: those of their sites and all that stands inside them.

    Read off the edits, never off a proposal's list of components: naming more excuses nothing.
    """
    found = {edit.site.component for edit in edits}
    for edit in edits:
        if edit.site.kind == "branch":
            # A branch that goes takes along the join that added it.
            found.update(_joins(anatomy, edit.site.component))
    parents = {component.id: component.parent for component in anatomy.components}
    inside = set(found)
    for component in parents:
        above: str | None = component
        while above is not None and above not in found:
            above = parents.get(above)
        if above is not None:
            inside.add(component)
    return frozenset(inside)


def _joins(anatomy: Anatomy, branch: str) -> set[str]:
    """Residual joins beside a branch: those of the same layer."""
    layer = anatomy.component(branch).layer
    return {c.id for c in anatomy.components if c.kind == "residual" and c.layer == layer}


def lost_calls(
    original: Program, edited: Program, anatomy: Anatomy, excused: Collection[str]
) -> tuple[str, ...]:
    """Components outside the edit that lost a call, in program order.

    A call is known by its module, by which call of that module it is in, and by its operation; it
    counts as long as the output is computed from it. Calls that only change the layout may come
    and go.

    Args:
        original: The original program.
        edited: The edited one.
        anatomy: The original's anatomy.
        excused: Components the edit may change (`edited_components`).
    """
    before = {node.name: node for node in live_nodes(original) if _counts(node)}
    after = {node.name: node for node in live_nodes(edited) if _counts(node)}
    free = {name for component in excused for name in anatomy.nodes.get(component, ())}
    needed: dict[str, list[str]] = {}
    for component in anatomy.components:
        if component.id not in excused and component.kind != "output":
            for name in anatomy.nodes.get(component.id, ()):
                if name in before and name not in free:
                    needed.setdefault(name, []).append(component.id)
    # First by name, which edits keep; what is not found so may have been renamed.
    gone = [n for n in needed if n not in after or _key(after[n]) != _key(before[n])]
    missing = set(gone)
    taken = free | (needed.keys() - missing)
    spare = Counter(_key(node) for name, node in after.items() if name not in taken)
    lost: set[str] = set()
    for name in gone:
        key = _key(before[name])
        if spare[key]:
            spare[key] -= 1
        else:
            lost.update(needed[name])
    return tuple(c.id for c in anatomy.components if c.id in lost)


def _counts(node: fx.Node) -> bool:
    return node.op == "call_function" and operation(node) not in LAYOUT


def _key(node: fx.Node) -> _Key:
    place = owner(node)
    return place.path, place.call, operation(node)
