"""Models in which fitted strategies must change nothing but the size, with their data."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject

FEW = Settings(samples=48, batch_size=12)
WIDTH = 12


def made(model: nn.Module, *shape: int) -> Subject:
    """A subject of a model on normal noise."""
    data = torch.randn(48, *shape, generator=torch.Generator().manual_seed(7))
    return prepare(model.eval(), data, settings=FEW)


class Twisted(nn.Module):
    """A residual block that is a linear map of each token, in words that do not show it."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        inner = self.first(x)
        return x + self.gain * self.second(F.relu(inner) - F.relu(-inner))


class Tokens(nn.Module):
    """Blocks over tokens [n, t, c] whose second is linear, and a read-out that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Twisted(0.5) for _ in range(3))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x.mean(1))


class Picture(nn.Module):
    """A residual block over images that is linear in each pixel it keeps."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, 2 * outputs, 1, stride)
        self.norm = nn.BatchNorm2d(2 * outputs)
        self.second = nn.Conv2d(2 * outputs, outputs, 1)
        self.skip = nn.Conv2d(inputs, outputs, 1, stride)
        with torch.no_grad():
            self.norm.running_mean.normal_()  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.second(self.norm(self.first(x)))


class Pictures(nn.Module):
    """Blocks over images [n, c, h, w]: one of equal size, one that halves the image."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Picture(3, 6, 1), Picture(6, 6, 1), Picture(6, 10, 2)])
        self.head = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = torch.tanh(block(x))
        return self.head(x.mean((2, 3)))


class Mlp(nn.Module):
    """Two linears around an activation; `plant` makes some neurons multiples of others."""

    def __init__(self, hidden: int = 24, bias: bool = True) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, hidden), nn.Linear(hidden, WIDTH, bias=bias)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.down(F.relu(self.up(x)))))


class Straight(Mlp):
    """The same with an odd activation, through which neurons can move against each other."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.down(torch.tanh(self.up(x)))))


class Filters(nn.Module):
    """Two convolutions around an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 20, 3, padding=1), nn.Conv2d(20, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.second(F.relu(self.first(x)))).mean((2, 3)))


class Thin(nn.Module):
    """A linear in the middle whose weight, or whose data, has a rank of 3."""

    def __init__(self, planted: str, bias: bool = True) -> None:
        super().__init__()
        self.up = nn.Linear(WIDTH, 16)
        self.middle = nn.Linear(16, 20, bias=bias)
        self.head = nn.Linear(20, 5)
        with torch.no_grad():
            if planted == "weight":
                self.middle.weight.copy_(torch.randn(20, 3) @ torch.randn(3, 16) / 4)
            else:
                self.up.weight.copy_(torch.randn(16, 3) @ torch.randn(3, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.middle(self.up(x))))


@torch.no_grad()
def plant(up: nn.Module, pairs: dict[int, tuple[int, float]]) -> None:
    """Make unit j the multiple `scale` of unit i, before the activation: {j: (i, scale)}."""
    weight, bias = up.weight, up.bias
    assert isinstance(weight, Tensor)
    assert isinstance(bias, Tensor)
    for unit, (source, scale) in pairs.items():
        weight[unit], bias[unit] = scale * weight[source], scale * bias[source]
