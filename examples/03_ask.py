"""Ask about past analyses in plain language; the numbers come from the records, with citations."""

# %% Two analyses to ask about: the same network, once as it is and once with a useless layer.
import torch
from torch import nn

import zsei

torch.manual_seed(0)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, scale: float):
        super().__init__()
        self.up, self.down = nn.Linear(16, 64), nn.Linear(64, 16)
        nn.init.normal_(self.down.weight, std=scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Network(nn.Module):
    """Three residual blocks and a read-out."""

    def __init__(self, scales: tuple[float, ...]):
        super().__init__()
        self.blocks = nn.ModuleList(Block(scale) for scale in scales)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


data = torch.randn(256, 16)
settings = zsei.Settings(samples=128, batch_size=32, max_proposals=4)
zsei.analyze(Network((0.2, 0.2, 0.2)), data, settings=settings)
zsei.analyze(Network((0.2, 1e-6, 0.2)), data, settings=settings)

# %% Ask.
for question in (
    "which layer has the smallest ablation effect?",
    "what was accepted and why?",
    "which findings are there?",
    "what is output sensitivity?",
):
    answer = zsei.ask(question, settings=settings)
    print(f"\n> {question}\n{answer.text}")
    for citation in answer.citations[:3]:
        print(f"  [{citation.run} {citation.finding or ''}]")
