"""The weights with which heads read and write the stream, read off the program.

Rows are vectors: a head turns the stream's x [t, d] into softmax((x W_Q)(x W_K)ᵀ) (x W_V) W_O.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from zsei.subject.blocks import is_linear
from zsei.subject.reading import (
    BATCH_NORM,
    LAYOUT,
    NORM,
    is_float,
    is_weighted,
    operation,
    shape,
)
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.view import View

MOVES = LAYOUT - {"dropout", "to", "_to_copy"} | {
    "split", "split_with_sizes", "chunk", "unbind", "select", "slice", "repeat_interleave",
    "repeat", "movedim",
}  # fmt: skip
"""Calls that put entries elsewhere and change none."""


@dataclass(frozen=True, kw_only=True)
class Norm:
    """What a norm does to every row alike; the division by the row's own size is left out."""

    centres: bool
    """Whether it subtracts the mean over channels."""
    gain: Tensor | None
    """Factor per channel [d]."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """How the heads of one attention read one of query, key and value."""

    weight: Tensor
    """[h, d, w]: d channels of the stream, w of the head."""
    own: tuple[Norm, ...]
    """Norms between the projection and the nearest sum."""
    writers: dict[str, tuple[Norm, ...]]
    """Node of a weighted call that writes into what is read -> norms on the way, nearest first."""


@dataclass(frozen=True, kw_only=True)
class HeadWeights:
    """The four projections of one attention, by head."""

    component: str
    heads: tuple[str, ...]
    query: Port
    key: Port
    value: Port
    output: Tensor
    """[h, w, d]."""
    node: str
    """Node of the linear that writes the heads into the stream."""


def head_weights(view: View) -> tuple[tuple[HeadWeights, ...], tuple[str, ...]]:
    """(weights of every attention whose projections can be told, the others' ids)."""
    program, engine = view.subject.program, view.engine
    if program is None or not isinstance(engine, ProgramEngine):
        return (), ()
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    found: list[HeadWeights] = []
    unknown: list[str] = []
    for tap in view.taps.attentions:
        core = nodes[tap.core]
        owned = [nodes[name] for name in view.subject.anatomy.nodes[tap.component]]
        ends = [n for n in owned[owned.index(core) + 1 :] if is_linear(n)] if core in owned else []
        ports = [_port(core.args[i], len(tap.heads), engine) for i in range(3)]
        query, key, value = ports
        if tap.projection is None or not ends or query is None or key is None or value is None:
            unknown.append(tap.component)
            continue
        found.append(
            HeadWeights(
                component=tap.component, heads=tap.heads, query=query, key=key, value=value,
                output=tap.projection.detach().float(), node=ends[-1].name,
            )
        )  # fmt: skip
    return tuple(found), tuple(unknown)


def folded(weight: Tensor, norms: Iterable[Norm]) -> Tensor:
    """Weights [h, d, w] that read the value before the norms instead of the one behind them."""
    for norm in norms:
        if norm.gain is not None:
            weight = weight * norm.gain[:, None]
        if norm.centres:
            weight = weight - weight.mean(1, keepdim=True)
    return weight


def _port(start: object, heads: int, engine: ProgramEngine) -> Port | None:
    """The projection behind q, k or v; None where it is not one linear followed by moves.

    Which channel each head takes is found by moving the channels' numbers instead of values, so
    that fused and grouped projections need no case of their own. Rotations by position (and norms
    of q and k) keep their channel, hence count as nothing: the weights at distance 0.
    """
    chain: list[tuple[fx.Node, fx.Node]] = []
    node = start
    while isinstance(node, fx.Node) and not is_linear(node):
        carrier = _carrier(node)
        if carrier is None:
            return None
        chain.append((node, carrier))
        node = carrier
    if not isinstance(node, fx.Node):
        return None
    constants = [a for a in node.all_input_nodes if a.op == "get_attr"]
    weights = [engine.constants[a.name].detach() for a in constants]
    weights = [w for w in weights if w.ndim == 2]
    read = [a for a in node.all_input_nodes if a.op != "get_attr"]
    if len(weights) != 1 or len(read) != 1:
        return None
    place = torch.arange(shape(node)[-1], dtype=torch.float32).expand(shape(node)).contiguous()
    for call, carrier in reversed(chain):
        if operation(call) in MOVES:
            place = _moved(call, carrier, place)
    if place.ndim != 4 or heads % place.shape[1] or not bool((place == place[:1, :, :1]).all()):
        return None
    channels = place[0, :, 0].long().repeat_interleave(heads // place.shape[1], 0)
    weight = weights[0] if operation(node) != "linear" else weights[0].T
    return Port(
        weight=weight[:, channels].permute(1, 0, 2).float(),
        own=_own_norms(read[0], engine),
        writers=_writers(read[0], engine),
    )


def _carrier(node: fx.Node) -> fx.Node | None:
    """The value whose entries a call hands on."""
    inputs = [a for a in node.all_input_nodes if a.op == "call_function"]
    if operation(node) in MOVES:
        return inputs[0] if inputs else None
    same = [a for a in inputs if is_float(a) and shape(a) == shape(node)]
    return same[0] if same and not is_weighted(node) and operation(node) != "cat" else None


def _moved(call: fx.Node, carrier: fx.Node, place: Tensor) -> Tensor:
    assert callable(call.target)
    args = tuple(place if a is carrier else a for a in call.args)
    return call.target(*args, **call.kwargs)


def _own_norms(node: fx.Node, engine: ProgramEngine) -> tuple[Norm, ...]:
    """Norms between a projection and the sum, or the input, that it reads through them."""
    norms: list[Norm] = []
    while operation(node) != "add":
        norm = _norm(node, engine)
        norms += [norm] if norm is not None else []
        before = _before(node)
        if len(before) != 1:
            break
        node = before[0]
    return tuple(norms)


def _writers(start: fx.Node, engine: ProgramEngine) -> dict[str, tuple[Norm, ...]]:
    """Weighted calls met going back through sums, norms and moves alone."""
    found: dict[str, tuple[Norm, ...]] = {}
    seen: set[fx.Node] = set()
    waiting: list[tuple[fx.Node, tuple[Norm, ...]]] = [(start, ())]
    while waiting:
        node, crossed = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if is_weighted(node):
            found[node.name] = crossed
            continue
        norm = _norm(node, engine)
        further = crossed if norm is None else (*crossed, norm)
        waiting += [(argument, further) for argument in _before(node)]
    return found


def _before(node: fx.Node) -> list[fx.Node]:
    """The values a sum, a norm, a scaling or a move hands on; nothing for any other call."""
    name = operation(node)
    inputs = [a for a in node.all_input_nodes if a.op == "call_function"]
    if name in MOVES | LAYOUT | NORM:
        return inputs[:1]
    if name in ("add", "mul"):
        return [a for a in inputs if is_float(a) and shape(a) == shape(node)]
    return []


def _norm(node: fx.Node, engine: ProgramEngine) -> Norm | None:
    """The norm a call is, or the factor it puts on every channel."""
    name = operation(node)
    vectors = [
        engine.constants[a.name].detach().float()
        for a in node.all_input_nodes
        if a.op == "get_attr" and engine.constants[a.name].ndim == 1
    ]
    if name in BATCH_NORM:
        place = 7 if name == "batch_norm" else 6
        gain = (vectors[-1] + float(str(node.args[place]))).rsqrt()
        return Norm(centres=False, gain=gain * vectors[0] if len(vectors) == 4 else gain)
    if name in NORM:
        centres = name in ("layer_norm", "native_layer_norm")
        return Norm(centres=centres, gain=vectors[0] if vectors else None)
    if name == "mul" and vectors and vectors[0].shape == shape(node)[-1:]:
        return Norm(centres=False, gain=vectors[0])
    return None
