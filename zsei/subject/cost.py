"""Floating point operations and bytes of single calls, from shapes alone.

Counted: matrix products, convolutions, attention, recurrent cells, einsum, each as 2 x
multiply-adds. Not counted: element-wise work, norms, softmax, look-ups (together below a few per
cent of any model that does matrix products). Attention is counted in full, causal or not: half of
the scores of a causal one are thrown away, but kernels that skip them are a matter of the machine.
Experts count for the rows that are routed to them, not for all. torch's own counter drops attention
on the CPU, so it is not relied on.
"""

from itertools import chain
from math import prod

from torch import fx

from zsei.subject.program import Program
from zsei.subject.reading import ATTENTION, CONV, EXPERTS, RECURRENT, operation, shape, value


def flops(node: fx.Node) -> int:
    """Operations of one call for the whole batch: 2 x multiply-adds.

    linear [.., i] x [o, i]: 2 · numel(out) · i. matmul [.., m, k] x [.., k, n]: 2 · numel(out) · k.
    convolution: 2 · numel(out) · (c_in / groups) · kernel. attention with q [n, h, t, d],
    k [n, h, s, d], v [n, h, s, e]: 2 · n · h · t · s · (d + e). LSTM/GRU/RNN: per step and layer
    2 · gates · hidden · (input + hidden), gates 4, 3, 1. grouped products of experts: 2 · routed
    rows · i · o. einsum: operands are contracted from left to right, each step 2 · the product of
    the sizes of all its indices; a step that sums over none is element-wise.
    """
    name = operation(node)
    arguments = [a for a in node.args if isinstance(a, fx.Node)]
    out = prod(shape(node)) if shape(node) else 0
    if name == "linear":
        return 2 * out * shape(arguments[0])[-1]
    if name == "addmm":
        return 2 * out * shape(arguments[1])[-1]
    if name in ("mm", "bmm", "matmul", "mv", "dot", "vdot"):
        return 2 * max(out, 1) * shape(arguments[0])[-1]
    if name in ("baddbmm", "addmv"):
        return 2 * out * shape(arguments[1])[-1]
    if name == "bilinear":
        left, right = shape(arguments[0])[-1], shape(arguments[1])[-1]
        return 2 * out * (left * right + right)
    if name == "einsum":
        return _einsum_flops(node)
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


def total_flops(program: Program) -> int:
    """Operations of all calls for the whole batch, whichever component they belong to."""
    return sum(flops(node) for node in program.graph_module.graph.nodes)


def _einsum_flops(node: fx.Node) -> int:
    equation, operands = node.args[0], node.args[1]
    assert isinstance(equation, str)
    assert isinstance(operands, list | tuple)
    left, _, right = equation.replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    terms = []
    for term, operand in zip(left.split(","), operands, strict=True):
        assert isinstance(operand, fx.Node)
        letters = _letters(term, len(shape(operand)))
        terms.append(frozenset(letters))
        for letter, size in zip(letters, shape(operand), strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    if "->" in equation:
        kept = frozenset(_letters(right, len(shape(node))))
    else:
        every = [letter for term in terms for letter in term]
        kept = frozenset(letter for letter in every if every.count(letter) == 1)
    total, held = 0, terms[0]
    for position, term in enumerate(terms[1:], start=2):
        needed = kept.union(chain.from_iterable(terms[position:]))
        together = held | term
        if together - needed:
            total += 2 * prod(sizes[letter] for letter in together)
        held = together & needed
    return total


def _letters(term: str, dimensions: int) -> list[str]:
    """Index letters of a term; what an ellipsis stands for is numbered from the right."""
    before, dots, after = term.partition("...")
    hidden = dimensions - len(before) - len(after) if dots else 0
    return [*before, *(str(i) for i in range(hidden, 0, -1)), *after]


def _recurrent_flops(node: fx.Node, name: str) -> int:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    steps = prod(shape(source)[:-1])  # a cell takes one step, all of its rows at once
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
