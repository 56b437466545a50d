"""Calls that move entries, followed entry by entry."""

from collections.abc import Callable, Mapping, Sequence
from math import prod

import torch
from torch import Tensor


def numbers(shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Tensors whose entries are all different."""
    found, low = [], 0
    for shape in shapes:
        found.append(torch.arange(low, low + prod(shape)).reshape(shape))
        low += prod(shape)
    return found


def entries_that_go(
    call: Callable[..., Tensor | Sequence[Tensor]],
    operands: Sequence[Tensor],
    removed: Sequence[Mapping[int, Sequence[int]]],
) -> list[set[tuple[int, ...]]]:
    """Positions in each result that hold an entry removed from an operand."""
    gone = set()
    for operand, axes in zip(operands, removed, strict=True):
        for axis, places in axes.items():
            gone |= set(operand.index_select(axis, torch.tensor(places)).flatten().tolist())
    results = call(*operands)
    results = list(results) if isinstance(results, tuple | list) else [results]
    return [
        {
            tuple(position)
            for position in torch.ones_like(result).nonzero().tolist()
            if int(result[tuple(position)]) in gone
        }
        for result in results
    ]


def positions(shape: Sequence[int], axes: Mapping[int, Sequence[int]]) -> set[tuple[int, ...]]:
    """All positions of a value that lie in a removed entry along some axis."""
    every = torch.ones(tuple(shape)).nonzero().tolist()
    return {tuple(p) for p in every if any(p[axis] in places for axis, places in axes.items())}
