import time

import numpy as np
import pytest
from oracles import checkpoints as oracle

from zsei.checkpoint.history import sketch as tested
from zsei.checkpoint.history.sketch import (
    Keys,
    Sketch,
    add,
    clean_share,
    empty_sketch,
    estimate,
    merge,
    parameter_keys,
)
from zsei.errors import DataError, UsageError

ROUNDING = 1e-9


def filled(
    sketch: Sketch, seed: int = 0, batches: int = 20, keys: int = 4000
) -> tuple[Sketch, Keys, np.ndarray]:
    """A sketch of skewed amounts whose keys come again, and the exact sums of all its keys."""
    generator = np.random.default_rng(seed)
    pairs: list[tuple[int, float]] = []
    for _ in range(batches):
        some = generator.integers(0, keys, size=500).astype(np.uint64)
        amounts = generator.exponential(size=500) ** 3
        sketch = add(sketch, some, amounts)
        pairs += zip(some.tolist(), amounts.tolist(), strict=True)
    sums = oracle.exact_sums(pairs)
    every = np.arange(keys, dtype=np.uint64)
    return sketch, every, np.array([sums.get(int(key), 0.0) for key in every])


@pytest.mark.parametrize(("width", "depth"), [(64, 3), (1000, 4), (4096, 1)])
def test_estimates_are_never_below_the_exact_sums(width: int, depth: int) -> None:
    sketch, keys, exact = filled(empty_sketch(width, depth))
    found = estimate(sketch, keys)
    assert (found >= exact - ROUNDING).all()
    assert sketch.total == pytest.approx(exact.sum())
    assert found.max() > 0


def test_the_error_stays_inside_its_bound_as_often_as_promised() -> None:
    """ε = e / width, δ = e^-depth, over twenty seeds and 4000 keys each."""
    outside, n = 0, 0
    for seed in range(20):
        sketch, keys, exact = filled(empty_sketch(200, 2, seed=seed), seed=seed)
        outside += int((estimate(sketch, keys) - exact > sketch.error).sum())
        n += len(keys)
        assert sketch.error == pytest.approx(np.e / 200 * exact.sum())
    assert sketch.failure == pytest.approx(np.exp(-2))
    assert outside / n <= sketch.failure


def test_a_wide_sketch_is_exact() -> None:
    sketch, keys, exact = filled(empty_sketch())
    assert estimate(sketch, keys) == pytest.approx(exact)
    assert sketch.bytes == 8_000_000


def test_conservative_updates_are_tighter_than_adding(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain(sketch: Sketch, keys: Keys, amounts: np.ndarray) -> Sketch:
        table = sketch.table.copy()
        for row, place in zip(table, tested._places(sketch, keys), strict=True):
            np.add.at(row, place, amounts)
        return Sketch(table=table, total=sketch.total + amounts.sum(), seed=sketch.seed)

    careful, keys, exact = filled(empty_sketch(400, 4))
    monkeypatch.setattr("test_checkpoint_sketch.add", plain)
    loose, _, _ = filled(empty_sketch(400, 4))
    assert (estimate(careful, keys) <= estimate(loose, keys) + ROUNDING).all()
    error = [float((estimate(s, keys) - exact).mean()) for s in (careful, loose)]
    assert error[0] < 0.7 * error[1]


def test_keys_in_any_order_and_twice_get_all_their_amounts() -> None:
    keys = np.array([7, 3, 7, 2**64 - 1, 3], dtype=np.uint64)
    sketch = add(empty_sketch(1000, 4), keys, [1, 2, 4, 8, 16])
    wanted = np.array([3, 7, 2**64 - 1, 5], dtype=np.uint64)
    assert estimate(sketch, wanted).tolist() == [18.0, 5.0, 8.0, 0.0]


def test_adding_leaves_the_old_sketch_alone() -> None:
    before = empty_sketch(10, 2)
    add(before, np.arange(5, dtype=np.uint64), np.ones(5))
    assert before.total == 0
    assert not before.table.any()
    assert estimate(add(before, np.zeros(0, np.uint64), []), np.zeros(0, np.uint64)).size == 0


def test_a_merged_sketch_is_one_sided_and_looser_than_one_that_saw_all() -> None:
    start = empty_sketch(300, 4)
    first, keys, exact_first = filled(start, seed=1)
    second, _, exact_second = filled(start, seed=2)
    whole, _, _ = filled(first, seed=2)
    both = merge(first, second)
    exact = exact_first + exact_second
    assert both.total == pytest.approx(exact.sum()) == pytest.approx(whole.total)
    assert (estimate(both, keys) >= exact - ROUNDING).all()
    assert (estimate(both, keys) - exact).mean() > (estimate(whole, keys) - exact).mean()
    assert float((estimate(both, keys) - exact > both.error).mean()) <= both.failure


@pytest.mark.parametrize("other", [empty_sketch(300, 3), empty_sketch(300, 4, seed=1)])
def test_sketches_of_other_hashes_do_not_merge(other: Sketch) -> None:
    with pytest.raises(UsageError, match="one shape and seed"):
        merge(empty_sketch(300, 4), other)


@pytest.mark.parametrize(
    ("amounts", "words"),
    [([1.0], "1 for 2 keys"), ([1.0, -1.0], "1 of 2"), ([np.nan, np.inf], "2 of 2")],
)
def test_amounts_that_cannot_be_summed_are_refused(amounts: list[float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        add(empty_sketch(10, 2), np.arange(2, dtype=np.uint64), amounts)


def test_a_sketch_needs_cells() -> None:
    with pytest.raises(UsageError, match="0 of 10"):
        empty_sketch(10, 0)


def test_keys_of_parameters_are_their_own_and_stay_the_same() -> None:
    first, second = parameter_keys("layers.0.weight", 10_000), parameter_keys("layers.0.bias", 50)
    assert len(set(first.tolist()) | set(second.tolist())) == 10_050
    assert int(parameter_keys("w", 2)[0]) == 0x20925082A2286B9E  # in every process
    assert parameter_keys("w", 3)[:2].tolist() == parameter_keys("w", 2).tolist()


def test_places_are_spread_evenly_and_rows_are_independent() -> None:
    """Consecutive keys, as those of one tensor are: chi-squared over the cells, and pairs that
    meet in one row meet again in another no more often than strangers."""
    sketch = empty_sketch(128, 6)
    places = tested._places(sketch, parameter_keys("w", 128 * 200))
    assert places.min() == 0
    assert places.max() == 127
    for row in places:
        counts = np.bincount(row, minlength=128)
        chi = ((counts - 200) ** 2 / 200).sum()
        assert 127 - 5 * np.sqrt(2 * 127) < chi < 127 + 5 * np.sqrt(2 * 127)
    near = places[:, :-1] == places[:, 1:]
    assert near.mean() == pytest.approx(1 / 128, rel=0.15)
    assert (near[0] & near[1]).mean() < 10 / 128**2


def test_dead_keys_are_seen_as_often_as_said() -> None:
    for live in (300, 1500):
        sketch = add(empty_sketch(300, 5), parameter_keys("live", live), np.ones(live))
        zero = (estimate(sketch, parameter_keys("dead", 4000)) == 0).mean()
        assert zero == pytest.approx(clean_share(sketch, live), abs=0.05)


def test_a_million_parameters_take_about_a_second() -> None:
    keys = parameter_keys("weight", 1_000_000)
    begin = time.process_time()
    add(empty_sketch(), keys, np.ones(len(keys)))
    assert time.process_time() - begin < 3  # 0.4 s of CPU on the machine it was written on
