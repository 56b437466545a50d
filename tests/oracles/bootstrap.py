"""The bootstrap bound as loops over plain numbers, and the binomial bound by search."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np


def bca_upper_bound(
    statistic: Callable[[list[int]], float], n: int, resamples: int, confidence: float, seed: int
) -> float:
    """Efron's BCa bound; `statistic` gets a list of sample numbers."""
    generator = np.random.default_rng(seed)
    drawn = [
        statistic([int(i) for i in generator.integers(0, n, size=n)]) for _ in range(resamples)
    ]
    point = statistic(list(range(n)))
    slack = 1e-12 * max(abs(value) for value in drawn)  # a tie but for the order of summation
    below = sum(
        0.5 if abs(value - point) <= slack else 1.0 if value < point else 0.0 for value in drawn
    )
    share = min(max(below / resamples, 1 / (2 * resamples)), 1 - 1 / (2 * resamples))
    normal = NormalDist()
    z0 = normal.inv_cdf(share)
    left_out = [statistic([j for j in range(n) if j != i]) for i in range(n)]
    centre = sum(left_out) / n
    cubes = sum((centre - value) ** 3 for value in left_out)
    squares = sum((centre - value) ** 2 for value in left_out)
    a = cubes / (6 * squares**1.5) if squares > 0 else 0.0
    z = z0 + normal.inv_cdf(confidence)
    level = normal.cdf(z0 + z / (1 - a * z)) if 1 - a * z > 0 else 1.0
    ordered = sorted(drawn)
    place = level * (resamples - 1)
    low = math.floor(place)
    high = min(low + 1, resamples - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def binomial_upper_bound(failures: int, n: int, confidence: float) -> float:
    """The rate p at which at most `failures` of n fail with probability 1 - confidence."""
    if failures >= n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(100):
        p = (low + high) / 2
        chance = sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(failures + 1))
        low, high = (p, high) if chance > 1 - confidence else (low, p)
    return low


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Pearson's correlation of mean ranks."""

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(1.0 if w < v else 0.5 if w == v else 0.0 for w in values) + 0.5 for v in values]

    a, b = ranks(first), ranks(second)
    ma, mb = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - ma) * (y - mb) for x, y in zip(a, b, strict=True))
    scale = math.sqrt(sum((x - ma) ** 2 for x in a) * sum((y - mb) ** 2 for y in b))
    return top / scale if scale > 0 else 0.0
