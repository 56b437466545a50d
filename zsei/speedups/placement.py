"""Where fewer bits do least harm: components off the critical path first, by measured sensitivity.

What is predicted about rounding is rarely what happens, so everything here is run: each component
lowered alone, then sets of them together, on calibration batches.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.errors import SpeedUpRefused
from zsei.graph.build import build_graph
from zsei.graph.paths import strongest_paths
from zsei.records import Measurement
from zsei.settings import Settings
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.workload import Workload
from zsei.subject.objective import divergence, readout
from zsei.subject.types import Subject
from zsei.trace.run import trace

_BOUND = 1.645
"""Standard errors above the mean: 95 % of a normal distribution lies below."""
_BATCHES = 2
"""Calibration batches that sensitivity is measured on."""

Lower = Callable[[Sequence[str]], Runnable]
"""The model with these components in fewer bits, all else as in the baseline."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """One component: what lowering it alone does, and what became of it."""

    component: str
    critical: bool
    sensitivity: Measurement
    """Mean divergence of the readout when it alone is lowered."""
    lowered: bool


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Which components run in fewer bits."""

    table: tuple[Placed, ...]
    """In the order in which they were taken: off the critical path first, least sensitive first."""
    joint: Measurement
    """Mean divergence with all lowered ones together."""
    runs: int
    """How many lowered models were measured."""

    @property
    def lowered(self) -> tuple[str, ...]:
        """Ids of the components that run in fewer bits."""
        return tuple(row.component for row in self.table if row.lowered)

    @property
    def kept(self) -> tuple[str, ...]:
        """Ids of the components that stay in float32."""
        return tuple(row.component for row in self.table if not row.lowered)


def place(
    workload: Workload,
    components: Sequence[str],
    lower: Lower,
    *,
    bound: float,
    critical: Collection[str] = (),
) -> Placement:
    """Lower as many components as the bound on the divergence allows.

    Each is lowered alone first; what passes the bound by itself stays out. The others are ordered:
    off the critical path before on it, then by sensitivity. Of that order the longest beginning
    is taken whose joint divergence, measured, lies within the bound by its upper 95 % bound; it is
    searched by bisection, which measures log2 of the number of components.

    Args:
        workload: Model, calibration batches (two are used), objective.
        components: Ids of the candidates.
        lower: Makes the model with some of them lowered. One that is refused stays out.
        bound: Largest mean divergence, in the unit of the objective's metric.
        critical: Ids of components on the critical path.

    Misleads when: the divergence of a longer beginning is smaller than that of a shorter one
    (errors that cancel); the search may then stop short of it, never beyond the bound.
    """
    alone = {name: _tried(workload, lower, (name,)) for name in components}
    order = sorted(components, key=lambda name: (name in critical, upper(alone[name]), name))
    fit = [name for name in order if upper(alone[name]) <= bound]
    measured = {0: _nothing(workload)} | ({1: alone[fit[0]]} if fit else {})
    known = len(measured)

    def holds(count: int) -> bool:
        if count not in measured:
            measured[count] = _tried(workload, lower, tuple(fit[:count]))
        return upper(measured[count]) <= bound

    best, beyond = 0, len(fit) + 1
    count = len(fit)
    while count > best:
        best, beyond = (count, beyond) if holds(count) else (best, count)
        count = (best + beyond) // 2
    taken = set(fit[:best])
    table = tuple(
        Placed(
            component=name, critical=name in critical, sensitivity=alone[name],
            lowered=name in taken,
        )
        for name in order
    )  # fmt: skip
    return Placement(table=table, joint=measured[best], runs=len(alone) + len(measured) - known)


def _tried(workload: Workload, lower: Lower, names: Sequence[str]) -> Measurement:
    try:
        return mean_divergence(lower(names), workload)
    except SpeedUpRefused as error:
        return _untold(workload, str(error))


@torch.no_grad()
def mean_divergence(runnable: Runnable, workload: Workload, batches: int = _BATCHES) -> Measurement:
    """Mean divergence of the readout from the baseline's over calibration samples.

    Args:
        runnable: Another way to run the model.
        workload: Holds the baseline.
        batches: Calibration batches used, from the first on.

    Returns:
        `divergence` with its standard deviation over samples; "could not tell" where an output is
        not finite.
    """
    baseline = bare(workload.model, workload.input_names)
    rows: list[Tensor] = []
    for batch in workload.calibration[:batches]:
        before, after = (
            readout(workload.objective, run(batch.inputs), batch) for run in (baseline, runnable)
        )
        rows.append(divergence(workload.objective, after, before, batch).double().cpu())
    moved = torch.cat(rows)
    if not bool(moved.isfinite().all()):
        return _untold(workload, "an output is NaN or infinite")
    spread = float(moved.std()) if len(moved) > 1 else None
    return Measurement(
        name="divergence", value=float(moved.mean()), unit=workload.objective.metric,
        std=spread, n=len(moved),
    )  # fmt: skip


def upper(measured: Measurement) -> float:
    """Upper 95 % bound of a mean by its standard error; infinite where it could not be told."""
    if measured.value is None:
        return math.inf
    return measured.value + _BOUND * (measured.std or 0.0) / math.sqrt(max(measured.n, 1))


def _nothing(workload: Workload) -> Measurement:
    return Measurement(name="divergence", value=0.0, unit=workload.objective.metric)


def _untold(workload: Workload, why: str) -> Measurement:
    return Measurement(
        name="divergence", value=None, unit=workload.objective.metric, state="could not tell",
        note=why,
    )  # fmt: skip


def critical_of(subject: Subject) -> frozenset[str]:
    """Components on the critical path: the way through the graph with the largest product of flow
    shares. What such a component holds, and what holds it, is on it too. Costs one trace.
    """
    traced = trace(subject, Settings(), clock=False)
    paths = strongest_paths(build_graph(subject, traced), 1)
    on = set(paths[0][0]) if paths else set()
    parents = {component.id: component.parent for component in subject.anatomy.components}

    def lineage(name: str | None) -> Iterator[str]:
        while name is not None:
            yield name
            name = parents.get(name)

    inside = {name for name in parents if not on.isdisjoint(lineage(name))}
    around = {name for part in on for name in lineage(part)}
    return frozenset(inside | around)
