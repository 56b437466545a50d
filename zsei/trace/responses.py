"""First-order responses of units: what a gradient says a change at a site would do."""

from math import prod

import torch
from torch import Tensor

from zsei.subject.objective import Objective
from zsei.subject.types import Site


def per_unit(product: Tensor, site: Site, samples: int) -> Tensor:
    """Sum a site-shaped tensor over everything but sample and unit: [n, U].

    Values whose first axis is a multiple k · n of the samples (channels or patches folded into the
    batch) are unfolded sample-major.
    """
    if site.axis is None:
        whole = product.reshape(product.shape[0], -1).sum(1, keepdim=True)
    else:
        moved = product.movedim(site.axis, 1)
        units = moved.reshape(moved.shape[0], site.units, site.unit_size, -1)
        whole = units.sum((2, 3))
    if whole.shape[0] == samples:
        return whole
    if whole.shape[0] % samples == 0:
        return whole.view(samples, -1, whole.shape[1]).sum(1)
    # A value shared by all samples (position embeddings): its response belongs to every one.
    return whole.sum(0, keepdim=True).expand(samples, -1) / samples


def unit_mean(value: Tensor, site: Site, mask: Tensor | None) -> tuple[Tensor, float]:
    """Sum over samples and positions, kept broadcastable to the site's value, and the count.

    Heads [n, h, t, d] keep (h, d); neurons and branches keep the channel; conv values keep the
    channel and average over space.
    """
    value = value.detach()
    if value.ndim == 4 and site.kind == "head":
        keep = (1, 3)
    elif value.ndim == 4 or (site.kind == "channel" and site.axis == 1):
        keep = (1,)
    else:
        keep = (value.ndim - 1,)
    reduced = tuple(axis for axis in range(value.ndim) if axis not in keep)
    positions = 2 if site.kind == "head" else 1
    if mask is not None and value.ndim >= 3 and value.shape[0] == mask.shape[0]:
        sizes = (value.shape[0], value.shape[positions])
        if sizes == tuple(mask.shape):
            shape = [1] * value.ndim
            shape[0], shape[positions] = sizes
            weight = mask.to(value.dtype).view(shape)
            return (value * weight).sum(reduced, keepdim=True), float(mask.sum())
    return value.sum(reduced, keepdim=True), float(prod(value.shape[a] for a in reduced))


def removal_responses(
    gradient: Tensor, value: Tensor, mean: Tensor | None, site: Site, entered: Tensor | None,
    samples: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Σ g · dz per sample and unit, [n, U], for two ways to remove a unit: by its mean, by zero.

    dz is the change that the removal makes. A layer is removed by its input (`entered`) both times.
    Σ g · (a - m) is taken as Σ g · a - m · Σ g: one pass over the value.
    """
    value = value.detach()
    if site.kind == "layer" and entered is not None:
        bypassed = per_unit(gradient * (value - entered.detach()), site, samples)
        return bypassed, bypassed
    zeroed = per_unit(gradient * value, site, samples)
    if mean is None:
        return zeroed, zeroed
    constant = tuple(a for a in range(1, mean.ndim) if mean.shape[a] == 1 and value.shape[a] > 1)
    reduced = gradient.sum(constant, keepdim=True) if constant else gradient
    return zeroed - per_unit(reduced * mean, site, samples), zeroed


def attribution(gradient: Tensor, value: Tensor, site: Site, samples: int) -> Tensor:
    """Σ a · g per sample and unit, [n, U]: first-order effect of scaling the unit away."""
    return per_unit(gradient * value.detach(), site, samples)


def root_mean_square(value: Tensor) -> Tensor:
    """RMS over all but the first axis, [n]."""
    flat = value.detach().reshape(value.shape[0], 1, -1)
    # A batched dot product: several times faster than a norm along an axis.
    return (torch.bmm(flat, flat.transpose(1, 2)).flatten() / flat.shape[2]).sqrt()


def prediction_spread(objective: Objective, quadratic: Tensor, std: Tensor) -> Tensor:
    """Standard deviation of `predicted_divergence` over samples, from that of the squares.

    Halved as the squares are; for relative L2, a root, to first order: std / (2 √quadratic).
    """
    if objective.output != "values":
        return std / 2
    return std / (2 * quadratic.clamp_min(1e-30).sqrt())
