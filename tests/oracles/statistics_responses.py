"""What removing a unit does to first order, from an explicit Jacobian and in plain loops."""

from collections.abc import Callable

import torch
from oracles.interpreter import Recorder
from torch import Tensor

from zsei.subject.objective import Objective, probes, readout
from zsei.subject.program import Program
from zsei.subject.types import Batch, Site


def site_jacobian(
    program: Program, batch: Batch, node: str, read: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """(value at a node, Jacobian of read(output) with respect to it, [*read, *value])."""
    values: list[Tensor] = []

    def capture(value: Tensor) -> Tensor:
        values.append(value.detach())
        return value

    with torch.no_grad():
        Recorder(program, {node: capture}).run(*batch.inputs)

    def output(value: Tensor) -> Tensor:
        return read(Recorder(program, {node: lambda _: value}).run(*batch.inputs))

    jacobian = torch.autograd.functional.jacobian(output, values[0])
    assert isinstance(jacobian, Tensor)
    return values[0], jacobian


def probe_directions(
    objective: Objective, clean: Tensor, batch: Batch, count: int, generator: torch.Generator
) -> list[Tensor]:
    """The direction v in the readout that each of the objective's random probes looks along."""
    clean = clean.detach().requires_grad_()
    scalars = probes(objective, clean, batch, count, generator)
    return [torch.autograd.grad(s.sum(), clean, retain_graph=True)[0] for s in scalars]


def responses_by_loops(
    value: Tensor, jacobian: Tensor, direction: Tensor, substitute: Tensor, site: Site
) -> list[list[float]]:
    """[n][U]: Σ over the unit's entries of vᵀ J (a - substitute), one entry after the other."""
    change = (value - substitute).flatten()
    flat = jacobian.reshape(direction.numel(), -1)
    slope = [float(direction.flatten() @ flat[:, k]) for k in range(flat.shape[1])]
    samples = direction.shape[0]
    found = [[0.0] * site.units for _ in range(samples)]
    for k in range(value.numel()):
        place = [int(i) for i in torch.unravel_index(torch.tensor(k), value.shape)]
        unit = 0 if site.axis is None else place[site.axis] // site.unit_size
        found[place[0]][unit] += slope[k] * float(change[k])
    return found


def read_output(objective: Objective, batch: Batch, program: Program) -> Tensor:
    """The readout of the clean model."""
    with torch.no_grad():
        return readout(objective, Recorder(program).run(*batch.inputs), batch)
