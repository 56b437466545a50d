"""Slow, obvious second implementations of what measures of the gradient work out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def signal_to_noise(gradients: Tensor) -> float:
    """‖E g‖² / E‖g - E g‖² of samples' gradients [n, c], less what pure noise would give."""
    n = len(gradients)
    mean = sum(gradients) / n
    assert isinstance(mean, Tensor)
    noise = sum(float((g - mean).square().sum()) for g in gradients) / (n - 1)
    return max(0.0, float(mean.square().sum()) / noise - 1 / n)


def l1_share(whole: Tensor, parts: list[Tensor]) -> float:
    """Mean over rows of the first part's L1 proximity share in the sum."""
    shares = []
    for r in range(len(whole)):
        near = [
            max(0.0, float(whole[r].abs().sum() - (whole[r] - part[r]).abs().sum()))
            for part in parts
        ]
        if sum(near) > 0:
            shares.append(near[0] / sum(near))
    return sum(shares) / len(shares)


def weight_gradients(
    model: nn.Module, run: Callable[[nn.Module], Tensor], labels: Tensor
) -> dict[str, Tensor]:
    """Gradients of the mean cross entropy by an ordinary backward pass on a copy."""
    import copy

    twin = copy.deepcopy(model).requires_grad_(True)
    F.cross_entropy(run(twin), labels).backward()
    return {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}


def value_gradients(
    first: nn.Module, rest: Callable[[Tensor], Tensor], x: Tensor, labels: Tensor
) -> Tensor:
    """Gradient of each sample's own loss with respect to what `first` writes, sample by sample."""
    found = []
    for i in range(len(x)):
        value = first(x[i : i + 1]).detach().requires_grad_()
        F.cross_entropy(rest(value), labels[i : i + 1]).backward()
        assert value.grad is not None
        found.append(value.grad[0])
    return torch.stack(found)
