"""Which axes of a call's operands and results are one axis, so that cutting one cuts all.

Every supported call is written like an einsum: each axis of each operand and result has a label,
and axes with one label are cut together. A label that only operands carry is contracted: the cut
ends there. Nothing is known about architectures, only about calls.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from zsei.subject.reading import ATTENTION, EXPERTS, operation, shape
from zsei.surgery.calls import arguments, results
from zsei.surgery.labels import CallAxes, Label, Labels, named, tensors


def call_axes(node: fx.Node) -> CallAxes | None:
    """The axes of a call; None when nothing is known about it."""
    if is_pointwise(node):
        return _pointwise(node)
    rule = RULES.get(operation(node))
    return rule(node, arguments(node)) if rule is not None else None


def is_pointwise(node: fx.Node) -> bool:
    """Whether a call works on entries one by one."""
    tags = getattr(node.target, "tags", ())
    return torch.Tag.pointwise in tags or operation(node) in POINTWISE


POINTWISE = {
    "alias", "_to_copy", "to", "contiguous", "detach", "dropout", "native_dropout", "where",
    "masked_fill", "__and__", "__or__", "__xor__", "floor_divide", "full_like", "ones_like",
    "zeros_like", "empty_like", "rand_like", "randn_like", "lift_fresh_copy", "type_as", "glu_jvp",
    "hardswish", "copy", "bernoulli",
}  # fmt: skip
"""Element-wise calls that carry no pointwise tag."""


def _pointwise(node: fx.Node) -> CallAxes:
    outputs = list(results(node).values())
    rank = len(shape(outputs[0])) if outputs else 0
    values = [(o, named(rank, "a")) for o in outputs]
    operands = tensors(node)
    values += [(o, named(rank, "a")[rank - len(shape(o)) :]) for o in operands]
    return CallAxes(values=tuple(values), side=frozenset(operands))


def _linear(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    lead = named(len(shape(arg["input"])) - 1, "n")
    values = [(node, (*lead, "o")), (arg["input"], (*lead, "i")), (arg["weight"], ("o", "i"))]
    if arg["bias"] is not None:
        values.append((arg["bias"], ("o",)))
    return CallAxes(values=tuple(values))


def _addmm(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    bias = arg["self"]
    values = [(node, ("n", "o")), (arg["mat1"], ("n", "i")), (arg["mat2"], ("i", "o"))]
    values.append((bias, ("n", "o")[2 - len(shape(bias)) :]))
    return CallAxes(values=tuple(values))


def _matmul(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """matmul, mm, bmm, baddbmm: [.., m, k] x [.., k, n], leading axes broadcast."""
    added = arg.get("batch1") is not None
    left = arg["batch1"] if added else arg["self"]
    right = arg["batch2"] if added else arg.get("other", arg.get("mat2"))
    a, b = len(shape(left)), len(shape(right))
    lead = named(max(a, b, 2) - 2, "b")
    row, column = ("m",) if a > 1 else (), ("n",) if b > 1 else ()
    values = [
        (node, (*lead, *row, *column)),
        (left, (*lead[len(lead) - max(a - 2, 0) :], *row, "k")),
        (right, (*lead[len(lead) - max(b - 2, 0) :], "k", *column)),
    ]
    if added:
        values.append((arg["self"], (*lead, "m", "n")[3 - len(shape(arg["self"])) :]))
    return CallAxes(values=tuple(values))


def _einsum(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes | None:
    left, _, right = arg["equation"].replace(" ", "").partition("->")
    if "." in left or not right:
        return None
    values = [(node, tuple(right))]
    values += list(zip(arg["tensors"], map(tuple, left.split(",")), strict=True))
    return CallAxes(values=tuple(values))


def _convolution(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """Channels in and out; with g groups both axes are (group, channel within the group)."""
    source, weight, bias = arg["input"], arg["weight"], arg["bias"]
    kernel = (None,) * (len(shape(weight)) - 2)
    groups = arg["groups"]
    sample = ("n",) * (len(shape(source)) - len(kernel) - 1)
    into = shape(source)[len(sample)] // groups
    out = shape(node)[len(sample)] // groups
    inputs: Label = "i" if groups == 1 else (("g", groups), ("i", into))
    outputs: Label = "o" if groups == 1 else (("g", groups), ("o", out))
    if "transpose" in operation(node) or arg.get("transposed"):
        weights: Labels = (inputs, "o", *kernel)
    else:
        weights = (outputs, "i", *kernel)
    values = [
        (node, (*sample, outputs, *kernel)),
        (source, (*sample, inputs, *kernel)),
        (weight, weights),
    ]
    if bias is not None:
        values.append((bias, (outputs,)))
    return CallAxes(values=tuple(values))


def _batch_norm(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    source = arg["input"]
    full = ("n", "c", *named(len(shape(source)) - 2, "s"))
    values = [(source, full)]
    values += [(out, full if i == 0 else ("c",)) for i, out in results(node).items()]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if arg.get(name) is not None:
            values.append((arg[name], ("c",)))
    return CallAxes(values=tuple(values))


def _group_norm(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """Whole groups may go; inside a group the channels share one mean and variance."""
    source = arg["input"]
    groups = arg.get("num_groups", arg.get("group"))
    channels: Label = (("g", groups), (None, shape(source)[1] // groups))
    full = ("n", channels, *(None,) * (len(shape(source)) - 2))
    values = [(source, full)]
    values += [(out, full if i == 0 else ("n", "g")) for i, out in results(node).items()]
    values += [(arg[w], (channels,)) for w in ("weight", "bias") if arg.get(w) is not None]
    return CallAxes(values=tuple(values))


def _layer_norm(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    source = arg["input"]
    inner = len(arg["normalized_shape"])
    lead = named(len(shape(source)) - inner, "n")
    values = [(source, lead + (None,) * inner)]
    values += [(o, lead + (None,) * (len(shape(o)) - len(lead))) for o in results(node).values()]
    values += [(arg[w], (None,) * inner) for w in ("weight", "bias") if arg.get(w) is not None]
    return CallAxes(values=tuple(values))


def _embedding(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    lead = named(len(shape(arg["indices"])), "n")
    values = ((node, (*lead, "d")), (arg["weight"], (None, "d")), (arg["indices"], lead))
    return CallAxes(values=values)


def _attention(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """Query [.., h, t, d], key [.., h, s, d], value [.., h, s, e]; h of both may be fewer (GQA)."""
    lead: Labels = ("n", "h")[4 - len(shape(arg["query"])) :]
    values: list[tuple[fx.Node, Labels]] = [
        (arg["query"], (*lead, "t", "d")),
        (arg["key"], (*lead, "s", "d")),
        (arg["value"], (*lead, "s", "e")),
    ]
    for i, out in results(node).items():
        values.append((out, (*lead, "t", "e") if i == 0 else (None,) * len(shape(out))))
    mask = arg.get("attn_mask", arg.get("attn_bias"))
    if mask is not None:
        values.append((mask, (*lead, "t", "s")[4 - len(shape(mask)) :]))
    side = frozenset() if mask is None else frozenset({mask})
    return CallAxes(values=tuple(values), side=side)


def _grouped_product(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes | None:
    """Rows [r, i] with the weights [e, i, o] of their expert; [e] says where whose rows end."""
    source, weight, ends = (
        a for a in (*node.args, *node.kwargs.values()) if isinstance(a, fx.Node)
    )
    if len(shape(weight)) != 3 or len(shape(source)) != 2:
        return None
    values = ((node, ("r", "o")), (source, ("r", "i")), (weight, ("e", "i", "o")), (ends, ("e",)))
    return CallAxes(values=values)


def _dims(arg: Mapping[str, Any], rank: int) -> set[int]:
    """Axes a reduction or a softmax works along; all when none is named."""
    given = arg.get("dim", arg.get("axis"))
    if given is None or given == []:
        return set(range(rank))
    many = given if isinstance(given, list | tuple) else [given]
    return {d % rank for d in many} if rank else set()


def _reduce(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """mean, sum, max ... over axes that must stay whole."""
    source = arg.get("self", arg.get("input"))
    assert isinstance(source, fx.Node)
    rank = len(shape(source))
    gone = _dims(arg, rank)
    labels = tuple(None if i in gone else f"a{i}" for i in range(rank))
    kept = labels if arg.get("keepdim") else tuple(x for x in labels if x is not None)
    values = [(source, labels)] + [(out, kept) for out in results(node).values()]
    return CallAxes(values=tuple(values))


def _along(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """softmax, cumsum, sort, topk ...: entries along one axis depend on each other."""
    source = arg["self"]
    rank = len(shape(source))
    given = next((arg[k] for k in ("dim", "dims", "dimension") if k in arg), -1)
    fixed = _dims({"dim": given}, rank)
    labels = tuple(None if i in fixed else f"a{i}" for i in range(rank))
    outputs = [(o, (*labels, None)[: len(shape(o))]) for o in results(node).values()]
    return CallAxes(values=((source, labels), *outputs))


def _spatial(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """Pooling, padding, resizing: the leading axes pass, those the call works on must stay."""
    source = arg.get("self", arg.get("input"))
    assert isinstance(source, fx.Node)
    rank = len(shape(source))
    name = operation(node)
    if "pad" in name:
        inner = len(arg["pad" if "pad" in arg else "padding"]) // 2
    elif name in ("tril", "triu"):
        inner = 2
    else:
        inner = int(next(c for c in name if c.isdigit()))
    labels = tuple(f"a{i}" if i < rank - inner else None for i in range(rank))
    return CallAxes(values=((source, labels), *((o, labels) for o in results(node).values())))


def _prelu(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    labels = named(len(shape(node)), "a")
    slope = (labels[1],) if shape(arg["weight"])[0] > 1 else (None,)
    return CallAxes(values=((node, labels), (arg["self"], labels), (arg["weight"], slope)))


def _made(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """full, zeros, ones: any axis may be made smaller. What they copy dtype from is not cut."""
    values = [(node, named(len(shape(node)), "made"))]
    values += [(o, named(len(shape(o)), "like")) for o in tensors(node)]
    return CallAxes(values=tuple(values))


def _index(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """x[.., i, ..] with index tensors: axes that are indexed must stay, the others pass."""
    source = arg["self"]
    given = list(arg["indices"]) + [None] * (len(shape(source)) - len(arg["indices"]))
    places = [i for i, index in enumerate(given) if index is not None]
    labels = tuple(None if i in places else f"a{i}" for i in range(len(given)))
    wide = max(len(shape(given[i])) for i in places)
    passed = [x for x in labels if x is not None]
    adjacent = places == list(range(places[0], places[-1] + 1))
    start = places[0] if adjacent else 0
    out = (*passed[:start], *(None,) * wide, *passed[start:])
    values = [(source, labels), (node, out)]
    values += [(given[i], (None,) * len(shape(given[i]))) for i in places]
    return CallAxes(values=tuple(values))


def _gather(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    """gather: one axis is read by index, the others pass where source and index are as long."""
    source, index = arg["self"], arg["index"]
    along = arg["dim"] % len(shape(source))
    same = zip(shape(source), shape(index), strict=True)
    inner = tuple(
        f"a{i}" if i != along and old == new else None for i, (old, new) in enumerate(same)
    )
    outer = tuple(x if i != along else "taken" for i, x in enumerate(inner))
    return CallAxes(values=((source, inner), (index, outer), (node, outer)))


def _index_select(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    rank = len(shape(node))
    labels = tuple(None if i == arg["dim"] % rank else f"a{i}" for i in range(rank))
    return CallAxes(values=((arg["self"], labels), (node, labels), (arg["index"], (None,))))


def _size(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    source = arg["self"]
    rank = len(shape(source))
    labels = tuple(None if i == arg["dim"] % rank else f"a{i}" for i in range(rank))
    return CallAxes(values=((source, labels),))


def _nothing(node: fx.Node, arg: Mapping[str, Any]) -> CallAxes:
    return CallAxes(values=tuple((o, (None,) * len(shape(o))) for o in results(node).values()))


Rule = Callable[[fx.Node, Mapping[str, Any]], CallAxes | None]
RULES: dict[str, Rule] = {
    "linear": _linear, "addmm": _addmm, "einsum": _einsum, "embedding": _embedding,
    "prelu": _prelu, "index": _index, "index_select": _index_select,
    "gather": _gather, "sym_size": _size,
    "arange": _nothing,
    **dict.fromkeys(("matmul", "mm", "bmm", "baddbmm"), _matmul),
    **dict.fromkeys(
        ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
         "conv_transpose3d"), _convolution),
    **dict.fromkeys(
        ("batch_norm", "_native_batch_norm_legit_no_training", "instance_norm"), _batch_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), _group_norm),
    **dict.fromkeys(
        ("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm"), _layer_norm),
    **dict.fromkeys(ATTENTION, _attention),
    **dict.fromkeys(EXPERTS, _grouped_product),
    **dict.fromkeys(
        ("mean", "sum", "prod", "amax", "amin", "max", "min", "any", "all", "argmax", "argmin",
         "var", "std", "var_mean", "logsumexp", "linalg_vector_norm", "norm"), _reduce),
    **dict.fromkeys(
        ("softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax", "cumsum", "cumprod",
         "sort", "topk", "flip", "roll", "unfold"), _along),
    **dict.fromkeys(
        ("max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "avg_pool1d",
         "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
         "adaptive_max_pool2d", "_adaptive_avg_pool2d", "upsample_nearest1d", "upsample_nearest2d",
         "upsample_bilinear2d", "constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d",
         "replication_pad1d", "replication_pad2d", "tril", "triu"), _spatial),
    **dict.fromkeys(
        ("full", "zeros", "ones", "empty", "new_zeros", "new_ones", "new_full", "new_empty"),
        _made),
}  # fmt: skip
