"""Axes whose entries are copies of each other, as when key heads serve several query heads.

Cutting query head 3 of a model whose key heads each serve two queries must not cut another entry of
the expanded keys than the query's own group: any copy of that group's key will do.
"""

from collections import Counter

import torch
from torch import Tensor, fx

from zsei.subject.reading import ATTENTION, operation, shape
from zsei.surgery.axes import is_pointwise
from zsei.surgery.labels import Label, Labels, tensors
from zsei.surgery.layout import layout_axes


def copy_classes(node: fx.Node, axis: int) -> Tensor | None:
    """Which original each entry along an axis is a copy of; None when all are their own.

    Followed back through layout calls and element-wise calls of one operand. [2, 2, 8, 8] keys
    repeated to [2, 4, 8, 8] have the classes 0, 0, 1, 1 along axis 1.
    """
    found = _classes(node, axis)
    if found is None or len(found.unique()) == len(found):
        return None
    return found


def _classes(node: fx.Node, axis: int) -> Tensor | None:
    if node.op != "call_function":
        return None
    if is_pointwise(node) and len(tensors(node)) == 1:
        return _classes(tensors(node)[0], axis)
    axes = layout_axes(node)
    if axes is None or len(tensors(node)) != 1:
        return None
    source = tensors(node)[0]
    for link in axes.links:
        if link.target == (node, axis):
            return _entries(source, link.source[1])[link.index]
    by_value = dict(axes.values)
    label, given = by_value[node][axis], by_value[source]
    if operation(node) in ("expand", "broadcast_to") and label not in given:
        return torch.zeros(shape(node)[axis], dtype=torch.long)
    if isinstance(label, tuple):
        return _merged(source, given, label)
    return _classes(source, given.index(label)) if label in given else None


def _entries(node: fx.Node, axis: int) -> Tensor:
    found = _classes(node, axis)
    return torch.arange(shape(node)[axis]) if found is None else found


def _merged(source: fx.Node, given: Labels, label: Label) -> Tensor | None:
    """Classes of an axis merged from several axes of the source, the outermost first."""
    assert isinstance(label, tuple)
    total = torch.zeros(1, dtype=torch.long)
    for name, size in label:
        if name not in given:
            return None
        inner = _entries(source, given.index(name))
        total = (total[:, None] * size + inner[None, :]).reshape(-1)
    return total


def key_value_classes(attention: fx.Node) -> tuple[fx.Node, Tensor]:
    """(values an attention reads, which key/value head each of its query heads uses).

    Args:
        attention: The call that gives all heads' values [n, h, t, d]: a fused attention, the
            product of weights and values where it is written out, or the call that unfolds the
            heads out of the samples behind it (then each query head has its own key head).
    """
    if layout_axes(attention) is not None:
        return attention, torch.arange(shape(attention)[1])
    value = attention.args[2 if operation(attention) in ATTENTION else 1]
    assert isinstance(value, fx.Node)
    heads = shape(attention)[1]
    own = shape(value)[1]
    if own < heads:
        return value, torch.arange(heads) // (heads // own)
    classes = copy_classes(value, 1)
    return value, torch.arange(heads) if classes is None else classes


def whole_classes(removed: Tensor, classes: Tensor) -> Tensor:
    """The part of a removed set that covers classes completely."""
    partly = set(classes[~removed].tolist())
    pairs = zip(removed.tolist(), classes.tolist(), strict=True)
    return torch.tensor([gone and original not in partly for gone, original in pairs])


def fold(removed: Tensor, classes: Tensor) -> Tensor | None:
    """The entries to remove among copies so that what stays serves the same partners in order.

    Args:
        removed: Bool [size]: what goes on the axis whose entries are their own (query heads).
        classes: Long [size]: which original each copy is.

    Returns:
        Bool [size]: whole classes go where all partners go; otherwise the same number of copies of
        every remaining class, the last ones. None when the numbers differ between classes.
    """
    gone = Counter(classes[removed].tolist())
    sizes = Counter(classes.tolist())
    partial = {gone[c] for c in sizes if gone[c] < sizes[c]}
    if len(partial) > 1:
        return None
    drop = {c: gone[c] for c in sizes}
    result = torch.zeros_like(removed)
    for i in reversed(range(len(classes))):
        c = int(classes[i])
        if drop[c] > 0:
            result[i] = True
            drop[c] -= 1
    return result if torch.equal(classes[~removed], classes[~result]) else None
