"""Who reads the residual stream, and where the gradient at what they read can be seen.

A head reads three times: its query, key and value. Their inputs are one value, told apart by the
rows of the projection that each head owns; which rows those are is found by following numbered
features through the reshapes (fused, grouped and rotated projections alike). Under grouped queries
several query heads share one key and one value head: such a reader carries the id of the first
query head of its group. Everything else (an MLP, experts with their router, the output) reads
whole.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from zsei.subject.blocks import AttentionBlock, find_attentions, is_linear
from zsei.subject.reading import ATTENTION, LAYOUT, Ancestry, is_float, operation, shape
from zsei.subject.types import Anatomy
from zsei.trace.edge_stream import Stream
from zsei.trace.writers import owners, swaps

Port = Literal["q", "k", "v", "in"]
SHOWN = LAYOUT - {"_to_copy", "to", "dropout", "detach", "alias"} | {
    "split", "split_with_sizes", "chunk", "slice", "select", "cat", "stack", "unbind", "narrow",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A node at which the gradient of a reading is seen."""

    node: str
    weight: Tensor | None = None
    """[d, f] of the linear that reads, by which the gradient goes back to what was read; None where
    the node is what was read."""
    features: Tensor | slice | None = None
    """Columns of the node's value that belong to the reading, f of them; None: all."""
    time_first: bool = False
    """Whether its value is [t, n, ...]."""


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Readings that share a projection: the queries of all heads; or one whole reading."""

    names: tuple[tuple[str, Port], ...]
    """(component, port) of each reading, R of them."""
    place: str
    """The value of the stream that is read."""
    entries: tuple[Entry, ...]
    """One, whose f columns fall into R equal blocks; or for a whole reading what adds up to it."""

    @property
    def by_head(self) -> bool:
        """Whether the readings are blocks of one projection."""
        return self.names[0][1] != "in"


@dataclass(frozen=True, kw_only=True)
class _Terminal:
    """A call outside of the stream that reads it."""

    node: fx.Node
    place: str
    time_first: bool


def find_readers(
    anatomy: Anatomy, ancestry: Ancestry, constants: Mapping[str, Any], stream: Stream, output: str
) -> tuple[tuple[Reader, ...], tuple[str, ...]]:
    """All readers of the streams, and notes on readings that cannot be told apart.

    Args:
        anatomy: Components and the nodes they own.
        ancestry: The program's nodes.
        constants: Weights and buffers by node.
        stream: The streams.
        output: The node the program returns.
    """
    ports = _ports(anatomy, ancestry)
    owner = owners(anatomy)
    readers: list[Reader] = []
    notes: list[str] = []
    for place, terminals in _terminals(ancestry, stream, output).items():
        rest: dict[str, list[_Terminal]] = {}
        split = False
        for terminal in terminals:
            found = ports.get(terminal.node.name, {})
            weight = _weight(terminal.node, constants)
            if found and weight is not None:
                readers += [
                    _by_head(terminal, weight, port, groups) for port, groups in found.items()
                ]
                split = True
                continue
            component = _component(terminal.node, owner)
            rest.setdefault(component, []).append(terminal)
        alone = not split and not _read_inside(place, ancestry, stream)
        simple = {
            name: [_whole(t, constants) for t in reading] for name, reading in rest.items()
        }  # fmt: skip
        known = {name: all(entries) for name, entries in simple.items()}
        if alone and rest and (len(rest) == 1 or not all(known.values())):
            # All of its gradient comes from one reading (experts and their router are one).
            main = min(rest, key=lambda name: (known[name], list(rest).index(name)))
            readers.append(Reader(names=((main, "in"),), place=place, entries=(Entry(node=place),)))
            continue
        for name, entries in simple.items():
            if known[name]:
                whole = tuple(entry for entry in entries if entry is not None)
                readers.append(Reader(names=((name, "in"),), place=place, entries=whole))
            else:
                notes.append(
                    f"{name} reads {place} beside others and not through a linear, so its edges "
                    f"cannot be told apart"
                )
    return tuple(readers), tuple(notes)


def _terminals(ancestry: Ancestry, stream: Stream, output: str) -> dict[str, list[_Terminal]]:
    """Place -> the calls outside of the stream that read it, reshaped or not."""
    found: dict[str, list[_Terminal]] = {}
    turned: dict[str, str] = {}
    for node in ancestry.nodes:
        if node.name in stream.inside:
            continue
        for argument in node.all_input_nodes:
            name = argument.name
            if name in stream.inside and is_float(argument):
                place = stream.same.get(name, name)
                if place not in stream.places:
                    continue
                if swaps(node, 0, 1) and len(shape(node)) == 3:
                    turned[node.name] = place
                    continue
                found.setdefault(place, []).append(
                    _Terminal(node=node, place=place, time_first=False)
                )
            elif name in turned:
                place = turned[name]
                found.setdefault(place, []).append(
                    _Terminal(node=node, place=place, time_first=True)
                )
    return found


def _read_inside(place: str, ancestry: Ancestry, stream: Stream) -> bool:
    """Whether the stream itself goes on from a place: through an add or a norm."""
    names = {place, *(name for name, shown in stream.same.items() if shown == place)}
    onward = stream.inside - names
    nodes = {node.name: node for node in ancestry.nodes}
    return any(user.name in onward for name in names for user in nodes[name].users)


def _component(node: fx.Node, owner: Mapping[str, str]) -> str:
    """The component a call belongs to, or the first one it leads to."""
    seen: list[fx.Node] = [node]
    for found in seen:
        if found.name in owner:
            return owner[found.name]
        seen += [user for user in found.users if user not in seen]
    return "output"


def _weight(node: fx.Node, constants: Mapping[str, Any]) -> Tensor | None:
    """[d, f] of a linear call y = x W; None where it is none."""
    if not is_linear(node):
        return None
    found = [constants[a.name] for a in node.all_input_nodes if a.op == "get_attr"]
    found = [tensor for tensor in found if tensor.ndim == 2]
    if len(found) != 1:
        return None
    return (found[0].T if operation(node) == "linear" else found[0]).detach()


def _whole(terminal: _Terminal, constants: Mapping[str, Any]) -> Entry | None:
    weight = _weight(terminal.node, constants)
    if weight is None or (terminal.time_first and len(shape(terminal.node)) != 3):
        return None
    return Entry(node=terminal.node.name, weight=weight, time_first=terminal.time_first)


Groups = dict[tuple[int, ...], str]
"""Features of a projection -> id of the (first) head that reads through them."""


def _by_head(terminal: _Terminal, weight: Tensor, port: Port, groups: Groups) -> Reader:
    numbers = [feature for group in groups for feature in group]
    first, last = numbers[0], numbers[-1]
    # A view costs no memory, which counts for models as large as it.
    plain = numbers == list(range(first, last + 1))
    features = slice(first, last + 1) if plain else torch.tensor(numbers)
    entry = Entry(
        node=terminal.node.name,
        weight=weight[:, features],
        features=features,
        time_first=terminal.time_first,
    )
    names: tuple[tuple[str, Port], ...] = tuple((head, port) for head in groups.values())
    return Reader(names=names, place=terminal.place, entries=(entry,))


def _ports(anatomy: Anatomy, ancestry: Ancestry) -> dict[str, dict[Port, Groups]]:
    """Projection -> port -> which of its features each head reads through."""
    heads = {site.node: site.unit_ids for site in anatomy.sites if site.kind == "head"}
    found: dict[str, dict[Port, Groups]] = {}
    shared: set[str] = set()
    for block in find_attentions(ancestry):
        ids = heads.get(block.core.name)
        if ids is None:
            continue
        for port, target in _inputs(block).items():
            for linear in block.projections:
                if not ancestry.computed_from(target, linear):
                    continue
                groups = _groups(linear, target, ids, ancestry)
                here = found.setdefault(linear.name, {})
                taken = {f for named in here.values() for group in named for f in group}
                if groups is None or port in here or taken & {f for g in groups for f in g}:
                    shared.add(linear.name)
                else:
                    here[port] = groups
    return {name: ports for name, ports in found.items() if name not in shared}


def _inputs(block: AttentionBlock) -> dict[Port, fx.Node]:
    found: dict[Port, fx.Node] = {"q": block.query, "k": block.key}
    if operation(block.core) in ATTENTION and isinstance(block.core.args[2], fx.Node):
        found["v"] = block.core.args[2]
    return found


def _groups(
    linear: fx.Node, target: fx.Node, ids: tuple[str, ...], ancestry: Ancestry
) -> Groups | None:
    labels = _labels(target, linear, ancestry, {})
    if labels is None or labels.ndim != 4 or not labels.shape[1] or len(ids) % labels.shape[1]:
        return None
    per_group = len(ids) // labels.shape[1]
    found: Groups = {}
    for index in range(labels.shape[1]):
        own = labels[0, index, 0]
        if not torch.equal(own, labels[-1, index, -1]):
            return None
        found.setdefault(tuple(sorted(int(label) for label in own)), ids[index * per_group])
    sizes = {len(set(group)) for group in found}
    every = [label for group in found for label in group]
    return found if len(sizes) == 1 and len(set(every)) == len(every) else None


def _labels(node: fx.Node, linear: fx.Node, ancestry: Ancestry, known: dict[fx.Node, Any]) -> Any:
    """The value of `node` if the linear wrote the number of each feature: who reads what.

    Reshapes are carried out on the numbers; calls that change values but keep places (rotation,
    scaling, norms within a head) pass the numbers of the first operand of the same shape.
    """
    if node is linear:
        return torch.arange(shape(node)[-1]).expand(shape(node))
    if node in known:
        return known[node]
    reached = [a for a in node.all_input_nodes if a is linear or ancestry.computed_from(a, linear)]
    name = operation(node)
    if name in SHOWN:
        inner = {a: _labels(a, linear, ancestry, known) for a in reached}
        if any(found is None for found in inner.values()) or (
            name in ("cat", "stack") and len(reached) != len(node.all_input_nodes)
        ):
            return None
        args = map_arg(node.args, inner.get)
        assert callable(node.target)
        known[node] = node.target(*args, **node.kwargs)
    else:
        same = [a for a in reached if shape(a) == shape(node)]
        known[node] = _labels(same[0], linear, ancestry, known) if same else None
    return known[node]
