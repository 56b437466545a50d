import math

import numpy as np
import pytest
from oracles import checkpoints as oracle

from zsei.checkpoint.history.history import History, observe
from zsei.checkpoint.history.masks import (
    DEAD,
    DeadLimits,
    dead_confidence,
    mask_from_history,
    mask_from_sketch,
)
from zsei.checkpoint.history.sketch import Sketch, add, empty_sketch, parameter_keys
from zsei.errors import UsageError


def history_of(x: np.ndarray) -> History:
    history = History()
    for step, row in enumerate(x):
        history = observe(history, step, {"mlp": row})
    return history


@pytest.mark.parametrize("n", [1, 30, 59, 200])
@pytest.mark.parametrize("above", [0, 1, 5])
def test_the_confidence_is_a_binomial_tail(n: int, above: int) -> None:
    above = min(above, n)
    found = dead_confidence(np.array([above]), np.array([n]))
    assert found[0] == pytest.approx(1 - oracle.binomial_at_most(above, n, 0.05), abs=1e-12)


def test_it_takes_59_checkpoints_to_be_sure_and_none_say_nothing() -> None:
    assert dead_confidence(np.zeros(1, int), np.zeros(1, int))[0] == 0
    x = np.zeros((59, 2), dtype=np.float32)
    for n, dead in ((0, False), (30, False), (58, False), (59, True)):
        if n:
            assert mask_from_history(history_of(x[:n]), "mlp").dead.tolist() == [dead, dead]
    assert math.isclose(
        mask_from_history(history_of(x[:30]), "mlp").confidence[0], 0.7854, rel_tol=1e-4
    )


def test_the_statement_holds_as_often_as_it_says() -> None:
    """Units that are above the threshold at exactly a share r are called dead in 5 % of cases."""
    generator = np.random.default_rng(0)
    x = np.where(generator.random((100, 4000)) < 0.05, 2 * DEAD, 0.0)
    mask = mask_from_history(history_of(x), "mlp")
    assert mask.dead.mean() <= 0.05
    rarely = np.where(generator.random((100, 4000)) < 0.001, 2 * DEAD, 0.0)
    assert mask_from_history(history_of(rarely), "mlp").dead.mean() > 0.9


def test_missing_measurements_do_not_count_and_signs_do_not_hide() -> None:
    x = np.zeros((80, 4), dtype=np.float32)
    x[:40, 1] = np.nan
    x[:, 2] = -1.0
    x[:, 3] = np.nan
    mask = mask_from_history(history_of(x), "mlp")
    assert mask.dead.tolist() == [True, False, False, False]
    assert mask.observations.tolist() == [80, 40, 80, 0]
    assert mask.confidence[3] == 0


def test_a_mean_above_the_threshold_is_not_dead_however_rare() -> None:
    x = np.zeros((200, 1), dtype=np.float32)
    x[100] = 1.0
    mask = mask_from_history(history_of(x), "mlp")
    assert mask.confidence[0] > 0.95
    assert not mask.dead[0]


def filled(width: int, live: int, checkpoints: int, amount: float) -> Sketch:
    sketch = empty_sketch(width, 10)
    keys = parameter_keys("live", live)
    for _ in range(checkpoints):
        sketch = add(sketch, keys, np.full(live, amount))
    return sketch


def test_a_sketch_marks_the_dead_and_nothing_alive() -> None:
    sketch = filled(2000, 1000, 60, 1e-3)
    dead = mask_from_sketch(sketch, parameter_keys("dead", 5000), 60)
    assert dead.dead.mean() > 0.98
    assert dead.confidence[dead.dead].min() == pytest.approx(1 - 0.95**60)
    assert not mask_from_sketch(sketch, parameter_keys("live", 1000), 60).dead.any()


def test_a_crowded_sketch_marks_nothing_rather_than_something_wrong() -> None:
    sketch = filled(200, 4000, 60, 1e-3)
    mask = mask_from_sketch(sketch, parameter_keys("dead", 2000), 60)
    assert not mask.dead.any()
    assert mask.confidence.max() == 0


def test_a_sum_allows_only_so_many_checkpoints_above() -> None:
    """Sums below n thresholds: at most that many checkpoints can have been above it."""
    keys = parameter_keys("w", 3)
    sketch = add(empty_sketch(), keys, np.array([0.0, 3.5 * DEAD, 70 * DEAD]))
    mask = mask_from_sketch(sketch, keys, 200)
    wanted = [1 - oracle.binomial_at_most(k, 200, 0.05) for k in (0, 3, 70)]
    assert mask.confidence == pytest.approx(wanted, abs=1e-9)
    assert mask.dead.tolist() == [True, True, False]


@pytest.mark.parametrize("n", [0, 10])
def test_few_checkpoints_say_nothing(n: int) -> None:
    mask = mask_from_sketch(empty_sketch(), parameter_keys("w", 4), n)
    assert not mask.dead.any()
    assert mask.confidence == pytest.approx(1 - 0.95**n)


def test_limits_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="above 0"):
        DeadLimits(threshold=0.0)
    with pytest.raises(UsageError, match="counted from 0"):
        mask_from_sketch(empty_sketch(), parameter_keys("w", 1), -1)
    loose = DeadLimits(confidence=0.5)
    assert mask_from_sketch(empty_sketch(), parameter_keys("w", 1), 14, loose).dead.all()
