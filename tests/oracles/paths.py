"""Paths and their effects, by trying everything and running everything whole."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set

import networkx as nx
import torch
from oracles.graph import every_path
from torch import Tensor

from zsei.subject.objective import divergence, readout
from zsei.subject.types import Subject
from zsei.trace.ablation import Target
from zsei.trace.engine import Engine


def lengths_by_trying(
    graph: "nx.DiGraph[str]", sources: list[str], sink: str, counted: Set[str]
) -> Counter[int]:
    """How many paths have how many counted nodes."""
    paths = every_path(graph, sources, sink)
    return Counter(sum(node in counted for node in path) for path in paths)


def effect_by_whole_runs(
    engine: Engine,
    subject: Subject,
    samples: int,
    targets: Sequence[Target],
    means: Mapping[tuple[str, str], Tensor],
) -> Tensor:
    """Divergence [n] of the first samples when means stand in for all targets: two whole runs."""
    batch = subject.calibration[0]
    edits: dict[str, list[Target]] = {}
    for target in targets:
        edits.setdefault(target.site.node, []).append(target)

    def editing(here: list[Target]) -> Callable[[Tensor], Tensor]:
        def edit(value: Tensor) -> Tensor:
            value = value.clone()
            for target in here:
                site = target.site
                mean = means[site.component, site.kind]
                if site.axis is None:
                    value = mean.expand_as(value).clone()
                    continue
                for unit in target.units:
                    block = range(unit * site.unit_size, (unit + 1) * site.unit_size)
                    for entry in block:
                        index = torch.tensor([entry])
                        shape = list(value.shape)
                        shape[site.axis] = 1
                        part = mean.index_select(site.axis, index).expand(shape)
                        value = value.index_copy(site.axis, index, part)
            return value

        return edit

    with torch.no_grad():
        clean = readout(subject.objective, engine.run(batch), batch)
        watch = {node: editing(here) for node, here in edits.items()}
        edited = readout(subject.objective, engine.run(batch, watch), batch)
        return divergence(subject.objective, edited, clean, batch)[:samples]


def percentile_by_counting(value: float, others: Sequence[float]) -> float:
    """Share of the others that are smaller, those that are equal counted half."""
    score = sum(1.0 if other < value else 0.5 if other == value else 0.0 for other in others)
    return score / len(others)


def heaviest_by_trying(
    graph: "nx.DiGraph[str]", sources: list[str], sink: str, weight: Mapping[str, float]
) -> dict[int, float]:
    """Number of weighted nodes -> largest sum of weights among the paths that cross as many."""
    found: dict[int, float] = {}
    for path in every_path(graph, sources, sink):
        crossed = [weight[node] for node in path if node in weight]
        found[len(crossed)] = max(found.get(len(crossed), float("-inf")), sum(crossed))
    return found


def percentile_interval(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Percentile bootstrap of the mean, one resample after the other."""
    draw = random.Random(1)
    means = sorted(sum(draw.choices(values, k=len(values))) / len(values) for _ in range(4000))
    outside = round((1 - confidence) / 2 * len(means))
    return means[outside], means[-outside - 1]
