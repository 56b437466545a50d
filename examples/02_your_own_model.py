"""Your own model: any `nn.Module` with data and labels. Here a small classifier with waste in it.

The hidden layer is far too wide for the task, and half of its neurons never fire.
"""

# %% Train a classifier on two interleaved half moons.
import math

import torch
from torch import nn

import zsei

torch.manual_seed(0)


def half_moons(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points [n, 2] of two half moons with noise, and which moon each belongs to [n]."""
    label = torch.arange(n) % 2
    angle = math.pi * torch.rand(n)
    x = torch.stack([angle.cos() + label, (1 - 2 * label) * angle.sin() + 0.5 * label], dim=1)
    return x + 0.1 * torch.randn(n, 2), label


model = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
x, y = half_moons(1024)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
with torch.no_grad():
    model[0].bias[:32] = -100.0  # half of the first hidden layer never fires again

# %% Analyse it on other points than it was trained on.
record = zsei.analyze(model, half_moons(512), settings=zsei.Settings(samples=512, batch_size=64))
print(f"objective: {record.conditions.objective} ({record.conditions.objective_reason})")
for finding in record.findings:
    print(f"{finding.severity:.2f} {finding.code}: {finding.message}")

# %% What the gate let through, and the smaller model it makes.
for proposal, verdict in zip(record.proposals, record.verdicts, strict=True):
    print(f"{verdict.outcome:12} {proposal.strategy} {proposal.id}: {verdict.reason}")
smaller = zsei.apply(record, model)
before = sum(p.numel() for p in model.parameters())
after = sum(p.numel() for p in smaller.parameters())
held_out = half_moons(2000)
for name, candidate in (("original", model), ("smaller", smaller)):
    with torch.no_grad():
        accuracy = (candidate(held_out[0]).argmax(1) == held_out[1]).float().mean()
    print(f"{name}: {accuracy:.3f} accuracy on 2,000 new points")
print(f"{before:,} parameters became {after:,}")
