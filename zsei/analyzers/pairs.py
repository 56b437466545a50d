"""Pairs of parts, as measures left them in matrices."""

from collections.abc import Iterable, Mapping
from itertools import combinations

import networkx as nx
import numpy as np

from zsei.analyzers.context import Analysis
from zsei.records import Matrix

Pairs = Mapping[tuple[str, str], float]
"""(part, part) -> a number of the two."""


def matrix_named(analysis: Analysis, name: str) -> Matrix | None:
    """The matrix that a measure found under this name, if it did."""
    return next((m for m in analysis.trace.matrices if m.name == name), None)


def pairs_of(matrix: Matrix | None) -> dict[tuple[str, str], float]:
    """(row, column) -> every known entry off the diagonal; the first half where symmetric."""
    if matrix is None:
        return {}
    found: dict[tuple[str, str], float] = {}
    for row, values in zip(matrix.rows, matrix.values, strict=True):
        for column, value in zip(matrix.columns, values, strict=True):
            if value is not None and row != column and (column, row) not in found:
                found[row, column] = value
    return found


def components_of(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Connected components: a chain of likenesses is one group, whose ends may differ."""
    graph: nx.Graph[str] = nx.Graph()
    graph.add_edges_from(sorted(pairs))
    return sorted(tuple(sorted(group)) for group in nx.connected_components(graph))


def cliques_of(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """Maximal cliques: every two of a group are alike; groups may share members."""
    graph: nx.Graph[str] = nx.Graph()
    graph.add_edges_from(sorted(pairs))
    return sorted(tuple(sorted(group)) for group in nx.find_cliques(graph))


def mean_within(pairs: Pairs, group: tuple[str, ...]) -> float:
    """Mean absolute value of the known pairs of a group."""
    known = [abs(pairs[pair]) for pair in within(pairs, group)]
    return sum(known) / len(known) if known else 0.0


def within(pairs: Pairs, group: tuple[str, ...]) -> list[tuple[str, str]]:
    """The known pairs of a group, in the order in which `pairs` has them."""
    both = [pair for a, b in combinations(group, 2) for pair in ((a, b), (b, a))]
    return [pair for pair in both if pair in pairs]


def profiles(analysis: Analysis, fewest: int = 4) -> dict[tuple[str, str], float]:
    """route_similarity: (part, part) -> correlation over readers of what they take from each.

    Formula: t_w[r] = |attribution| of writer w in reader and port r where writer-reader edges are
    known, else the composition score above chance with later head and kind r; divided by its mean
    over all writers, for a reader that takes much takes it from everybody. route_similarity is the
    correlation of t_a and t_b over what both could serve. Pairs that could serve fewer than
    `fewest` readers are left out.
    """
    served: dict[str, dict[tuple[str, str], float]] = {}
    for edge in analysis.trace.edges:
        served.setdefault(edge.writer, {})[edge.reader, edge.port] = abs(edge.attribution)
    if not served:
        for kind in ("q", "k", "v"):
            for (a, b), value in pairs_of(matrix_named(analysis, f"{kind}_composition")).items():
                served.setdefault(a, {})[b, kind] = max(value, 0.0)
    found: dict[tuple[str, str], float] = {}
    if len(served) < 2:
        return found
    writers = sorted(served)
    readers = sorted({reader for profile in served.values() for reader in profile})
    taken = np.array([[served[w].get(r, np.nan) for r in readers] for w in writers])
    typical = np.nanmean(taken, 0)
    taken = taken[:, typical > 0] / typical[typical > 0]
    ports = len(readers) / len({reader for reader, _ in readers})
    for (i, a), (j, b) in combinations(enumerate(writers), 2):
        both = taken[[i, j]]
        both = both[:, ~np.isnan(both).any(0)]
        if both.shape[1] < fewest * ports:
            continue
        both = both - both.mean(1, keepdims=True)
        size = float(np.linalg.norm(both[0]) * np.linalg.norm(both[1]))
        if size > 1e-12:
            found[a, b] = float(both[0] @ both[1]) / size
    return found
