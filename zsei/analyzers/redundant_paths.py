"""Parallel routes that bring a reader the same."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, final

import networkx as nx
import torch
from torch import Tensor

from zsei.analyzers.checks import targets_of, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.pairs import Pairs, components_of, matrix_named, mean_within, pairs_of
from zsei.analyzers.redundancy import Limits, judge, whole_effect
from zsei.analyzers.words import listed, number
from zsei.graph.flow import FlowGraph
from zsei.records import Finding, Measurement
from zsei.trace.rows import take_rows
from zsei.trace.taps import find_taps

ROWS = 512
"""Rows of a value that likeness is read from."""
STREAM = "the stream"
"""What branches of residual joins write into."""


@dataclass(frozen=True, kw_only=True)
class _Route:
    """A way into a reader that no other way shares."""

    end: str
    """Component that writes what the reader reads."""
    share: float
    ablated: str
    """The last component of the route that can be ablated by itself."""


@final
@dataclass(frozen=True, kw_only=True)
class RedundantPaths:
    """Groups of parallel routes that carry the same share to the same reader, and the same values.

    Measures: whether towers, parallel branches or alternative chains between one fork and one
    reader do the same work, and what removing one and all of them does.

    Formula: routes are the ways into a reader of the flow graph whose ends are not computed from
    each other, and the branches that write into a residual stream, which all that follows reads.
    Two are alike when their shares differ by at most max_difference of the larger and |cosine| of
    what they give the reader, centred over rows, is >= min_similarity (-1 is as redundant as 1).
    Groups are connected components of that. interaction = Δ(all) - Σ Δ(each) of exact ablation
    decides, as for redundant-heads. Severity: share of the reader's routes that could go.

    Reading it: routes that back each other up are a wider model than needed, or a deliberate
    ensemble: the effect of input noise without one of them says which.

    Misleads when: a route is alike on this data only, or in a few channels of huge size; shares are
    split evenly because nothing tells them apart (share_basis "even split"); or routes meet inside
    one component, which is not seen.

    References: Veit, Wilber and Belongie, "Residual networks behave like ensembles of relatively
    shallow networks", NeurIPS 2016; Ferrando and Voita, "Information flow routes: automatically
    interpreting language models at scale", 2024.
    """

    code: ClassVar[str] = "redundant-paths"
    clock: ClassVar[bool] = False

    min_similarity: float = 0.8
    """|cosine| of what two routes give the reader from which they count as alike, 0 to 1."""
    max_difference: float = 0.5
    """Difference of two shares, as a share of the larger, up to which they are the same."""
    most_groups: int = 3
    """Groups that are measured, most alike first."""
    limits: Limits = field(default_factory=Limits)
    """From where on a measured interaction counts; see `zsei.analyzers.redundancy`."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per group, most alike first."""
        meeting = {
            reader: routes
            for reader in sorted(analysis.flow.graph)
            if len(routes := _routes(analysis, reader)) > 1
        }
        written = _written(analysis, {r.end for routes in meeting.values() for r in routes})
        cosines: dict[str, Pairs] = {
            reader: {
                (a.end, b.end): cosine
                for a, b in combinations(routes, 2)
                if (cosine := _cosine(written.get(a.end), written.get(b.end))) is not None
            }
            for reader, routes in meeting.items()
        }
        meeting[STREAM] = _branches(analysis)
        cosines[STREAM] = pairs_of(matrix_named(analysis, "branch_cosine"))
        groups: list[tuple[float, str, tuple[_Route, ...]]] = []
        for reader, routes in meeting.items():
            by_end = {route.end: route for route in routes}
            alike = {
                pair: cosine
                for pair, cosine in cosines[reader].items()
                if abs(cosine) >= self.min_similarity and self._even(by_end, *pair)
            }
            for ends in components_of(alike):
                members = tuple(by_end[end] for end in ends)
                groups.append((mean_within(alike, ends), reader, members))
        total = whole_effect(analysis, "branch")
        for likeness, reader, members in sorted(groups, key=lambda g: (-g[0], g[1]))[
            : self.most_groups
        ]:
            finding = self._judge(analysis, likeness, reader, members, total, len(meeting[reader]))
            # Branches of one stream that are alike and needed are nothing unusual.
            if finding is not None and (finding.severity > 0 or reader != STREAM):
                yield finding

    def _even(self, routes: Mapping[str, _Route], first: str, second: str) -> bool:
        """Whether two routes carry the same share."""
        if first not in routes or second not in routes:
            return False
        one, two = routes[first].share, routes[second].share
        return abs(one - two) <= self.max_difference * max(one, two)

    def _judge(
        self, analysis: Analysis, likeness: float, reader: str, members: tuple[_Route, ...],
        total: float, ways: int,
    ) -> Finding | None:  # fmt: skip
        names = tuple(route.ablated for route in members)
        judged = judge(analysis, names, total=total, limits=self.limits, robustness=True)
        if judged is None:
            return None
        finding = Finding.make(
            code=self.code,
            components=names,
            severity=judged.removable / ways,
            evidence=(
                Measurement(name="written_similarity", value=likeness, unit="|cosine|"),
                *(
                    Measurement(name="branch_share", value=route.share, unit="share",
                                note=f"{route.end} into {reader}")
                    for route in members
                ),
                *judged.evidence,
            ),
            message=f"The routes by {listed(names)} bring {reader} nearly the same (similarity "
            f"{number(likeness)}); removing them together has an effect of "
            f"{number(float(judged.joint.mean()))} against {number(float(judged.summed.mean()))} "
            f"for the sum of each alone: {judged.said}.",
        )  # fmt: skip
        return with_checks(finding, *judged.checks)


def _branches(analysis: Analysis) -> list[_Route]:
    """The branches of residual joins, each with its share in the sum it is added to."""
    graph, found = analysis.flow.graph, []
    for node in graph:
        joins = [n for n in graph.successors(node) if graph.nodes[n].get("kind") == "residual"]
        if len(joins) == 1 and graph.out_degree(node) == 1 and targets_of(analysis, [node]):
            share = float(graph.edges[node, joins[0]].get("share", 0.0))
            found.append(_Route(end=node, share=share, ablated=node))
    return found


def _routes(analysis: Analysis, reader: str) -> list[_Route]:
    """Ways into a reader of which none is computed from another's end, and that can be ablated."""
    graph = analysis.flow.graph
    ends = [n for n in sorted(graph.predecessors(reader)) if graph.nodes[n].get("kind") != "head"]
    ends = [n for n in ends if not any(nx.has_path(graph, n, m) for m in ends if m != n)]
    found = []
    for end in ends:
        ablated = _ablated(analysis, analysis.flow, end)
        if ablated is not None:
            share = float(graph.edges[end, reader].get("share", 0.0))
            found.append(_Route(end=end, share=share, ablated=ablated))
    return found if len({route.ablated for route in found}) == len(found) else []


def _ablated(analysis: Analysis, flow: FlowGraph, end: str) -> str | None:
    """The end itself, or the nearest component before it that only this route uses."""
    node = end
    while not targets_of(analysis, [node]):
        before = list(flow.graph.predecessors(node))
        if len(before) != 1 or flow.graph.out_degree(before[0]) != 1:
            return None
        node = before[0]
    return node if flow.graph.out_degree(node) == 1 else None


def _written(analysis: Analysis, ends: set[str]) -> dict[str, Tensor]:
    """Rows [r, c] of what these components write; one extra forward, none where there are none."""
    if not ends:
        return {}
    axes = find_taps(analysis.subject, analysis.engine).values
    nodes = {end: analysis.subject.anatomy.outputs[end] for end in sorted(ends)}
    rows: dict[str, list[Tensor]] = {}
    batches = analysis.importance.batches
    limit = max(2, ROWS // max(len(batches), 1))
    for batch in batches:

        def keeping(node: str, mask: Tensor | None = batch.mask) -> Callable[[Tensor], None]:
            def see(value: Tensor) -> None:
                rows.setdefault(node, []).append(take_rows(value, axes[node], mask, limit))

            return see

        wanted = {node: keeping(node) for node in sorted(set(nodes.values()) & axes.keys())}
        with torch.no_grad():
            analysis.engine.run(batch, wanted)
    return {end: torch.cat(rows[node]).double() for end, node in nodes.items() if node in rows}


def _cosine(first: Tensor | None, second: Tensor | None) -> float | None:
    """Cosine of two row samples of one shape, centred; None where it cannot be told."""
    if first is None or second is None or first.shape != second.shape or len(first) < 2:
        return None
    x, y = first - first.mean(0), second - second.mean(0)
    bottom = float(x.norm() * y.norm())
    return float((x * y).sum()) / bottom if bottom > 1e-20 else None
