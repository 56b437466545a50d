"""Forecasters' lags and windows, computed the long way."""

from collections.abc import Callable

import torch
from torch import Tensor


def linear_lag_shares(weight: Tensor, deviation: Tensor) -> Tensor:
    """Share [h, t] of each lag (1 first) in a linear forecast y_h = Σ_t w[h, t] x_t of one series:
    (w σ)² with the last column as lag 1.
    """  # fmt: skip
    size = (weight.double() * deviation.double()).square().flip(1)
    return size / size.sum(1, keepdim=True)


def kept_steps(model: Callable[[Tensor], Tensor], x: Tensor, length: int) -> list[float]:
    """Per sample ‖f(x_k) - f(x)‖ / ‖f(x)‖ when all older steps are the mean of the last ones."""
    found = []
    with torch.no_grad():
        for sample in x:
            edited = sample.clone()
            for v in range(sample.shape[1]):
                edited[:-length, v] = sample[-length:, v].mean()
            clean, now = model(sample[None]), model(edited[None])
            found.append(float((now - clean).norm() / clean.norm()))
    return found


def squared_errors(forecast: Tensor, truth: Tensor) -> list[float]:
    """Mean squared error of each step of [n, h, v]."""
    n, steps, variates = forecast.shape
    return [
        sum(
            float(forecast[i, h, v] - truth[i, h, v]) ** 2
            for i in range(n)
            for v in range(variates)
        )
        / (n * variates)
        for h in range(steps)
    ]
