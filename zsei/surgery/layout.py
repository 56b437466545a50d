"""Axes of the calls that only move entries: views, transposes, splits, joins, repetitions.

A reshape keeps entries in row-major order, so both shapes are products over the same run of
factors: [16, 384] seen as [2, 8, 12, 32] has the boundaries 2, 16, 192, 6144 on one side and
16, 6144 on the other; where every boundary divides the next, the factors between them (2, 8, 12,
32) are axes that both sides share, merged on one of them.
"""

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import torch
from torch import fx

from zsei.subject.reading import operation, shape
from zsei.surgery.calls import arguments, results
from zsei.surgery.labels import CallAxes, Label, Labels, Link, named, tensors


def layout_axes(node: fx.Node) -> CallAxes | None:
    """The axes of a call that only moves entries; None for any other call."""
    rule = LAYOUTS.get(operation(node))
    return rule(node, arguments(node)) if rule is not None else None


def _source(arg: Mapping[str, Any]) -> fx.Node:
    source = arg.get("self", arg.get("input"))
    assert isinstance(source, fx.Node)
    return source


def reshape_labels(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[Labels, Labels]:
    """Labels of both sides of a reshape by common factors; None where there are none."""
    ends = sorted({1, *accumulate(before, mul), *accumulate(after, mul)})
    steps = list(pairwise(ends))
    sides = [_steps(side, steps) for side in (before, after)]
    mixed = {step for step in steps if step[1] % step[0]}
    while True:
        # An axis that holds a stretch without common factor cannot be told apart: all of it is out.
        spread = {s for side in sides for axis in side if mixed & set(axis) for s in axis}
        if spread <= mixed:
            break
        mixed |= spread
    first, second = (_merged(side, mixed) for side in sides)
    return first, second


def _steps(sizes: tuple[int, ...], steps: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """For each axis the stretches between neighbouring boundaries that it covers."""
    found, low = [], 1
    for size in sizes:
        high = low * size
        found.append([s for s in steps if low <= s[0] and s[1] <= high])
        low = high
    return found


def _merged(side: list[list[tuple[int, int]]], mixed: set[tuple[int, int]]) -> Labels:
    labels: list[Label] = []
    for axis in side:
        if not axis:
            labels.append(f"one{len(labels)}")
        elif mixed & set(axis):
            labels.append(None)
        elif len(axis) == 1:
            labels.append(f"f{axis[0][0]}")
        else:
            labels.append(tuple((f"f{low}", high // low) for low, high in axis))
    return tuple(labels)


def _reshape(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    source = _source(arg)
    before, after = reshape_labels(shape(source), shape(node))
    return CallAxes(values=((source, before), (node, after)))


def _transpose(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    source = _source(arg)
    labels = list(named(len(shape(source)), "a"))
    if labels:
        first, second = arg.get("dim0", 0), arg.get("dim1", 1)
        if operation(node) != "t" or len(labels) == 2:
            first, second = first % len(labels), second % len(labels)
            labels[first], labels[second] = labels[second], labels[first]
    return CallAxes(values=((source, named(len(labels), "a")), (node, tuple(labels))))


def _permute(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    source = _source(arg)
    labels = named(len(shape(source)), "a")
    moved = tuple(labels[d % len(labels)] for d in arg["dims"])
    return CallAxes(values=((source, labels), (node, moved)))


def _expand(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """Axes of size 1 that grow are free on the result: all their entries are copies."""
    source = _source(arg)
    old, new = shape(source), shape(node)
    lead = len(new) - len(old)
    labels = named(len(new), "a")
    inner = tuple(
        labels[i + lead] if old[i] == new[i + lead] else f"one{i}" for i in range(len(old))
    )
    return CallAxes(values=((source, inner), (node, labels)))


def _piece(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """slice, narrow: a stretch along one axis."""
    source = _source(arg)
    dim = arg["dim"] % len(shape(source))
    return _pieces(node, source, dim)


def _pieces(node: fx.Node, source: fx.Node, dim: int) -> CallAxes:
    """slice, split, repeat_interleave: along `dim`, found by doing it to the entries' numbers."""
    labels = named(len(shape(source)), "a")
    own = (*labels[:dim], "whole", *labels[dim + 1 :])
    numbers = torch.arange(shape(source)[dim])
    given = arguments(node) | {"dim": 0}
    given = {k: v for k, v in given.items() if not isinstance(v, fx.Node)}
    found = node.target(numbers, **{k: v for k, v in given.items() if k != "self"})  # type: ignore[operator]
    found = found if isinstance(found, tuple | list) else [found]
    values: list[tuple[fx.Node, Labels]] = [(source, own)]
    links = []
    for place, out in results(node).items():
        values.append((out, (*labels[:dim], f"piece{place}", *labels[dim + 1 :])))
        links.append(Link(source=(source, dim), target=(out, dim), index=found[place]))
    return CallAxes(values=tuple(values), links=tuple(links))


def _select(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """select, unbind: one axis ends here; its other entries may go."""
    source = _source(arg)
    dim = arg["dim"] % len(shape(source))
    labels = named(len(shape(source)), "a")
    rest = labels[:dim] + labels[dim + 1 :]
    whole: Label = labels[dim] if operation(node) == "select" else None
    values = [(source, (*labels[:dim], whole, *labels[dim + 1 :]))]
    values += [(out, rest) for out in results(node).values()]
    return CallAxes(values=tuple(values))


def _cat(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    rank = len(shape(node))
    dim = arg["dim"] % rank
    labels = named(rank, "a")
    values: list[tuple[fx.Node, Labels]] = [(node, (*labels[:dim], "whole", *labels[dim + 1 :]))]
    links = []
    low = 0
    for place, part in enumerate(arg["tensors"]):
        high = low + shape(part)[dim]
        values.append((part, (*labels[:dim], f"piece{place}", *labels[dim + 1 :])))
        index = torch.arange(low, high)
        links.append(Link(source=(node, dim), target=(part, dim), index=index))
        low = high
    return CallAxes(values=tuple(values), links=tuple(links))


def _stack(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    rank = len(shape(node))
    dim = arg["dim"] % rank
    labels = named(rank, "a")
    values: list[tuple[fx.Node, Labels]] = [(node, (*labels[:dim], None, *labels[dim + 1 :]))]
    values += [(part, labels[:dim] + labels[dim + 1 :]) for part in arg["tensors"]]
    return CallAxes(values=tuple(values))


def _repeat(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    source = _source(arg)
    old, new = shape(source), shape(node)
    lead = len(new) - len(old)
    labels = list(named(len(new), "a"))
    inner = list(labels[lead:])
    links = []
    for i, size in enumerate(old):
        if new[i + lead] != size:
            inner[i] = f"once{i}"
            index = torch.arange(new[i + lead]) % size
            links.append(Link(source=(source, i), target=(node, i + lead), index=index))
    return CallAxes(values=((source, tuple(inner)), (node, tuple(labels))), links=tuple(links))


def _repeat_interleave(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes | None:
    if arg.get("dim") is None or len(tensors(node)) != 1:
        return None
    return _piece(node, arg)


Rule = Callable[[fx.Node, Mapping[str, Any]], CallAxes | None]
LAYOUTS: dict[str, Rule] = {
    "permute": _permute, "cat": _cat, "stack": _stack, "repeat": _repeat,
    "repeat_interleave": _repeat_interleave,
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze",
         "view_copy"), _reshape),
    **dict.fromkeys(("transpose", "t", "swapaxes", "numpy_T"), _transpose),
    **dict.fromkeys(("expand", "broadcast_to"), _expand),
    **dict.fromkeys(("slice", "narrow", "split", "split_with_sizes", "chunk"), _piece),
    **dict.fromkeys(("select", "unbind"), _select),
}  # fmt: skip
