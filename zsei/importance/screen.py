"""What probes predict of each unit on each sample, and what looking costs, in bare forwards."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from zsei.importance.candidates import Units
from zsei.subject.cost import flops
from zsei.subject.objective import Objective, predicted_divergence, probes, readout
from zsei.subject.program import Program
from zsei.subject.types import Batch
from zsei.trace.engine import Engine
from zsei.trace.responses import removal_responses

PROBE_COST = 1.1
"""Bare forwards that one probe's way back costs; 1.07 was measured on MiniLM, 32 x 64."""


def predicted_effects(
    engine: Engine, objective: Objective, batch: Batch, units: Units,
    means: Mapping[tuple[str, str], Tensor], *, draws: int, zero: bool,
    generator: torch.Generator,
) -> Tensor:  # fmt: skip
    """Divergence that removing each unit is predicted to cause on each sample: [U, n].

    One forward and one backward per probe. Formula: `predicted_divergence` of the mean over probes
    of (Σ g · dz)², see `removal_responses`.

    Args:
        engine: Runs the model.
        objective: Gives the probes.
        batch: Data.
        units: What to predict; gradients are taken at their sites only.
        means: Mean per (component, kind).
        draws: Number of probes.
        zero: Zero stands in rather than the mean.
        generator: Draws the probes.
    """
    alive: dict[str, Tensor] = {}
    nodes = {site.node for site in units.sites} | {s.source for s in units.sites if s.source}

    def tape(name: str) -> Callable[[Tensor], Tensor]:
        def see(value: Tensor) -> Tensor:
            if not value.requires_grad and value.is_floating_point():
                value = value.detach().requires_grad_()
            alive[name] = value
            return value

        return see

    squares = [torch.zeros(batch.size, site.units) for site in units.sites]
    with torch.enable_grad():
        seen = readout(objective, engine.run(batch, {n: tape(n) for n in sorted(nodes)}), batch)
        scalars = probes(objective, seen, batch, draws, generator)
        values = [alive[site.node] for site in units.sites]
        for number, scalar in enumerate(scalars):
            slopes = torch.autograd.grad(
                scalar.sum(), values, retain_graph=number < draws - 1, allow_unused=True
            )
            for kept, site, slope in zip(squares, units.sites, slopes, strict=True):
                if slope is None:
                    continue
                entered = alive.get(site.source) if site.source else None
                mean = means.get((site.component, site.kind))
                averaged, zeroed = removal_responses(
                    slope, alive[site.node], mean, site, entered, batch.size
                )
                kept += (zeroed if zero else averaged).square() / draws
    starts = torch.tensor([0, *(site.units for site in units.sites)]).cumsum(0)[:-1]
    chosen = starts[torch.as_tensor(units.site)] + torch.as_tensor(units.number)
    return predicted_divergence(objective, torch.cat(squares, 1)[:, chosen].T.double())


def restart_costs(program: Program | None, units: Units) -> list[float]:
    """Bare forwards that ablating each unit costs, one entry per unit.

    What follows the site is run again: its share of the program's operations. Without a program
    every ablation is a whole run.
    """
    if program is None:
        return [1.0] * len(units)
    following: dict[str, float] = {}
    left = 0
    nodes = list(program.graph_module.graph.nodes)
    for node in reversed(nodes):
        following[node.name] = left
        left += flops(node)
    per_site = [following[site.node] / max(left, 1) for site in units.sites]
    return [per_site[site] for site in units.site.tolist()]


def screen_cost(batches: int, draws: int) -> float:
    """Bare forwards of one batch that predicting on some batches costs."""
    return batches * (1 + PROBE_COST * draws)


def plan(
    budget: float, batches: int, samples: int, sweep: float, *, spread: float, bias: float
) -> tuple[int, int]:
    """(batches to predict on, probes) that leave the least variance within a budget.

    Every split of the budget between probes on b batches and exact ablation of all units on e
    batches is tried. Relative variances: predicted (spread + 2 / probes) / samples + bias, exact
    spread / samples; both together weigh by their inverse.

    Args:
        budget: Bare forwards of one batch.
        batches: Batches there are.
        samples: Samples per batch.
        sweep: Forwards that ablating all units on one batch costs.
        spread: Relative variance of an effect over samples.
        bias: Relative variance of the prediction's own error.
    """
    best: tuple[float, int, int] | None = None
    for exact in range(batches + 1):
        left = budget - exact * sweep
        for screened in range(1, batches + 1):
            draws = int((left / screened - 1) / PROBE_COST)
            if draws < 1:
                continue
            precision = 1 / ((spread + 2 / draws) / (screened * samples) + bias)
            precision += exact * samples / spread
            if best is None or precision > best[0]:
                best = (precision, screened, draws)
    return best[1:] if best is not None else (1, 1)
