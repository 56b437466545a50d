"""Throughput by walking every way through a graph, and a joined score in plain loops."""

from itertools import pairwise

import networkx as nx
from oracles.ranking import average_ranks, kendall_tau_b


def throughput_by_paths(graph: "nx.DiGraph[str]", sink: str) -> dict[str, float]:
    """Σ over all ways from a node to the sink of the product of shares on the way."""
    found = {}
    for node in graph:
        total = 1.0 if node == sink else 0.0
        for path in nx.all_simple_paths(graph, node, sink) if node != sink else []:
            product = 1.0
            for source, target in pairwise(path):
                product *= float(graph.edges[source, target].get("share", 0.0))
            total += product
        found[node] = total
    return found


def joined_average(
    views: dict[str, list[float | None]], known: list[int], truth: list[float]
) -> list[float]:
    """Weighted mean percentile: weight max(0, τ) of a view on the ablated components."""
    size = len(next(iter(views.values())))
    weights, percentiles = {}, {}
    for name, values in views.items():
        pairs = [(values[i], t) for i, t in zip(known, truth, strict=True) if values[i] is not None]
        weights[name] = max(0.0, kendall_tau_b([p[0] for p in pairs], [p[1] for p in pairs]))
        have = [i for i in range(size) if values[i] is not None]
        ranks = average_ranks([values[i] for i in have])
        percentiles[name] = {i: r / len(have) for i, r in zip(have, ranks, strict=True)}
    found = []
    for i in range(size):
        here = [name for name in views if i in percentiles[name]]
        total = sum(weights[name] for name in here)
        found.append(sum(weights[name] * percentiles[name][i] for name in here) / total)
    return found
