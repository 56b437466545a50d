"""Paths and cuts of the flow graph."""

import math
from collections.abc import Mapping

import networkx as nx

from zsei.graph.flow import FlowGraph

SOURCE = "(all inputs)"


def strongest_paths(flow: FlowGraph, k: int) -> list[tuple[tuple[str, ...], float]]:
    """The k paths from an input to the output with the largest product of shares.

    Formula: argmax over paths of Π share(u, v). Exact, by dynamic programming in topological order
    that keeps the k best ways to every node, each as a step back: linear in the edges.

    Returns:
        (nodes from input to output, product), best first; ties broken by the order of the nodes
        where two ways last part.
    """
    graph = flow.graph
    # Every way: (cost, the node before it or "", which of that node's ways).
    best: dict[str, list[tuple[float, str, int]]] = {n: [(0.0, "", 0)] for n in flow.sources()}
    for node in nx.lexicographical_topological_sort(graph):
        ways = list(best.get(node, []))
        for source, attributes in graph.pred[node].items():
            share = float(attributes.get("share", 0.0))
            if share <= 0:
                continue
            cost = -math.log(share)
            ways += [(t + cost, source, i) for i, (t, _, _) in enumerate(best.get(source, []))]
        best[node] = sorted(ways)[:k]
    found = []
    for number, (total, _, _) in enumerate(best.get(flow.sink, [])):
        path, node, way = [], flow.sink, number
        while node:
            path.append(node)
            _, node, way = best[node][way]
        found.append((tuple(reversed(path)), math.exp(-total)))
    return found


def longest_path(flow: FlowGraph, weight: Mapping[str, float]) -> tuple[tuple[str, ...], float]:
    """The path from an input to the output with the largest sum of node weights."""
    best: dict[str, tuple[float, str]] = {}
    entries = set(flow.sources())
    for node in nx.lexicographical_topological_sort(flow.graph):
        ways = [(best[p][0], p) for p in flow.graph.pred[node] if p in best]
        before = max(ways, default=(0.0, ""))
        if ways or node in entries:
            best[node] = (before[0] + weight.get(node, 0.0), before[1])
    if flow.sink not in best:
        return (), 0.0
    path, node = [], flow.sink
    while node:
        path.append(node)
        node = best[node][1]
    return tuple(reversed(path)), best[flow.sink][0]


def dominators(flow: FlowGraph) -> tuple[str, ...]:
    """Nodes that every path from the inputs to the output crosses, in order of the flow."""
    graph = _from_one_source(flow)
    return _chain(flow, graph, _immediate(flow, graph))


def _from_one_source(flow: FlowGraph) -> "nx.DiGraph[str]":
    graph: nx.DiGraph[str] = nx.DiGraph(flow.graph.edges)
    graph.add_nodes_from(flow.graph)
    graph.add_edges_from((SOURCE, node) for node in flow.sources())
    return graph


def _immediate(flow: FlowGraph, graph: "nx.DiGraph[str]") -> "dict[str, str | None]":
    """Node -> the last node that every path to it crosses; empty when nothing leads to the sink."""
    if SOURCE not in graph or flow.sink not in graph or not nx.has_path(graph, SOURCE, flow.sink):
        return {}
    return dict(nx.immediate_dominators(graph, SOURCE))


def _chain(
    flow: FlowGraph, graph: "nx.DiGraph[str]", immediate: "dict[str, str | None]"
) -> tuple[str, ...]:  # fmt: skip
    chain: list[str] = []
    node: str | None = flow.sink if immediate else None
    while node not in (SOURCE, None):
        chain.append(node)
        node = immediate.get(node)
    return tuple(reversed(chain))


def minimum_cut(flow: FlowGraph, name: str = "effective_rank") -> tuple[float, tuple[str, ...]]:
    """The set of nodes of least summed capacity that separates the inputs from the output.

    Formula: minimum vertex cut with capacity = effective rank, by splitting every node in two. What
    every path crosses parts the graph into stretches, and a minimum cut lies within one of them or
    is such a node; so each stretch is solved by itself. Of several, the last in the flow is given.
    Nodes without a measured rank cannot be cut. Inputs and the output cannot either.

    Returns:
        (capacity of the cut in dimensions, its nodes); (inf, ()) when nothing can be cut.
    """
    if not flow.sources():
        return math.inf, ()
    graph = _from_one_source(flow)
    immediate = _immediate(flow, graph)
    chain = (SOURCE, *_chain(flow, graph, immediate))
    if len(chain) == 1:
        return 0.0, ()
    ends = {SOURCE, *flow.sources(), flow.sink}
    capacity = {node: flow.number(node, name) for node in flow.graph if node not in ends}
    best: tuple[float, tuple[str, ...]] = (math.inf, ())
    for number, inside in enumerate(_stretches(graph, immediate, chain)):
        near, far = chain[number], chain[number + 1]
        if (near, far) not in inside:
            found = _cut_between(near, far, inside, capacity)
            best = found if found[0] <= best[0] else best
        single = capacity.get(far)
        if single is not None and single <= best[0]:
            best = single, (far,)
    return best if best[1] else (math.inf, ())


def _stretches(
    graph: "nx.DiGraph[str]", immediate: "dict[str, str | None]", chain: tuple[str, ...]
) -> list[set[tuple[str, str]]]:
    """Edges between every two neighbours of the chain; what does not reach its end, or is reached
    from no input (a table that is read at fixed places), is left out.
    """
    useful = nx.ancestors(graph, chain[-1]) | {chain[-1]}
    useful &= nx.descendants(graph, SOURCE) | {SOURCE}
    place = {node: i for i, node in enumerate(chain)}
    for node in nx.topological_sort(graph):
        if node not in place and node in useful:
            place[node] = place[immediate[node] or SOURCE]
    found: list[set[tuple[str, str]]] = [set() for _ in chain[1:]]
    for source, target in graph.edges:
        if source in useful and target in useful and source != chain[-1]:
            found[place[source]].add((source, target))
    return found


def _cut_between(
    near: str, far: str, edges: set[tuple[str, str]], capacity: Mapping[str, float | None]
) -> tuple[float, tuple[str, ...]]:
    """Minimum vertex cut strictly between two nodes."""
    split: nx.DiGraph[tuple[str, str]] = nx.DiGraph()
    inside = sorted({node for edge in edges for node in edge} - {near, far})
    for node in inside:
        known = capacity.get(node)
        limit = {} if known is None else {"capacity": known}
        split.add_edge((node, "in"), (node, "out"), **limit)
    split.add_edges_from(((s, "out"), (t, "in")) for s, t in sorted(edges))
    try:
        value, (before, behind) = nx.minimum_cut(split, (near, "out"), (far, "in"))
    except nx.NetworkXUnbounded:
        return math.inf, ()
    cut = tuple(n for n in inside if (n, "in") in before and (n, "out") in behind)
    return float(value), cut
