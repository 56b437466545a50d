"""Proves that what goes was zero wherever it is read, once the units of a site are held at zero.

A dependency group says what must be cut together so that shapes fit. That alone does not say that
the smaller model computes what the original computes with the units held at zero: a second reader
further up may have seen them while they were not zero yet (squeeze-and-excitation, a convolution
beside an attention). So zeros are followed from the sites forward, and every product that sums
over removed entries must have a factor that is zero there.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, fx

from zsei.subject.channels import keeps_zero
from zsei.subject.reading import ATTENTION, CONV, EXPERTS, operation, places, shape
from zsei.surgery.axes import call_axes
from zsei.surgery.calls import arguments, refuse, results
from zsei.surgery.labels import Label, Labels
from zsei.surgery.layout import layout_axes
from zsei.surgery.search import factors

Removed = Mapping[fx.Node, Mapping[int, Tensor]]
Zeros = dict[fx.Node, set[int]]
"""Value -> axes along which all that goes is zero."""

PRODUCTS = CONV | ATTENTION | EXPERTS | {
    "linear", "addmm", "matmul", "mm", "bmm", "baddbmm", "einsum", "dot", "mv",
}  # fmt: skip
ADDS = {"addmm", "baddbmm"}
KEEPS = {
    "mean", "sum", "amax", "amin", "max", "min", "cumsum", "index", "index_select", "gather",
    "tril", "triu", "linalg_vector_norm", "norm", "topk", "sort", "flip", "roll", "prod",
}  # fmt: skip
"""Calls along other axes that give zero where they read zero."""


def prove_zero(
    nodes: Iterable[fx.Node], removed: Removed, sites: Iterable[tuple[fx.Node, int]]
) -> None:
    """Check that no product sums over removed entries that are not zero.

    Args:
        nodes: All nodes, in program order.
        removed: What goes of each value, as a mask per axis.
        sites: (value, axis) where the units are held at zero.

    Raises:
        SurgeryRefused: Naming the product that reads what is not zero, and the operand.
    """
    nodes, sites = list(nodes), tuple(sites)
    zeros: Zeros = {}
    for node, axis in (*sites, *_counterparts(nodes, sites)):
        if axis in removed.get(node, {}):
            zeros.setdefault(node, set()).add(axis)
    for node in nodes:
        if node.op != "call_function":
            continue
        for result in results(node).values():
            for axis in removed.get(result, {}):
                if axis not in zeros.get(result, ()) and _zero(node, result, axis, removed, zeros):
                    zeros.setdefault(result, set()).add(axis)
        if operation(node) in PRODUCTS:
            _check(node, removed, zeros)


def _counterparts(
    nodes: list[fx.Node], sites: Iterable[tuple[fx.Node, int]]
) -> Iterable[tuple[fx.Node, int]]:
    """The same values in the other calls of a shared module, whose weights go with them."""
    for node, axis in sites:
        for depth, place in enumerate(places(node)):
            calls: dict[int, list[fx.Node]] = {}
            for other in nodes:
                stack = places(other)
                if len(stack) > depth and stack[depth].path == place.path:
                    calls.setdefault(stack[depth].call, []).append(other)
            if len(calls) < 2:
                continue
            at = calls[place.call].index(node)
            for own in calls.values():
                if len(own) == len(calls[place.call]) and shape(own[at]) == shape(node):
                    yield own[at], axis
            break


def _check(call: fx.Node, removed: Removed, zeros: Zeros) -> None:
    """Every label a product sums over needs one operand that is zero along it."""
    axes = call_axes(call)
    if axes is None:
        return
    given = set(results(call).values())
    kept = {name for value, labels in axes.values if value in given for name in _names(labels)}
    summed: dict[str, list[tuple[fx.Node, int]]] = {}
    for value, labels in axes.values:
        for axis, label in enumerate(labels):
            mask = removed.get(value, {}).get(axis)
            if value in given or mask is None:
                continue
            cut = factors(call, mask, label) if isinstance(label, tuple) else _names((label,))
            for name in set(cut) - kept:
                summed.setdefault(name, []).append((value, axis))
    for places_ in summed.values():
        if any(axis in zeros.get(value, ()) for value, axis in places_):
            continue
        value = next((v for v, _ in places_ if v.op == "call_function"), places_[0][0])
        raise refuse(
            call,
            f"also reads the removed entries of `{value.name}`, where they are not zero yet: "
            f"cutting them would change more than the units. Remove units at a value that all its "
            f"readers read.",
        )


def _names(labels: Labels) -> set[str]:
    found: set[str] = set()
    for label in labels:
        if isinstance(label, str):
            found.add(label)
        elif isinstance(label, tuple):
            found |= {name for name, _ in label if name is not None}
    return found


def _zero(call: fx.Node, result: fx.Node, axis: int, removed: Removed, zeros: Zeros) -> bool:
    """Whether what goes of a result along an axis is zero, by what is known of the operands."""
    related = _related(call, result, axis, removed)
    zero = {value for value, i in related if i in zeros.get(value, ())}
    every = bool(related) and all(value in zero for value, _ in related)
    name = operation(call)
    if name in ("zeros", "zeros_like", "new_zeros"):
        return True
    if layout_axes(call) is not None:
        return every
    if name in PRODUCTS:
        return _product_is_zero(call, zero)
    if name == "mul":
        return bool(zero)
    if name == "div":
        return call.args[0] in zero
    if name in ("add", "sub"):
        return zero.issuperset(call.args[:2])
    if name == "pow":
        exponent = call.args[1]
        return every and isinstance(exponent, int | float) and exponent > 0
    if name == "masked_fill":
        return call.args[0] in zero and not arguments(call)["value"]
    if name in KEEPS:
        return call.args[0] in zero
    return every and keeps_zero(call)


def _product_is_zero(call: fx.Node, zero: set[fx.Node]) -> bool:
    """A product is zero where a factor is, if nothing is added; attention only mixes values."""
    if operation(call) in ATTENTION:
        return call.args[2] in zero
    given = arguments(call)
    added = given.get("bias", given.get("self") if operation(call) in ADDS else None)
    return bool(zero - {added}) and (added is None or added in zero)


def _related(
    call: fx.Node, result: fx.Node, axis: int, removed: Removed
) -> list[tuple[fx.Node, int]]:
    """Operands' cut axes that an axis of the result is made of."""
    axes = layout_axes(call) or call_axes(call)
    if axes is None:
        return []
    by_value: dict[fx.Node, Labels] = dict(axes.values)
    label: Label = by_value[result][axis] if result in by_value else None
    own = _names((label,))
    linked = {link.source for link in axes.links if link.target == (result, axis)}
    linked |= {link.target for link in axes.links if link.source == (result, axis)}
    given = set(results(call).values())
    return [
        (value, i)
        for value, labels in axes.values
        if value not in given
        for i, other in enumerate(labels)
        if i in removed.get(value, {}) and (own & _names((other,)) or (value, i) in linked)
    ]
