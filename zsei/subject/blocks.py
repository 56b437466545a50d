"""Finds the larger parts in a program: attentions and MLPs."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx

from zsei.subject.reading import (
    ACTIVATION,
    ATTENTION,
    CONV,
    ELEMENTWISE,
    LAYOUT,
    LINEAR,
    Ancestry,
    operation,
    parameter_names,
    shape,
)


@dataclass(frozen=True, kw_only=True)
class AttentionBlock:
    """One attention: the value all heads write, and the projections around it."""

    core: fx.Node
    """Value [n, h, t, d]: heads on axis 1; [n·h, t, d] when heads stay folded into samples."""
    query: fx.Node
    key: fx.Node
    heads: int
    """0 when the head axis cannot be told."""
    projections: tuple[fx.Node, ...]
    """Linear calls that make q, k and v."""
    output: fx.Node | None
    """Linear call that reads all heads."""


@dataclass(frozen=True, kw_only=True)
class HiddenUnits:
    """Neurons between linears: `sources` write them, `reader` alone reads them."""

    sources: tuple[fx.Node, ...]
    reader: fx.Node
    value: fx.Node
    """The value the reader reads, after the activation; units on its last axis."""


SCORES = ELEMENTWISE | LAYOUT | {"matmul", "bmm", "baddbmm", "masked_fill"}
"""What lies between an attention's scores and their softmax, the product included."""
PIECES = {"split", "split_with_sizes", "chunk", "slice", "getitem"}


def is_linear(node: fx.Node) -> bool:
    """Whether a call is a matrix product with a parameter."""
    return operation(node) in LINEAR and bool(parameter_names(node))


def behind(node: fx.Node, operations: Iterable[str]) -> fx.Node:
    """Go forward from a node while its only reader is one of `operations`; where that ends."""
    allowed = set(operations)
    while len(node.users) == 1:
        user = next(iter(node.users))
        if operation(user) not in allowed:
            break
        node = user
    return node


def find_attentions(ancestry: Ancestry) -> tuple[AttentionBlock, ...]:
    """All attentions: fused calls, or softmax between two matrix products of activations."""
    found = []
    for node in ancestry.nodes:
        if operation(node) in ATTENTION:
            inputs = [a for a in node.args[:3] if isinstance(a, fx.Node)]
            core, query, key, sources = node, inputs[0], inputs[1], inputs
        elif operation(node) in ("softmax", "_softmax", "_safe_softmax"):
            written_out = _written_out_attention(node)
            if written_out is None:
                continue
            core, query, key, sources = written_out
        else:
            continue
        tail = behind(core, LAYOUT)
        reader = next(iter(tail.users)) if len(tail.users) == 1 else None
        core = _unfolded(core)
        found.append(
            AttentionBlock(
                core=core,
                query=query,
                key=key,
                heads=shape(core)[1] if len(shape(core)) == 4 else 0,
                projections=_linears_behind(sources),
                output=reader if reader is not None and is_linear(reader) else None,
            )
        )
    return tuple(found)


def _unfolded(core: fx.Node) -> fx.Node:
    """Where heads folded into samples, [n·h, t, d], become an axis of their own again."""
    node = core
    while len(shape(node)) == 3 and len(node.users) == 1:
        node = next(iter(node.users))
        if operation(node) not in LAYOUT:
            break
        if len(shape(node)) == 4 and shape(node)[2:] == shape(core)[1:]:
            return node
    return core


def _written_out_attention(
    softmax: fx.Node,
) -> tuple[fx.Node, fx.Node, fx.Node, list[fx.Node]] | None:
    """(core, query, key, [q, k, v]) around a softmax, when it is an attention's."""
    scores: fx.Node | None = softmax
    while scores is not None and operation(scores) not in ("matmul", "bmm", "baddbmm"):
        inputs = [a for a in scores.all_input_nodes if a.op == "call_function"]
        same = [a for a in inputs if shape(a)[-2:] == shape(softmax)[-2:]]
        steps = [a for a in same if operation(a) in SCORES]
        scores = steps[0] if steps else None
    if scores is None or parameter_names(scores):
        return None
    tail = behind(softmax, LAYOUT | {"dropout", "mul"})
    reader = next(iter(tail.users)) if len(tail.users) == 1 else None
    if reader is None or operation(reader) not in ("matmul", "bmm") or parameter_names(reader):
        return None
    query, key = scores.all_input_nodes[:2]
    values = [a for a in reader.all_input_nodes if a is not tail]
    return reader, query, key, [query, key, *values]


def _linears_behind(starts: list[fx.Node]) -> tuple[fx.Node, ...]:
    """The linear calls first met going back from q, k and v."""
    found: dict[fx.Node, None] = {}
    seen: set[fx.Node] = set()
    stack = list(starts)
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_linear(node):
            found[node] = None
        elif operation(node) not in ATTENTION | CONV | {"embedding", "arange"}:
            stack.extend(a for a in node.all_input_nodes if a.op == "call_function")
    return tuple(sorted(found, key=lambda n: n.name))


def find_hidden_units(
    ancestry: Ancestry, attentions: Iterable[AttentionBlock]
) -> tuple[HiddenUnits, ...]:
    """All linear -> activation -> linear stretches, gated ones included."""
    taken = {node for block in attentions for node in (*block.projections, block.output)}
    found = []
    for reader in ancestry.nodes:
        if not is_linear(reader) or reader in taken:
            continue
        start = _activation_input(reader)
        if start is None:
            continue
        sources = _sources(start)
        if sources and not any(source in taken for source in sources):
            found.append(HiddenUnits(sources=sources, reader=reader, value=start))
    return tuple(found)


def _activation_input(reader: fx.Node) -> fx.Node | None:
    """The activation a linear reads (for addmm the second argument), before any flattening."""
    inputs = [a for a in reader.all_input_nodes if a.op == "call_function"]
    wide = [a for a in inputs if operation(a) not in ("t", "transpose", "permute")]
    if len(wide) != 1:
        return None
    node = wide[0]
    while operation(node) in ("view", "reshape", "_unsafe_view") and len(node.all_input_nodes) == 1:
        previous = node.all_input_nodes[0]
        if shape(previous)[-1:] != shape(node)[-1:]:
            return None
        node = previous
    return node


def _sources(value: fx.Node) -> tuple[fx.Node, ...]:
    """Linears reached from `value` through element-wise calls only, one of them an activation.

    A linear may write gate and values side by side; each is then a piece of its last axis.
    """
    found: dict[fx.Node, None] = {}
    activated = pieces = False
    seen: set[fx.Node] = set()
    stack = [value]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.op == "get_attr":
            continue
        if is_linear(node):
            found[node] = None
            continue
        name = operation(node)
        keeps_width = name in ("view", "_unsafe_view", "reshape", "clone") and (
            shape(node)[-1:] == shape(node.all_input_nodes[0])[-1:]
        )
        piece = name in PIECES and node.all_input_nodes[0] is not value
        pieces = pieces or piece
        if name not in ELEMENTWISE and not keeps_width and not piece:
            return ()
        activated = activated or name in ACTIVATION
        stack.extend(node.all_input_nodes)
    widths = {shape(node)[-1] for node in found}
    width = shape(value)[-1]
    fits = all(w % width == 0 for w in widths) if pieces else widths == {width}
    if not activated or not fits:
        return ()
    return tuple(sorted(found, key=lambda n: n.name))
