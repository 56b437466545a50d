"""Rank agreement against its definitions."""

import numpy as np
import pytest
from oracles.ranking import kendall_tau_b, share_of_top, spearman_rho

from zsei.importance.agreement import FEWEST, VALIDATED, check


@pytest.mark.parametrize("n", [6, 11, 30])
@pytest.mark.parametrize("ties", [False, True])
def test_agreement_is_that_of_the_definitions(n: int, ties: bool) -> None:
    generator = np.random.default_rng(n)
    truth = generator.random(n)
    scores = truth + generator.random(n)
    if ties:
        truth, scores = truth.round(1), scores.round(1)
    found = check("head", "score", scores, truth)
    assert found.kendall == pytest.approx(kendall_tau_b(scores.tolist(), truth.tolist()))
    assert found.spearman == pytest.approx(spearman_rho(scores.tolist(), truth.tolist()))
    k = max(3, n // 4)
    assert found.top_hits == pytest.approx(share_of_top(scores.tolist(), truth.tolist(), k))
    assert found.n == n
    assert found.status == ("validated" if found.spearman >= VALIDATED else "not validated")


def test_perfect_and_reversed_orders() -> None:
    truth = np.arange(8.0)
    same = check("head", "score", truth * 3, truth)
    assert (same.kendall, same.spearman, same.top_hits) == pytest.approx((1, 1, 1))
    assert same.status == "validated"
    reversed_ = check("head", "score", -truth, truth)
    assert reversed_.spearman == pytest.approx(-1)
    assert reversed_.top_hits == 0
    assert reversed_.status == "not validated"


@pytest.mark.parametrize(
    ("scores", "truth", "why"),
    [
        (np.arange(FEWEST - 1.0), np.arange(FEWEST - 1.0), "too few units"),
        (np.ones(9), np.arange(9.0), "all scores or all effects are equal"),
        (np.arange(9.0), np.zeros(9), "all scores or all effects are equal"),
    ],
)
def test_what_cannot_be_told_is_said_so(scores: np.ndarray, truth: np.ndarray, why: str) -> None:
    found = check("head", "score", scores, truth)
    assert found.status == "could not tell"
    assert (found.kendall, found.spearman, found.top_hits) == (None, None, None)
    assert found.note == why
