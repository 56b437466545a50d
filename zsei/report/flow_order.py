"""The order behind the drawing of the flow graph: rows, streams and lanes.

A *spine* is a stream: what residual joins add to, or the chain itself where there are none. A model
has one, and an encoder-decoder two; each spine and what branches off it is a *lane*. Nothing here
knows an architecture, only the graph.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zsei.records import FlowData, GraphEdge, GraphNode

FARTHEST_SKIP = 16
"""A stream's skip edge crosses at most so many calls; a longer one is a shortcut of the model."""
MIN_COMPUTE = 4
"""A second stream feeds at least so many calls; less is a side input, such as a mask."""
SMALL = frozenset({"residual", "norm", "input", "output", "pool"})
"""Kinds that compute little: drawn as a small mark with the name beside it."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Where each node stands, in rows and lanes rather than in pixels."""

    nodes: Mapping[str, GraphNode]
    edges: tuple[GraphEdge, ...]
    """Edges whose ends exist, without loops from a node to itself."""
    row: Mapping[str, int]
    lane: Mapping[str, int]
    spine: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class _Neighbours:
    """An acyclic copy of the flow graph."""

    nodes: Mapping[str, GraphNode]
    order: Sequence[str]
    before: Mapping[str, Sequence[str]]
    after: Mapping[str, Sequence[str]]


def collapse_heads(flow: FlowData) -> FlowData:
    """The graph without head nodes: their sources feed the attention directly."""
    heads = {n.id for n in flow.nodes if n.kind == "head"}
    sources: dict[str, list[str]] = defaultdict(list)
    for edge in flow.edges:
        if edge.target in heads:
            sources[edge.target].append(edge.source)
    edges = [e for e in flow.edges if e.source not in heads and e.target not in heads]
    present = {(e.source, e.target) for e in edges}
    for edge in flow.edges:
        for source in sources.get(edge.source, ()) if edge.source in heads else ():
            if (source, edge.target) not in present:
                present.add((source, edge.target))
                edges.append(GraphEdge(source=source, target=edge.target))
    return FlowData(nodes=tuple(n for n in flow.nodes if n.id not in heads), edges=tuple(edges))


def order_flow(flow: FlowData) -> Order:
    """Rows, lanes and spines of a flow graph."""
    nodes = {n.id: n for n in flow.nodes}
    edges = tuple(
        e for e in flow.edges if e.source in nodes and e.target in nodes and e.source != e.target
    )
    graph = _neighbours(nodes, edges)
    lane, spine = _lanes(graph)
    level = frozenset(
        (source, target)
        for target in spine
        for source in graph.before[target]
        if nodes[target].kind == "residual" and source not in spine and nodes[source].kind != "head"
    )
    row = _rows(graph, level)
    # Lanes run from left to right in the order in which their streams begin.
    starts = {number: min(row[n] for n in nodes if lane[n] == number) for number in lane.values()}
    rank = {number: i for i, number in enumerate(sorted(starts, key=lambda n: (starts[n], n)))}
    lane = {name: rank[number] for name, number in lane.items()}
    return Order(nodes=nodes, edges=edges, row=row, lane=lane, spine=frozenset(spine))


def _neighbours(nodes: Mapping[str, GraphNode], edges: Sequence[GraphEdge]) -> _Neighbours:
    targets: dict[str, list[str]] = defaultdict(list)
    for edge in edges:
        targets[edge.source].append(edge.target)
    order = _topological(nodes, targets)
    place = {name: i for i, name in enumerate(order)}
    before: dict[str, list[str]] = {name: [] for name in nodes}
    after: dict[str, list[str]] = {name: [] for name in nodes}
    for edge in edges:
        if place[edge.source] < place[edge.target]:
            before[edge.target].append(edge.source)
            after[edge.source].append(edge.target)
    return _Neighbours(nodes=nodes, order=order, before=before, after=after)


def _topological(nodes: Mapping[str, GraphNode], targets: Mapping[str, Sequence[str]]) -> list[str]:
    """Nodes so that edges run forward; an edge that closes a cycle runs backward."""
    waiting: dict[str, int] = dict.fromkeys(nodes, 0)
    for reached in targets.values():
        for target in reached:
            waiting[target] += 1
    ready = [name for name, sources in waiting.items() if sources == 0]
    remaining = iter(nodes)
    order: dict[str, None] = {}
    while len(order) < len(nodes):
        if not ready:  # Only cycles are left: the first node in record order breaks one.
            ready.append(next(name for name in remaining if name not in order))
        name = ready.pop()
        if name in order:
            continue
        order[name] = None
        for target in targets.get(name, ()):
            waiting[target] -= 1
            if waiting[target] == 0:
                ready.append(target)
    return list(order)


_NO_EDGES: frozenset[tuple[str, str]] = frozenset()


def _depths(graph: _Neighbours, level: frozenset[tuple[str, str]] = _NO_EDGES) -> dict[str, int]:
    """Depth of each node: one below its deepest source, or level with it for edges in `level`."""
    depth: dict[str, int] = {}
    for name in graph.order:
        depth[name] = max(
            (depth[s] + ((s, name) not in level) for s in graph.before[name]), default=0
        )
    return depth


def _rows(graph: _Neighbours, level: frozenset[tuple[str, str]]) -> dict[str, int]:
    """Row of each node: its depth, pulled down to what reads it.

    So a mask or a decoder's input stands where it is used.
    """
    row = _depths(graph, level)
    for name in reversed(graph.order):
        readers = graph.after[name]
        if readers:
            row[name] = min(row[t] - ((name, t) not in level) for t in readers)
    top = min(row.values(), default=0)
    return {name: number - top for name, number in row.items()}


def _spine(graph: _Neighbours, depth: Mapping[str, int], last: str, taken: set[str]) -> list[str]:
    """The stream that ends in `last`, its first node first.

    Backwards: at a residual join the older summand is the stream, elsewhere the newer source.
    """
    path = [last]
    while True:
        here = path[-1]
        sources = [s for s in graph.before[here] if s not in taken]
        if not sources:
            return path[::-1]
        near = [s for s in sources if depth[here] - depth[s] <= FARTHEST_SKIP]
        if graph.nodes[here].kind == "residual" and near:
            # A constant, such as a position embedding, is old but carries no input.
            path.append(min(near, key=lambda s: (_is_constant(graph, s), depth[s])))
        else:
            path.append(max(sources, key=lambda s: depth[s]))


def _is_constant(graph: _Neighbours, name: str) -> bool:
    return not graph.before[name] and graph.nodes[name].kind != "input"


def _lanes(graph: _Neighbours) -> tuple[dict[str, int], set[str]]:
    """Lane of every node, and the nodes that stand on a spine."""
    depth = _depths(graph)
    place = {name: i for i, name in enumerate(graph.order)}
    lane: dict[str, int] = {}
    spine: set[str] = set()
    left = set(graph.nodes)
    number = 0
    while left:
        sinks = [n for n in left if not any(t in left for t in graph.after[n])]
        outputs = [n for n in sinks if graph.nodes[n].kind == "output"]
        last = max(outputs or sinks, key=lambda n: (depth[n], place[n]))
        path = _spine(graph, depth, last, spine)
        fed = left & _downstream(graph, path)
        if number and sum(graph.nodes[n].kind not in SMALL for n in fed) < MIN_COMPUTE:
            break
        lane.update(dict.fromkeys(path, number))
        spine.update(path)
        left -= fed
        number += 1
    for name in reversed(graph.order):
        readers = [t for t in graph.after[name] if t in lane]
        if name not in lane and readers:
            lane[name] = lane[min(readers, key=lambda t: depth[t])]
    for name in graph.order:  # A side exit has no reader with a lane; its source has one.
        if name not in lane:
            lane[name] = next((lane[s] for s in graph.before[name] if s in lane), 0)
    return lane, spine


def _downstream(graph: _Neighbours, path: Sequence[str]) -> set[str]:
    """The path and all that is computed from it."""
    seen = set(path)
    for name in graph.order:
        if any(s in seen for s in graph.before[name]):
            seen.add(name)
    return seen
