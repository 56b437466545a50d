"""Removal the slow, obvious way: values held at zero, or terms left out of sums."""

from collections.abc import Iterable, Mapping

import torch
from oracles.interpreter import run_with_edits
from torch import Tensor, nn
from torch.nn import functional as F

from zsei.subject.program import Program
from zsei.subject.types import Site


def masked(
    program: Program, inputs: tuple[Tensor, ...], cuts: Iterable[tuple[Site, Iterable[int]]]
) -> Tensor:
    """The unedited program's output with the units of each site held at zero.

    Experts are never chosen: their router logits are held at minus infinity.
    """

    def hold(site: Site, units: tuple[int, ...]):
        def edit(value: Tensor) -> Tensor:
            value = value.clone()
            for unit in units:
                low = unit * site.unit_size
                held = float("-inf") if site.kind == "expert" else 0.0
                value.narrow(site.axis or 0, low, site.unit_size).fill_(held)
            return value

        return edit

    return run_with_edits(
        program, inputs, {site.node: hold(site, tuple(units)) for site, units in cuts}
    )


def attention_of_heads(
    x: Tensor, weights: Mapping[str, nn.Linear], heads: Iterable[int], size: int
):
    """Attention as a sum over the heads named, one at a time: [n, t, d] -> [n, t, d]."""
    total = weights["output"].bias.expand(*x.shape[:-1], -1)
    for head in heads:
        rows = slice(head * size, (head + 1) * size)
        q, k, v = (
            x @ weights[name].weight[rows].T + weights[name].bias[rows]
            for name in ("query", "key", "value")
        )
        mixed = (q @ k.transpose(-1, -2) / size**0.5).softmax(-1) @ v
        total = total + mixed @ weights["output"].weight[:, rows].T
    return total


def mlp_of_neurons(x: Tensor, up: nn.Linear, down: nn.Linear, neurons: Iterable[int]) -> Tensor:
    """A rectifying MLP as a sum over the neurons named."""
    total = down.bias.expand(*x.shape[:-1], -1)
    for neuron in neurons:
        fired = F.relu(x @ up.weight[neuron] + up.bias[neuron])
        total = total + fired[..., None] * down.weight[:, neuron]
    return total


def convolution_of_channels(x: Tensor, model: nn.Sequential, channels: Iterable[int]) -> Tensor:
    """conv, batch norm, relu, conv of a Sequential, as a sum over the middle channels named."""
    first, norm, _, second = model
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    total = second.bias[:, None, None].expand(x.shape[0], -1, *x.shape[2:])
    for c in channels:
        value = F.conv2d(x, first.weight[c : c + 1], first.bias[c : c + 1], padding=1)
        value = (value - norm.running_mean[c]) / torch.sqrt(norm.running_var[c] + norm.eps)
        value = F.relu(value * norm.weight[c] + norm.bias[c])
        total = total + F.conv2d(value, second.weight[:, c : c + 1], padding=1)
    return total
