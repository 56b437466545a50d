"""The parts of a path that can be removed, and what removing each does."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import prod

from zsei.analyzers.checks import target_of
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import effect_scores
from zsei.graph.flow import FlowGraph
from zsei.graph.paths import dominators
from zsei.trace.ablation import Target


def removable_parts(analysis: Analysis) -> dict[str, Target]:
    """Node -> how to ablate it, for the nodes that tell one path from another.

    A head stands for the attention it belongs to, since a path runs through one of its heads only.
    Nodes that every path crosses are left out: removing them says nothing about which path was
    taken. So are residual joins, norms and embeddings, which have nothing to be removed.
    """
    flow = analysis.flow
    everywhere = {*dominators(flow), *flow.endings()}
    found: dict[str, Target] = {}
    for node in flow.graph:
        if node in everywhere:
            continue
        by_heads = any(flow.kind(before) == "head" for before in flow.graph.predecessors(node))
        target = None if by_heads else target_of(analysis, node)
        if target is not None and target.site.kind != "layer":
            found[node] = target
    return found


def part_effects(analysis: Analysis, parts: Mapping[str, Target]) -> dict[str, float]:
    """Part -> mean additive effect of removing it: exact where ablated, predicted elsewhere."""
    found: dict[str, float] = {}
    for node, target in parts.items():
        key = (target.site.component, target.site.kind)
        if key in analysis.importance.scores and key in analysis.trace.units:
            scores = effect_scores(analysis, target.site.component, target.site.kind)
            found[node] = sum(scores[unit] for unit in target.units)
    return found


def path_share(flow: FlowGraph, path: Sequence[str]) -> float:
    """Product of the shares of a path's edges."""
    edges = flow.graph.edges
    return prod(float(edges[edge].get("share", 0.0)) for edge in pairwise(path))
