"""Slow, obvious second implementations of what `zsei.checkpoint` computes."""

import math
from collections import defaultdict
from collections.abc import Sequence


def curve(shape: str, initial: float, end: float, power: float, step: int, steps: int) -> float:
    """A schedule, step by step from its start."""
    if shape == "exponential":
        left = 1 - initial
        factor = ((1 - end) / (1 - initial)) ** (1 / steps)
        for _ in range(step):
            left *= factor
        return 1 - left
    way = step / steps
    return initial + (end - initial) * (way if shape == "linear" else math.pow(way, power))


def moving_average(values: Sequence[float], momentum: float) -> float:
    """The recursion with its correction; NaN is not an observation."""
    mean, count = 0.0, 0
    for value in values:
        if not math.isnan(value):
            mean = momentum * mean + (1 - momentum) * value
            count += 1
    return mean / (1 - momentum**count) if count else math.nan


def exact_sums(pairs: Sequence[tuple[int, float]]) -> dict[int, float]:
    """What a sketch estimates, with a dictionary."""
    sums: dict[int, float] = defaultdict(float)
    for key, amount in pairs:
        sums[key] += amount
    return sums


def binomial_at_most(k: int, n: int, rate: float) -> float:
    """P(Binomial(n, rate) <= k), term by term."""
    return sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k + 1))
