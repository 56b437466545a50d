"""Receptive fields and covered images, computed the long way."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def chained_kernel(sizes: list[int], strides: list[int]) -> np.ndarray:
    """Response of one unit to each pixel of a line, for a chain of convolutions with all-one
    kernels: the convolution of boxes, each spread by the strides before it.
    """  # fmt: skip
    response, step = np.ones(1), 1
    for size, stride in zip(sizes, strides, strict=True):
        box = np.zeros((size - 1) * step + 1)
        box[::step] = 1
        response = np.convolve(response, box)
        step *= stride
    return response


def effective_side(influence: np.ndarray) -> float:
    """Side of the square over which the influence [y, x] would be even: √((Σ e)² / Σ e²)."""
    total = squares = 0.0
    for value in influence.flatten():
        total += float(value)
        squares += float(value) ** 2
    return (total * total / squares) ** 0.5


def covered(
    model: Callable[[Tensor], Tensor], images: Tensor, mean: Tensor, y: slice, x: slice
) -> float:
    """Mean relative L2 change of the output when the mean image [c, y, x] stands in a cell."""
    changes = []
    with torch.no_grad():
        for image in images:
            edited = image.clone()
            for c in range(image.shape[0]):
                for i in range(*y.indices(image.shape[1])):
                    for j in range(*x.indices(image.shape[2])):
                        edited[c, i, j] = mean[c, i, j]
            clean, now = model(image[None])[0], model(edited[None])[0]
            changes.append(float((now - clean).norm() / clean.norm()))
    return sum(changes) / len(changes)


def block_average(image: Tensor, factor: int) -> Tensor:
    """An image [c, y, x] with each factor x factor block at its mean."""
    found = image.clone()
    for i in range(0, image.shape[1], factor):
        for j in range(0, image.shape[2], factor):
            block = image[:, i : i + factor, j : j + factor]
            found[:, i : i + factor, j : j + factor] = block.mean((1, 2), keepdim=True)
    return found
