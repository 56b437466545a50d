"""Slow, obvious second implementations of what measures of the forward flow work out."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def explained_by_loops(means: np.ndarray, groups: list[str]) -> tuple[float, float]:
    """(η², ε²) of sample means [n, c]: share of the variance that the groups explain."""
    names = sorted(set(groups))
    n, grand = len(means), means.mean(0)
    total = within = 0.0
    for row, group in zip(means, groups, strict=True):
        mine = np.array([r for r, g in zip(means, groups, strict=True) if g == group])
        total += float(((row - grand) ** 2).sum())
        within += float(((row - mine.mean(0)) ** 2).sum())
    between = total - within
    return between / total, (between - (len(names) - 1) * within / (n - len(names))) / total


def slope_by_differences(
    function: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-5
) -> Tensor:
    """Derivative of an element-wise function by central differences, in double precision."""
    x = x.double()
    return (function(x + step) - function(x - step)) / (2 * step)


def divergence_by_loops(inputs: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits of attention [n, i, j], mean over i."""

    def kl(p: np.ndarray, q: np.ndarray) -> float:
        return sum(a * math.log2(a / b) for a, b in zip(p, q, strict=True) if a > 0)

    found = []
    for i in range(inputs.shape[1]):
        middle = inputs[:, i].mean(0)
        found.append(np.mean([kl(row, middle) for row in inputs[:, i]]))
    return float(np.mean(found))


def routing_by_loops(
    weights: Tensor, value: Tensor, projection: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """(effective fan-in, norm-weighted first mass) [n, h] from the vectors α_ij v_j W_O."""
    n, heads, queries, keys = weights.shape
    share = heads // value.shape[1]
    fan_in, first = np.zeros((n, heads)), np.zeros((n, heads))
    for a in range(n):
        for h in range(heads):
            for i in range(queries):
                sizes = [
                    float((weights[a, h, i, j] * value[a, h // share, j] @ projection[h]).norm())
                    for j in range(keys)
                ]
                shares = [size / sum(sizes) for size in sizes]
                entropy = -sum(p * math.log(p) for p in shares if p > 0)
                fan_in[a, h] += math.exp(entropy) / queries
                first[a, h] += shares[0] / queries
    return fan_in, first


def top_share_by_loops(activations: Tensor, weight: Tensor, count: int) -> float:
    """Share of Σ_u E‖a_u w_u‖² that the `count` largest neurons carry; weight [c, u]."""
    energies = []
    for u in range(activations.shape[1]):
        written = torch.outer(activations[:, u], weight[:, u])
        energies.append(float(written.square().sum(1).mean()))
    return sum(sorted(energies, reverse=True)[:count]) / sum(energies)
