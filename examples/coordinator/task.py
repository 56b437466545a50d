"""What the coordinator trains, and what the service is told of it: a network and a few points."""

import torch
from torch import Tensor, nn


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points and their classes, a fifth of which are wrong."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 12, generator=draw)
    y = (x[:, :3] * x[:, 3:6]).argmax(1)
    wrong = torch.rand(count, generator=draw) < 0.2
    return x, torch.where(wrong, torch.randint(3, (count,), generator=draw), y)


def begin() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The network as training begins with it, and the data its checkpoints are analysed on."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 3)
    )
    return model, points(1024, seed=2)
