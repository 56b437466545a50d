"""The same claim, measured twice on a busy machine, never holds once and fails once."""

from collections import Counter

import numpy as np
import pytest
from oracles.claims import busy_ratios, unlike, verdicts

from zsei.timing.decision import MARGIN, ROUNDS, look, sequential_ranks

CLAIMED = 2.0
RANKS = sequential_ranks(ROUNDS, 0.99)


def simulated(distance: float, runs: int, seed: int) -> list[str]:
    """Verdicts on "at least 2" when the truth is `distance` times that."""
    values = busy_ratios(CLAIMED * distance, runs, ROUNDS, np.random.default_rng(seed))
    return verdicts(values, CLAIMED, RANKS, MARGIN)


def check(distance: float, runs: int) -> list[str]:
    """No pair of runs contradicts itself; far from the claim nearly all say the truth."""
    found = simulated(distance, runs, seed=round(1000 * distance))
    pairs = zip(found[::2], found[1::2], strict=True)
    assert {"held", "not held"} not in [set(pair) for pair in pairs]
    wrong = "not held" if distance > 1 else "held"
    assert found.count(wrong) <= 0.005 * runs
    if distance <= 0.8 or distance >= 1.2:
        assert unlike(found) <= 0.01
        assert Counter(found).most_common(1)[0][0] == ("held" if distance > 1 else "not held")
    if distance == 1:
        assert Counter(found).most_common(1)[0][0] == "not decided"
        assert unlike(found) <= 0.005
    return found


@pytest.mark.parametrize("distance", [0.5, 0.8, 0.95, 1.0, 1.05, 1.2, 2.0])
def test_a_verdict_never_flips(distance: float) -> None:
    check(distance, 1000)


@pytest.mark.long
@pytest.mark.parametrize(
    "distance",
    [0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99, 1.0, 1.01, 1.03, 1.05, 1.07, 1.1, 1.15, 1.2,
     1.3, 1.5, 2.0],
)  # fmt: skip
def test_a_verdict_never_flips_in_ten_thousand_pairs(distance: float) -> None:
    check(distance, 20_000)


def test_the_simulation_decides_as_the_measurement_does() -> None:
    values = busy_ratios(2.1, 12, ROUNDS, np.random.default_rng(5))
    one_by_one = []
    for row in values:
        looks = (look(row[:n], CLAIMED, None) for n in range(1, ROUNDS + 1))
        one_by_one.append(next((said for said, why in looks if why), "not decided"))
    assert verdicts(values, CLAIMED, RANKS, MARGIN) == one_by_one


def test_a_rule_without_an_interval_would_flip() -> None:
    """The planted positive of these tests: deciding by the median alone contradicts itself."""
    values = busy_ratios(2.0, 200, ROUNDS, np.random.default_rng(1))
    said = ["held" if np.median(row[:10]) >= CLAIMED else "not held" for row in values]
    assert {"held", "not held"} in [set(pair) for pair in zip(said[::2], said[1::2], strict=True)]
