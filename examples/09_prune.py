"""Make a model smaller to a budget: look ahead, prune, see the trade-off, load the result.

A small network learns, in a second, a rule that needs few of its neurons.
"""

# %% A model with more neurons than it needs.
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

import zsei

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(12, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 3))
x = torch.randn(4000, 12)
y = (x[:, :3] * x[:, 3:6]).argmax(1)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for _ in range(12):
    for rows in torch.randperm(3500).split(100):
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
data = {"x": x[3500:], "labels": y[3500:]}
model.eval()

# %% The largest cut that costs at most 3 % of the answers, on data that neither chose nor repaired.
budget = zsei.Budget(max_drop=0.03)
pruned = zsei.prune(model, data, budget=budget, settings=zsei.Settings(samples=500, batch_size=25))
print("left: parameters, operations; drop of accuracy while choosing")
for point in pruned.record.points:
    chosen = "  <- accepted" if point.number == pruned.record.accepted else ""
    print(f"{point.parameters:17.1%} {point.flops:11.1%} {point.drop:8.4f}{chosen}")
for number, verdict in zip(pruned.record.tried, pruned.record.verdicts, strict=True):
    print(f"step {number}: {verdict.reason}")

# %% The smaller model, its record and its page.
if pruned.edited is None:
    print(pruned.record.refusal)
else:
    folder = Path(tempfile.mkdtemp()) / "smaller"
    zsei.save_pruned(pruned, folder)
    smaller = zsei.load(folder)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, smaller))
    print(f"{before:,} parameters became {after:,}; see {folder / 'prune.html'}")
    with torch.no_grad():
        for name, one in (("before", model), ("after", smaller)):
            right = (one(data["x"]).argmax(1) == data["labels"]).float().mean()
            print(f"{name}: {right:.1%} of the {len(data['labels'])} are right")
