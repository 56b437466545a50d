"""A small network that is really trained, and in which neurons are made to die, wake and double."""

import torch
from torch import nn

from zsei.checkpoint.history.history import History, observe
from zsei.checkpoint.history.series import Series, follow
from zsei.checkpoint.history.trends import trends
from zsei.checkpoint.tasks import SiteMeasure

DYING, WAKING, ONE, OTHER = 2, 5, 7, 9


def measured(model: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> SiteMeasure:
    """Mean |a g| of each hidden neuron, and pairs whose activations correlate."""
    hidden = torch.relu(model[0](x))
    hidden.retain_grad()
    nn.functional.mse_loss(model[2](hidden), y, reduction="sum").backward()
    assert hidden.grad is not None
    taylor = (hidden * hidden.grad).abs().mean(0)
    model.zero_grad()
    noise = 1e-9 * torch.randn(hidden.shape[1], len(x))  # a dead one has no correlation
    alike = torch.corrcoef(hidden.detach().T + noise)
    pairs = tuple(
        (i, j, float(alike[i, j]))
        for i in range(len(alike)) for j in range(i + 1, len(alike))
        if float(alike[i, j]) >= 0.8
    )  # fmt: skip
    return SiteMeasure(
        component="mlp", kind="neuron", layer=0, parts={"taylor": tuple(taylor.tolist())},
        pairs=pairs,
    )  # fmt: skip


def test_what_is_made_to_happen_in_training_is_found_and_nothing_else_dies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    teacher = nn.Sequential(nn.Linear(6, 20), nn.Tanh(), nn.Linear(20, 3))
    x = torch.randn(256, 6)
    y = teacher(x).detach()
    first, last = model[0], model[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    history, series = History(), Series()
    for epoch in range(1, 51):
        for batch in torch.arange(256).split(64):
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            if epoch > 15:  # slowly: each epoch takes a part of what reads it
                last.weight[:, DYING] *= 0.5
            if epoch < 20:
                last.weight[:, WAKING] *= 1e-4
            if epoch > 20:  # drawn to the other one
                first.weight[ONE] += 0.5 * (first.weight[OTHER] - first.weight[ONE])
                first.bias[ONE] += 0.5 * (first.bias[OTHER] - first.bias[ONE])
        site = measured(model, x, y)
        history = observe(history, epoch, {site.key: [v or 0.0 for v in site.parts["taylor"]]})
        series = follow(series, epoch, sites=[site], measurements={}, model={})
    found = {finding.code: finding.message for finding in trends(history, series)}
    assert found["component-dying"] == f"Neuron {DYING} of mlp does next to nothing any more."
    assert found["component-waking"] == f"Neuron {WAKING} of mlp did next to nothing and works now."
    assert f"Neurons {ONE} and {OTHER}" in found["redundancy-forming"]
