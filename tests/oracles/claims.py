"""Slow or hand-counted answers for claims: verdicts, bytes of attention, a busy clock."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def verdict_of(low: float, high: float, least: float | None, most: float | None) -> str:
    """Held when every number between low and high may be claimed, not held when none may."""
    tried = np.linspace(low, high, 1001)
    allowed = [
        (least is None or x >= least - 1e-12) and (most is None or x <= most + 1e-12) for x in tried
    ]
    return "held" if all(allowed) else "not decided" if any(allowed) else "not held"


def scores_bytes(samples: int, heads: int, length: int) -> int:
    """Attention scores [n, h, t, t] in float32: one number of four bytes for each."""
    return 4 * sum(1 for _ in range(samples * heads)) * length * length


def busy_ratios(
    ratio: float, runs: int, rounds: int, generator: np.random.Generator
) -> Floats:  # fmt: skip
    """Measured ratios baseline / claimed [runs, rounds] on a busy machine, true median `ratio`.

    Each side's time is disturbed with heavy tails: Student's t with two degrees of freedom in the
    logarithm (5 %), and in one round of ten another process doubles or triples it.
    """

    def disturbed() -> Floats:
        noise = np.exp(0.05 * generator.standard_t(2, (runs, rounds)).clip(-100, 100))
        hit = generator.random((runs, rounds)) < 0.1
        return noise * np.where(hit, generator.uniform(2, 3, (runs, rounds)), 1.0)

    return ratio * disturbed() / disturbed()


def verdicts(
    values: Floats, least: float, ranks: Sequence[int], margin: float
) -> list[str]:  # fmt: skip
    """Verdict of each run [runs] on a claim of at least this much, looking after every round.

    A second implementation of measuring until decided: all runs side by side.
    """
    runs, rounds = values.shape
    said = np.full(runs, "", dtype=object)
    for n in range(1, rounds + 1):
        k = ranks[n - 1]
        open_ = np.flatnonzero(said == "")
        if k == 0 or not len(open_):
            continue
        ordered = np.sort(values[open_, :n], axis=1)
        low, high = ordered[:, k - 1], ordered[:, n - k]
        near = (low >= least * (1 - margin)) & (high < least * (1 + margin))
        said[open_[near]] = "not decided"
        said[open_[high < least * (1 - margin)]] = "not held"
        said[open_[low >= least * (1 + margin)]] = "held"
    said[said == ""] = "not decided"
    return [str(verdict) for verdict in said]


def unlike(found: Sequence[str]) -> float:
    """Share of runs whose verdict is not the commonest one."""
    return 1 - Counter(found).most_common(1)[0][1] / len(found)
