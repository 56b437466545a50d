"""A forecaster: which lags and which series it looks at, how much past it needs, how far it knows.

Two series with a season of twelve steps; the second follows the first six steps later. So the truth
is known: the first six forecast steps of the follower are written in the leader's past.
"""

# %% Make the series, and train a small network to forecast both.
import torch
from torch import nn
from torch.nn import functional as F

import zsei

torch.manual_seed(0)
LAGS, STEPS, BEHIND = 32, 12, 6


def windows(length: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(past [n, 32, 2], future [n, 12, 2]) of a leader and its follower."""
    time = torch.arange(length + BEHIND)
    noise = torch.randn(length + BEHIND)
    leader = torch.sin(2 * torch.pi * time / 12) + 0.7 * noise
    both = torch.stack([leader[BEHIND:], leader[:length]], 1) + 0.05 * torch.randn(length, 2)
    found = both.unfold(0, LAGS + STEPS, step).transpose(1, 2)
    return found[:, :LAGS].contiguous(), found[:, LAGS:].contiguous()


class Forecaster(nn.Module):
    """All of the past of both series to all of their future."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(2 * LAGS, 64), nn.Linear(64, 2 * STEPS)

    def forward(self, series: torch.Tensor) -> torch.Tensor:
        """Past [n, t, 2] to future [n, h, 2]."""
        return self.write(F.relu(self.read(series.flatten(1)))).unflatten(1, (STEPS, 2))


model = Forecaster()
past, future = windows(8000, 1)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
for _ in range(4):
    for rows in torch.randperm(len(past)).split(64):
        optimizer.zero_grad()
        F.mse_loss(model(past[rows]), future[rows]).backward()
        optimizer.step()

# %% Analyse it on a series of its own.
settings = zsei.Settings(samples=96, batch_size=16, probes=2, ablation_sample=4, max_proposals=0)
record = zsei.analyze(model.eval(), windows(2000, 12), settings=settings)
maps = {matrix.name: matrix for matrix in record.matrices}
name = next(c.id for c in record.components if c.kind == "input")

# %% Which series: the follower's forecast looks at the leader.
mixing = maps["variate_mixing"]
for series, shares in zip(("leader", "follower"), mixing.values, strict=True):
    print(f"the {series}'s forecast: {shares[0]:.0%} from the leader's past, "
          f"{shares[1]:.0%} from the follower's")  # fmt: skip

# %% Which lags: a map of forecast steps by lags.
lags = maps["lag_profile"]
print("lags that each forecast step is sensitive to:")
print("  step  " + "".join(f"{lag:>8}" for lag in lags.columns))
for step, shares in zip(lags.rows, lags.values, strict=True):
    print(f"  {step:6}" + "".join(f"{share:8.0%}" for share in shares))

# %% How much past: the oldest part replaced by the mean of the rest.
effects = maps["look_back_effect"]
for kept, effect, worse in zip(effects.columns, *effects.values, strict=True):
    print(f"  last {kept:>2} steps: the forecast moves by {effect:.0%}, its error by {worse:+.3f}")
window = record.measured(name, "effective_look_back")
print(f"effective look-back: {window.value:.0f} of {LAGS} steps ({window.note})")

# %% How far: the error of each step beside that of repeating the last value.
error, naive = maps["horizon_error"].values
pairs = zip(error, naive, strict=True)
print("squared error by step:", " ".join(f"{mine:.2f}/{last:.2f}" for mine, last in pairs))
useful = record.measured(name, "useful_horizon")
skill = record.measured(name, "skill")
print(f"useful horizon: {useful.value:.0f} of {STEPS} steps, better by {skill.value:.0%} in all")
for finding in record.findings:
    if finding.code == "horizon-bottleneck":
        print(f"{finding.code}: {finding.message}")
