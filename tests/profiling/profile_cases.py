"""Small models to profile, ceilings that need no measuring, and profiles made of them once."""

from functools import cache
from unittest.mock import patch

import torch
from prepared import family
from torch import Tensor, nn
from zoo import WIDTH, Transformer

from zsei.profiling.profile import profile
from zsei.profiling.record import ProfileRecord
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject
from zsei.timing.ceilings import Ceilings

CEILINGS = Ceilings(
    device="a machine", torch=torch.__version__, threads=1, peak={"float32": 1e10}, bandwidth=1e9
)
HIDDEN = 64
"""Neurons of the transformer's MLP."""
SMALL = Settings(batch_size=8, samples=16)


class Wide(nn.Module):
    """Linears around one value a hundred times as wide as any other."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.up, self.down = nn.Linear(8, 8), nn.Linear(8, 800), nn.Linear(800, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.down(self.up(self.narrow(x)).relu()))


class Pairwise(nn.Module):
    """Holds a number for every pair of positions: memory grows with the square of the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        x = self.embed(sequence)
        weights = (x @ x.transpose(1, 2)).softmax(-1)
        return self.head((weights @ x).mean(1))


class Pointwise(nn.Module):
    """Treats every position by itself: memory is proportional to the length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, 64), nn.Linear(64, 3)

    def forward(self, sequence: Tensor) -> Tensor:
        return self.head(self.embed(sequence).relu()).mean(1)


class FixedLength(Pointwise):
    """Takes one length only."""

    def forward(self, sequence: Tensor) -> Tensor:
        if sequence.shape[1] != 64:
            raise ValueError("sequences are of length 64")
        return super().forward(sequence)


class Branching(nn.Module):
    """Goes a way that depends on data, which no program can; its first module runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.first(x))
        if x.sum() > 0:
            x = self.second(x)
        return self.head(x.relu())


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def seeded(build: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def transformer() -> nn.Module:
    """One pre-norm block over vectors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Transformer(HIDDEN).eval()


@cache
def subject(name: str) -> Subject:
    """A prepared subject, shared by tests: the transformer, or an LSTM."""
    if name == "lstm":
        return family(name)
    return prepare(transformer(), {"sequence": random(16, 16, WIDTH)}, settings=SMALL)


@cache
def profiled(name: str) -> ProfileRecord:
    """A profile of one of the small models, its ceilings made up; shared by tests."""
    model, data = {
        "transformer": lambda: (transformer(), {"sequence": random(16, 16, WIDTH)}),
        "wide": lambda: (seeded(Wide), {"x": random(16, 8)}),
        "branching": lambda: (seeded(Branching), {"x": random(16, 8)}),
    }[name]()
    with patch("zsei.profiling.profile.ceilings", return_value=CEILINGS):
        return profile(model, data, settings=SMALL, grow=name == "transformer")
