"""Mends the sizes, positions and counts that calls state as plain numbers, after a cut.

What is mended is proven: calls that move entries are run once on the numbers of the entries, before
and after, and must move what is kept to where it was.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from zsei.subject.reading import operation, shape
from zsei.surgery.calls import arguments, refuse, results, set_arguments
from zsei.surgery.dependency import Entries
from zsei.surgery.labels import tensors
from zsei.surgery.layout import LAYOUTS

Removed = Mapping[str, Entries]


def resize(node: fx.Node, removed: Removed) -> None:
    """Change a call's own numbers to what is left; shapes in `meta` are still the old ones.

    Args:
        node: A call of the graph being edited.
        removed: What goes of every value, by node name.

    Raises:
        SurgeryRefused: When a number cannot be mended.
    """
    rule = RULES.get(operation(node))
    touched = any(v.name in removed for v in (*tensors(node), *results(node).values()))
    if rule is not None and touched:
        rule(node, arguments(node), removed)


def _sizes(node: fx.Node, given: Any, start: int, gone: Entries) -> list[Any]:
    """A list of sizes for the axes from `start` on, with those along a cut made smaller."""
    sizes = list(given)
    for axis, entries in gone.items():
        place = axis - start
        if not 0 <= place < len(sizes) or sizes[place] == -1:
            continue
        if isinstance(sizes[place], int):
            sizes[place] -= len(entries)
        elif -1 in sizes:
            raise refuse(node, "has a symbolic size along the cut and another one left open.")
        else:
            sizes[place] = -1
    return sizes


def _view(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    gone = removed.get(node.name, {})
    name = next(key for key in ("size", "shape", "sizes") if key in arg)
    start = arg["dim"] % len(shape(arg["self"])) if "dim" in arg else 0
    set_arguments(node, {name: _sizes(node, arg[name], start, gone)})


def _slice(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    source = arg["self"]
    dim = arg["dim"] % len(shape(source))
    entries = removed.get(source.name, {}).get(dim)
    if entries is None:
        return
    size = shape(source)[dim]
    ends = {"start": arg["start"] or 0, "end": size if arg["end"] is None else arg["end"]}
    changed = {}
    for name, end in ends.items():
        place = min(max(end + size if end < 0 else end, 0), size)
        changed[name] = place - bisect_left(entries, place)
    set_arguments(node, changed)


def _select(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    source = arg["self"]
    dim = arg["dim"] % len(shape(source))
    entries = removed.get(source.name, {}).get(dim)
    if entries is None:
        return
    index = arg["index"] % shape(source)[dim]
    if index in entries:
        raise refuse(node, f"reads entry {index}, which would go.")
    set_arguments(node, {"index": index - bisect_left(entries, index)})


def _split(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    """Pieces may lose different numbers of entries, so their sizes are written out."""
    source = arg["self"]
    dim = arg["dim"] % len(shape(source))
    entries = removed.get(source.name, {}).get(dim)
    if entries is None:
        return
    kept = torch.ones(shape(source)[dim], dtype=torch.bool)
    kept[list(entries)] = False
    given = {k: v for k, v in arg.items() if k != "self"} | {"dim": 0}
    pieces = node.target(kept, **given)  # type: ignore[operator]
    node.target = torch.ops.aten.split_with_sizes.default
    node.args = (source, [int(piece.sum()) for piece in pieces], dim)
    node.kwargs = {}


def _narrow(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    source = arg["self"]
    dim = arg["dim"] % len(shape(source))
    if dim in removed.get(source.name, {}):
        raise refuse(node, "takes a stretch whose start is computed.")


def _groups(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    """Convolutions and group norms: as many groups as are left."""
    names = ("groups", "num_groups", "group")
    name = next(key for key in names if key in arg)
    result = results(node)[0]
    entries = removed.get(result.name, {}).get(1, ())
    if arg[name] == 1 or not entries:
        return
    kept = torch.ones(shape(result)[1], dtype=torch.bool)
    kept[list(entries)] = False
    left = int(kept.reshape(arg[name], -1).any(1).sum())
    changed: dict[str, Any] = {name: left}
    if "C" in arg:
        changed["C"] = int(kept.sum())
    set_arguments(node, changed)


def _histc(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    """Counts of whole numbers: one bin fewer for each that no longer occurs."""
    gone = removed.get(node.name, {}).get(0)
    if gone:
        left = arg["bins"] - len(gone)
        set_arguments(node, {"bins": left, "max": left - 1})


def _mean(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    """A mean over fewer channels, as if the others were still there and zero (see `width`)."""
    source = arg["self"]
    sizes = shape(source)
    axes = {axis % len(sizes) for axis in arg.get("dim") or ()}
    shares = [
        1 - len(gone) / sizes[axis]
        for axis, gone in removed.get(source.name, {}).items()
        if axis in axes
    ]
    if shares:
        with node.graph.inserting_after(node):
            scaled = node.graph.call_function(torch.ops.aten.mul.Tensor, (node, prod(shares)))
            scaled.meta = {"nn_module_stack": node.meta.get("nn_module_stack", {})}
        node.replace_all_uses_with(scaled, delete_user_cb=lambda user: user is not scaled)


def _repeat_interleave(node: fx.Node, arg: Mapping[str, Any], removed: Removed) -> None:
    if arg.get("output_size") is not None:
        set_arguments(node, {"output_size": None})


Rule = Callable[[fx.Node, Mapping[str, Any], Removed], None]
RULES: dict[str, Rule] = {
    "slice": _slice, "select": _select, "narrow": _narrow,
    "repeat_interleave": _repeat_interleave, "histc": _histc, "mean": _mean,
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "view_copy", "unflatten", "expand", "broadcast_to",
         "full", "zeros", "ones", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
        _view),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
         "conv_transpose3d", "group_norm", "native_group_norm"), _groups),
}  # fmt: skip


def prove_moves(before: fx.Node, after: fx.Node, removed: Removed) -> None:
    """Check that a mended call moves every kept entry to where it was moved before.

    Every operand entry gets a number; the old call on all numbers, then cut, must equal the new
    call on the numbers that are kept. Both nodes need plain-number shapes.

    Raises:
        SurgeryRefused: When they differ.
    """
    if operation(before) not in LAYOUTS:
        return
    operands = tensors(before)
    touched = any(v.name in removed for v in (*operands, *results(before).values()))
    if not touched:
        return
    full, low = {}, 0
    for operand in operands:
        size = prod(shape(operand))
        full[operand.name] = torch.arange(low, low + size).reshape(shape(operand))
        low += size
    kept = {name: keep(numbers, removed.get(name, {})) for name, numbers in full.items()}
    old, new = _run(before, full), _run(after, kept)
    for place, result in results(before).items():
        wanted = keep(old[place], removed.get(result.name, {}))
        if place >= len(new) or not torch.equal(wanted, new[place]):
            raise refuse(before, "would move the remaining entries to other places than before.")


def keep(value: Tensor, gone: Entries) -> Tensor:
    """A value without its removed entries."""
    for axis, entries in gone.items():
        kept = torch.ones(value.shape[axis], dtype=torch.bool)
        kept[list(entries)] = False
        value = value.index_select(axis, kept.nonzero().flatten().to(value.device))
    return value


def _run(node: fx.Node, numbers: Mapping[str, Tensor]) -> list[Tensor]:
    def swap(argument: Any) -> Any:
        return numbers[argument.name] if isinstance(argument, fx.Node) else argument

    try:
        found = node.target(*map_aggregate(node.args, swap), **map_aggregate(node.kwargs, swap))  # type: ignore[operator]
    except (RuntimeError, IndexError) as error:
        raise refuse(node, f"cannot be mended: {str(error).splitlines()[0]}") from error
    return list(found) if isinstance(found, tuple | list) else [found]
