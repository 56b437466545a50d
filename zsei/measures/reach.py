"""How much of something is needed, from what leaving the rest out does."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RESAMPLES = 200
"""Bootstrap draws of the samples behind an interval."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """The shortest length that is enough, with a 90 % interval over samples."""

    length: int
    low: int
    high: int


def reach(effects: Tensor, lengths: Sequence[int], *, enough: float, seed: int) -> Reach:
    """The shortest length from which on the mean effect stays a small share of the largest one.

    Formula: min { k_i : for all j >= i, mean_n e_nj <= enough · max_j mean_n e_nj }; the interval
    holds the 5th and the 95th percentile of the same number over bootstrap draws of the samples.

    Args:
        effects: [n, k], effect on sample n of keeping only lengths[k].
        lengths: Increasing; the last is the whole, whose effect is 0.
        enough: Share of the largest mean effect that counts as nothing, 0 to 1.
        seed: Seeds the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(effects)
    drawn = torch.randint(0, n, (RESAMPLES, n), generator=generator)
    means = torch.cat([effects.mean(0)[None], effects[drawn].mean(1)]).double()
    small = means <= enough * means.amax(1, keepdim=True)
    # From the right: small here and at every longer length.
    stays = small.flip(1).long().cumprod(1).flip(1).bool()
    first = stays.long().argmax(1)
    ordered = first[1:].sort().values
    return Reach(
        length=lengths[int(first[0])],
        low=lengths[int(ordered[int(0.05 * RESAMPLES)])],
        high=lengths[int(ordered[int(0.95 * RESAMPLES)])],
    )


def doublings(whole: int) -> list[int]:
    """1, 2, 4 ... up to `whole`, which closes the list."""
    found = [1]
    while found[-1] * 2 < whole:
        found.append(found[-1] * 2)
    return [*found, whole] if whole > 1 else [1]
