"""Rank agreement by definition."""

import math


def kendall_tau_b(first: list[float], second: list[float]) -> float:
    """(concordant - discordant) / √((pairs - ties in first)(pairs - ties in second))."""
    agree = tied_first = tied_second = pairs = 0
    for i in range(len(first)):
        for j in range(i):
            a, b = first[i] - first[j], second[i] - second[j]
            pairs += 1
            tied_first += a == 0
            tied_second += b == 0
            agree += (a * b > 0) - (a * b < 0)
    return agree / math.sqrt((pairs - tied_first) * (pairs - tied_second))


def average_ranks(values: list[float]) -> list[float]:
    """1 + how many are smaller + half of how many others are equal."""
    return [1 + sum(o < v for o in values) + (sum(o == v for o in values) - 1) / 2 for v in values]


def spearman_rho(first: list[float], second: list[float]) -> float:
    """Pearson correlation of average ranks."""
    a, b = average_ranks(first), average_ranks(second)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    below = sum((x - mean_a) ** 2 for x in a) * sum((y - mean_b) ** 2 for y in b)
    return top / math.sqrt(below)


def share_of_top(scores: list[float], truth: list[float], k: int) -> float:
    """Share of the k largest of the truth among the k largest scores."""

    def top(values: list[float]) -> set[int]:
        return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])

    return len(top(scores) & top(truth)) / k
