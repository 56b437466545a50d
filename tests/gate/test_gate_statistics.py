import math
import tracemalloc

import numpy as np
import pytest
from oracles import bootstrap as oracle

from zsei.gate import statistics
from zsei.gate.criteria import spearman
from zsei.gate.statistics import binomial_upper_bound, upper_bound
from zsei.timing.interval import median_interval


def samples(kind: str, n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return {
        "normal": rng.normal(0, 1, n),
        "exponential": rng.exponential(1, n),
        "lognormal": rng.lognormal(0, 1, n),
        "rare": (rng.random(n) < 0.1).astype(float),
        "left": -rng.exponential(1, n),
    }[kind]


@pytest.mark.parametrize("kind", ["normal", "exponential", "lognormal", "rare", "left"])
@pytest.mark.parametrize("n", [8, 33])
def test_the_bound_of_a_mean_equals_the_slow_loop(kind: str, n: int) -> None:
    x = samples(kind, n, seed=n)
    fast = upper_bound(lambda r: x[r].mean(-1), n, resamples=300, confidence=0.95, seed=5)
    slow = oracle.bca_upper_bound(lambda r: sum(x[r].tolist()) / len(r), n, 300, 0.95, 5)
    assert fast == pytest.approx(slow, rel=1e-9, abs=1e-12)


def test_the_bound_of_a_ratio_keeps_pairs_together() -> None:
    before, change = samples("exponential", 20, 1), samples("normal", 20, 2)
    after = before * 1.1 + 0.001 * change

    def fast(rows: np.ndarray) -> np.ndarray:
        return after[rows].mean(-1) / before[rows].mean(-1) - 1

    def slow(rows: list[int]) -> float:
        return sum(after[i] for i in rows) / sum(before[i] for i in rows) - 1

    bound = upper_bound(fast, 20, resamples=300, confidence=0.95, seed=3)
    assert bound == pytest.approx(oracle.bca_upper_bound(slow, 20, 300, 0.95, 3), rel=1e-9)
    # Unpaired, the spread of the losses themselves would put the bound near 0.5.
    assert 0.1 < bound < 0.102


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples("lognormal", 40, 0)

    def bound() -> float:
        return upper_bound(lambda r: x[r].mean(-1), 40, resamples=500, confidence=0.95, seed=1)

    whole = bound()
    monkeypatch.setattr(statistics, "_CHUNK", 40 * 7)
    assert bound() == pytest.approx(whole, rel=1e-12)


def test_memory_stays_bounded_for_many_samples() -> None:
    x = samples("exponential", 6_000, 0)
    tracemalloc.start()
    upper_bound(lambda r: x[r].mean(-1), len(x), resamples=200, confidence=0.95, seed=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # all rows with one left out would take 288 MB twice


def test_a_constant_is_its_own_bound() -> None:
    for constant in (0.0, 0.25):
        x = np.full(64, constant)
        bound = upper_bound(
            lambda r, x=x: x[r].mean(-1), 64, resamples=200, confidence=0.95, seed=0
        )
        assert bound == constant


@pytest.mark.parametrize(
    ("kind", "truth", "least"),
    [("normal", 0.0, 0.92), ("exponential", 1.0, 0.90), ("rare", 0.1, 0.90)],
)
def test_the_bound_covers_the_truth_about_as_often_as_it_says(
    kind: str, truth: float, least: float
) -> None:
    """400 samples of 64: the share of bounds not below the truth, ± 0.022 at 95 % coverage."""
    covered = 0
    for seed in range(400):
        x = samples(kind, 64, seed)
        bound = upper_bound(
            lambda r, x=x: x[r].mean(-1), 64, resamples=400, confidence=0.95, seed=seed
        )
        covered += bound >= truth - 1e-12
    assert least <= covered / 400 <= 0.985


def test_the_binomial_bound_equals_the_search() -> None:
    for failures, n in [(0, 64), (1, 64), (5, 20), (19, 20), (20, 20), (0, 1)]:
        expected = oracle.binomial_upper_bound(failures, n, 0.95)
        assert binomial_upper_bound(failures, n, 0.95) == pytest.approx(expected, abs=1e-9)
    assert binomial_upper_bound(0, 64, 0.95) == pytest.approx(0.0457, abs=1e-4)


@pytest.mark.parametrize("n", [1, 3, 5, 6, 7, 12, 31])
def test_the_median_interval_is_the_narrowest_that_covers(n: int) -> None:
    values = np.arange(n, dtype=float)[::-1].copy()
    median, low, high = median_interval(values, 0.9)
    assert median == (n - 1) / 2
    assert low + high == n - 1  # as many below as above

    def covered(rank: int) -> float:
        """Chance that the true median lies between the rank-th smallest and largest of n."""
        return 1 - 2 * sum(math.comb(n, k) for k in range(rank)) / 2**n

    rank = int(low) + 1
    assert rank == 1 or covered(rank) >= 0.9
    assert covered(rank + 1) < 0.9


def test_spearman_equals_the_slow_ranks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (6, 15)).astype(float), rng.normal(0, 1, (6, 15))
    b[0], a[1] = a[0], 3.0
    expected = [oracle.spearman(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]
    assert spearman(a, b) == pytest.approx(expected, abs=1e-12)
    assert expected[0] == pytest.approx(1)
    assert spearman(a, b)[1] == 0  # no order, no correlation, and no division by zero
