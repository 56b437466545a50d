"""Small workloads for the tests of lower precision, eight bits and compilers."""

from collections.abc import Sequence
from functools import cache

import torch
from prepared import family, subject_of
from torch import Tensor, nn

from zsei.speed.workload_of import workload_of
from zsei.speedups.workload import Workload
from zsei.subject.objective import Objective
from zsei.timing.device import find_device

VALUES = Objective(name="fidelity", output="values", reason="asked for")


def workload(model: nn.Module, inputs: Sequence[Tensor], names: Sequence[str] = ("x",)) -> Workload:
    """A workload of any small model, its outputs compared as values."""
    subject = subject_of(model.eval(), inputs, VALUES, names=names)
    return workload_of(subject, find_device("cpu"), 1)


@cache
def of_family(name: str) -> Workload:
    """A small family as a workload; shared, so never change it."""
    return workload_of(family(name), find_device("cpu"), 1)


@cache
def linear() -> Workload:
    """One linear layer of 12 inputs and 8 outputs."""
    return workload(nn.Sequential(nn.Linear(12, 8)), [torch.randn(6, 12)])


class Cancelling(nn.Module):
    """Three layers, the middle one between a factor of 10^4 added and the same taken away.

    Its weights are near 10^4 times the identity plus one common part, which is subtracted again:
    in few bits the information is below the last place.
    """

    def __init__(self, width: int = 16, planted: bool = True):
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(width, width) for _ in range(3))
        self.offset = 1e4 if planted else 0.0
        with torch.no_grad():
            self.middle.bias.fill_(self.offset)

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, d] to [n, t, d]."""
        x = torch.tanh(self.first(x))
        return self.last(self.middle(x) - self.offset)


@cache
def cancelling(planted: bool = True) -> Workload:
    """The model above with random data [16, 4, 16]."""
    return workload(Cancelling(planted=planted), [torch.randn(16, 4, 16)])


class Spiky(nn.Module):
    """Three layers; before the middle one, one value in the batch is 10^4 times the others.

    With one scale for the whole tensor, eight bits have nothing left for the others. The middle
    layer gives that channel no weight, so in float32 it changes nothing.
    """

    def __init__(self, width: int = 16, planted: bool = True):
        super().__init__()
        self.first, self.middle, self.last = (nn.Linear(width, width) for _ in range(3))
        self.spike = 1e4 if planted else 1.0
        with torch.no_grad():
            self.middle.weight[:, 0] = 0

    def forward(self, x: Tensor) -> Tensor:
        """[n, t, d] to [n, t, d]."""
        x = torch.tanh(self.first(x))
        first = torch.zeros_like(x[..., :1]) + self.spike
        return self.last(self.middle(torch.cat([first, x[..., 1:]], -1)))


@cache
def spiky(planted: bool = True) -> Workload:
    """The model above with random data [16, 4, 16]."""
    return workload(Spiky(planted=planted), [torch.randn(16, 4, 16)])
