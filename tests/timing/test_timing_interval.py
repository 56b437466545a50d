"""Intervals: what enumeration says, and what may be said of a claim."""

import numpy as np
import pytest
from oracles.timing import rank_by_enumeration

from zsei.timing.interval import Interval, decide, interval_of


@pytest.mark.parametrize("n", [2, 4, 5, 8, 9, 11])
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_an_interval_ends_at_the_ranks_that_enumeration_finds(n: int, confidence: float) -> None:
    values = np.random.default_rng(n).permutation(n).astype(float)
    interval = interval_of(values, confidence)
    rank = max(rank_by_enumeration(n, confidence), 1)  # too few: the whole range
    assert (interval.low, interval.high) == (rank - 1, n - rank)
    assert interval.median == (n - 1) / 2
    assert (interval.n, interval.confidence) == (n, confidence)


def test_the_inverse_turns_the_ends_round() -> None:
    inverse = Interval(median=2, low=1, high=4, n=5).inverse()
    assert (inverse.low, inverse.median, inverse.high) == (0.25, 0.5, 1)


def test_a_claim_is_held_only_by_the_whole_interval() -> None:
    interval = Interval(median=2, low=1.5, high=3, n=9)
    assert decide(interval, 1.5) == "held"
    assert decide(interval, 1.6) == "not decided"
    assert decide(interval, 3.1) == "not held"
    assert decide(interval, None, 3) == "held"
    assert decide(interval, None, 2.9) == "not decided"
    assert decide(interval, None, 1.4) == "not held"
    assert decide(interval, 1, 4) == "held"
    assert decide(interval, 1, 2) == "not decided"
    assert decide(interval, None) == "held"
