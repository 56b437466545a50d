"""Random paths through the flow graph, every path of a length as likely as any other."""

import random
from collections.abc import Mapping, Set

import networkx as nx

from zsei.graph.flow import FlowGraph

Ways = dict[str, dict[int, int]]
"""Node -> length -> how many paths of that length lead from it to the sink."""


def count_routes(flow: FlowGraph, counted: Set[str] | None = None) -> Ways:
    """How many paths lead from each node to the sink, by length.

    Args:
        flow: The graph.
        counted: The nodes that make up a path's length; None counts all of them.

    Formula: W(sink, c) = 1 with c = 1 if the sink counts, else 0; W(u, k + c(u)) = Σ W(v, k) over
    the successors v of u. Exact, in integers of any size.
    """
    ways: Ways = {}
    for node in reversed(list(nx.lexicographical_topological_sort(flow.graph))):
        own = int(counted is None or node in counted)
        here: dict[int, int] = {own: 1} if node == flow.sink else {}
        for following in flow.graph.successors(node):
            for length, number in ways[following].items():
                here[length + own] = here.get(length + own, 0) + number
        ways[node] = here
    return ways


def number_of_routes(flow: FlowGraph, ways: Ways, length: int) -> int:
    """Paths of a length from any input to the sink."""
    return sum(ways[node].get(length, 0) for node in flow.sources())


def random_routes(
    flow: FlowGraph, length: int, count: int, *, counted: Set[str] | None = None, seed: int
) -> list[tuple[str, ...]]:
    """`count` different paths of a length, from an input to the sink; all if there are fewer.

    Args:
        flow: The graph.
        length: How many counted nodes a path has.
        count: How many paths to draw.
        counted: The nodes that make up a path's length; None counts all of them.
        seed: Seeds the draw.

    Formula: paths are numbered by the number of ways on at each node, a number is drawn uniformly,
    and its path is read off node by node: exactly uniform, however many paths there are.
    """
    ways = count_routes(flow, counted)
    total = number_of_routes(flow, ways, length)
    if total <= count:
        return [_route(flow, ways, counted, length, number) for number in range(total)]
    generator = random.Random(seed)
    drawn: dict[int, None] = {}
    while len(drawn) < count:
        drawn[generator.randrange(total)] = None
    return [_route(flow, ways, counted, length, number) for number in drawn]


def _route(
    flow: FlowGraph, ways: Ways, counted: Set[str] | None, length: int, number: int
) -> tuple[str, ...]:
    """The path with this number among those of its length."""
    path: list[str] = []
    choices = sorted(flow.sources())
    while choices:
        for node in choices:
            here = ways[node].get(length, 0)
            if number < here:
                break
            number -= here
        else:
            raise ValueError(f"there is no path of this number and {length} nodes to go")
        path.append(node)
        if node == flow.sink:
            break
        length -= int(counted is None or node in counted)
        choices = sorted(flow.graph.successors(node))
    return tuple(path)


def heaviest_routes(
    flow: FlowGraph, weight: Mapping[str, float]
) -> dict[int, tuple[tuple[str, ...], float]]:
    """Number of weighted nodes crossed -> the path with the largest sum of weights, and the sum.

    Exact, by dynamic programming in topological order that keeps the best way to every node for
    every number; ties are broken by node order.
    """
    best: dict[str, dict[int, tuple[float, tuple[str, ...]]]] = {}
    entries = set(flow.sources())
    for node in nx.lexicographical_topological_sort(flow.graph):
        own = int(node in weight)
        here: dict[int, tuple[float, tuple[str, ...]]] = {}
        ways = [(0, (0.0, ()))] if node in entries else []
        ways += [way for before in flow.graph.predecessors(node) for way in best[before].items()]
        for length, (total, path) in ways:
            found = (total + weight.get(node, 0.0), (*path, node))
            known = here.get(length + own)
            if known is None or found > known:
                here[length + own] = found
        best[node] = here
    return {k: (path, total) for k, (total, path) in sorted(best.get(flow.sink, {}).items())}
