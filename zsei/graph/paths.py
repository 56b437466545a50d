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
    graph = flow.graph.copy()
    graph.add_node(SOURCE, kind="input")
    for node in flow.sources():
        graph.add_edge(SOURCE, node)
    if flow.sink not in graph or not nx.has_path(graph, SOURCE, flow.sink):
        return ()
    immediate = nx.immediate_dominators(graph, SOURCE)
    chain = []
    node = flow.sink
    while node not in (SOURCE, None):
        chain.append(node)
        node = immediate.get(node)
    return tuple(reversed(chain))


def minimum_cut(flow: FlowGraph, name: str = "effective_rank") -> tuple[float, tuple[str, ...]]:
    """The set of nodes of least summed capacity that separates the inputs from the output.

    Formula: minimum vertex cut with capacity = effective rank, by splitting every node in two.
    Nodes without a measured rank cannot be cut. Inputs and the output cannot either.

    Returns:
        (capacity of the cut in dimensions, its nodes); (inf, ()) when nothing can be cut.
    """
    split: nx.DiGraph[tuple[str, str]] = nx.DiGraph()
    ends = {*flow.sources(), flow.sink}
    for node in flow.graph:
        capacity = flow.number(node, name)
        free = capacity is None or node in ends
        if free:
            split.add_edge((node, "in"), (node, "out"))
        else:
            split.add_edge((node, "in"), (node, "out"), capacity=capacity)
    for source, target in flow.graph.edges:
        split.add_edge((source, "out"), (target, "in"))
    start, end = (SOURCE, "out"), (flow.sink, "in")
    for node in flow.sources():
        split.add_edge(start, (node, "in"))
    if start not in split or end not in split:
        return math.inf, ()
    try:
        value, (near, far) = nx.minimum_cut(split, start, end)
    except nx.NetworkXUnbounded:
        return math.inf, ()
    cut = sorted(node for node in flow.graph if (node, "in") in near and (node, "out") in far)
    return float(value), tuple(cut)
