"""Floating point operations and bytes of single calls, from shapes alone.

Counted: matrix products, convolutions, attention, recurrent cells, each as 2 x multiply-adds.
Not counted: element-wise work, norms, softmax, look-ups (together below a few per cent of any model
that does matrix products). torch's own counter drops attention on the CPU, so it is not relied on.
"""

from math import prod

from torch import fx

from zsei.subject.reading import ATTENTION, CONV, EXPERTS, RECURRENT, operation, shape, value


def flops(node: fx.Node) -> int:
    """Operations of one call for the whole batch: 2 x multiply-adds.

    linear [.., i] x [o, i]: 2 · numel(out) · i. matmul [.., m, k] x [.., k, n]: 2 · numel(out) · k.
    convolution: 2 · numel(out) · (c_in / groups) · kernel. attention with q [n, h, t, d],
    k [n, h, s, d], v [n, h, s, e]: 2 · n · h · t · s · (d + e). LSTM/GRU/RNN: per step and layer
    2 · gates · hidden · (input + hidden), gates 4, 3, 1.
    """
    name = operation(node)
    arguments = [a for a in node.args if isinstance(a, fx.Node)]
    out = prod(shape(node)) if shape(node) else 0
    if name == "linear":
        return 2 * out * shape(arguments[0])[-1]
    if name == "addmm":
        return 2 * out * shape(arguments[1])[-1]
    if name in ("mm", "bmm", "matmul"):
        return 2 * out * shape(arguments[0])[-1]
    if name in CONV:
        weight = shape(arguments[1])
        if "transpose" in name:
            return 2 * prod(shape(arguments[0])) * prod(weight[1:])
        return 2 * out * prod(weight[1:])
    if name in ATTENTION:
        q, k, v = (shape(a) for a in arguments[:3])
        heads = prod(q[:-2])
        return 2 * heads * q[-2] * k[-2] * (q[-1] + v[-1])
    if name in RECURRENT:
        return _recurrent_flops(node, name)
    if name in EXPERTS:
        rows = shape(arguments[0])
        weight = shape(arguments[1])
        return 2 * prod(rows[:-1]) * weight[-1] * weight[-2]
    return 0


def _recurrent_flops(node: fx.Node, name: str) -> int:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    steps = prod(shape(source)[:-1])
    weights = [a for a in node.all_input_nodes if len(shape(a)) == 2 and a.op == "get_attr"]
    return sum(2 * steps * prod(shape(weight)) for weight in weights)


def value_bytes(node: fx.Node) -> int:
    """Bytes of the value a call produces, for the whole batch."""
    found = value(node)
    if found is not None:
        return found.numel() * found.element_size()
    many = node.meta.get("val")
    if isinstance(many, tuple | list):
        return sum(t.numel() * t.element_size() for t in many if hasattr(t, "element_size"))
    return 0
