import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import checkpoints as oracle
from scipy import stats

from zsei.checkpoint.history.history import History, merge, observe, tendency, without
from zsei.checkpoint.history.history_file import load_history, save_history
from zsei.errors import DataError, MemoryDamaged, OutputError, UsageError


def rows(n: int, units: int, seed: int = 0) -> np.ndarray:
    """Importance [c, u] in which some measurements are missing."""
    generator = np.random.default_rng(seed)
    found = generator.exponential(size=(n, units)).astype(np.float32)
    found[generator.random((n, units)) < 0.2] = np.nan
    return found


def history_of(x: np.ndarray, name: str = "mlp", begin: int = 1, **options: Any) -> History:
    history = History(**options)
    for number, row in enumerate(x):
        history = observe(history, begin + number, {name: row})
    return history


def same(first: History, second: History) -> bool:
    return first.steps == second.steps and all(
        np.array_equal(first.values[name], second.values[name], equal_nan=True)
        for name in {*first.values, *second.values}
    )


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.99])
def test_the_mean_is_the_recursion_with_its_correction(momentum: float) -> None:
    x = rows(60, 7)
    found = tendency(history_of(x, momentum=momentum), "mlp")
    wanted = [oracle.moving_average(x[:, unit].tolist(), momentum) for unit in range(7)]
    assert found.mean == pytest.approx(wanted, rel=1e-5)
    assert found.n.tolist() == (~np.isnan(x)).sum(0).tolist()


def test_the_first_checkpoint_is_not_pulled_to_zero() -> None:
    found = tendency(history_of(np.array([[3.0, 0.0]])), "mlp")
    assert found.mean.tolist() == [3.0, 0.0]
    assert np.isnan([*found.error, *found.trend]).all()


def test_the_trend_is_a_regression_per_unit() -> None:
    x = rows(40, 5, seed=3)
    x[:, 0] = 2.0 - 0.03 * np.arange(40)
    steps = np.arange(10, 50)
    found = tendency(history_of(x, begin=10), "mlp")
    for unit in range(5):
        seen = ~np.isnan(x[:, unit])
        fit: Any = stats.linregress(steps[seen], x[seen, unit].astype(float))
        assert found.trend[unit] == pytest.approx(fit.slope, rel=1e-4)
        assert found.trend_error[unit] == pytest.approx(fit.stderr, rel=1e-3, abs=1e-8)
    assert found.trend[0] == pytest.approx(-0.03, rel=1e-5)


def test_the_standard_error_covers_the_truth() -> None:
    """Of 2000 units of true mean 1, about 95 % lie within two standard errors."""
    x = np.random.default_rng(0).normal(1.0, 0.3, size=(200, 2000))
    found = tendency(history_of(x, momentum=0.97), "mlp")
    inside = (np.abs(found.mean - 1) < 1.96 * found.error).mean()
    assert 0.92 < inside < 0.97
    level = tendency(history_of(x[:, :3], momentum=0.99999), "mlp")
    assert level.error == pytest.approx(stats.sem(x[:, :3]), rel=1e-3)


def test_five_hundred_checkpoints_are_kept() -> None:
    x = np.arange(520, dtype=np.float32)[:, None]
    history = history_of(x)
    assert len(history.steps) == 500 == len(history.values["mlp"])
    assert history.steps[0] == 21
    wanted = oracle.moving_average(x[:, 0].tolist(), 0.99)
    assert tendency(history, "mlp").mean[0] == pytest.approx(wanted, rel=0.01)


def test_what_was_not_measured_is_not_zero() -> None:
    history = observe(History(), 1, {"a": [1.0, 2.0]})
    history = observe(history, 2, {"b": [5.0]})
    history = observe(history, 3, {"a": [3.0, np.nan], "b": [5.0]})
    found = tendency(history, "a")
    assert found.n.tolist() == [2, 1]
    assert found.mean[1] == 2.0
    assert tendency(history, "b").n.tolist() == [2]
    nothing = tendency(observe(History(), 1, {"a": [np.nan]}), "a")
    assert np.isnan(nothing.mean[0])
    assert nothing.n[0] == 0


@pytest.mark.parametrize(
    ("step", "importance", "words"),
    [
        (2, {"mlp": np.ones(3)}, "step 2 comes after step 2"),
        (3, {"mlp": np.ones(4)}, "had 3 units at earlier checkpoints and has 4 now"),
        (3, {"mlp": np.ones((3, 1))}, "one axis"),
        (3, {"mlp": np.array([1, np.inf, 1])}, "1 of 3 units of `mlp` are infinite"),
    ],
)
def test_what_does_not_fit_is_refused(step: int, importance: Any, words: str) -> None:
    history = history_of(rows(2, 3))
    with pytest.raises(DataError, match=words):
        observe(history, step, importance)
    assert history.steps == (1, 2)


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="below 1"):
        History(momentum=1.0)
    with pytest.raises(UsageError, match="At least one checkpoint"):
        History(kept=0)


def test_cut_units_leave_the_history() -> None:
    x = rows(5, 4)
    history = without(history_of(x), "mlp", [1, 3])
    assert np.array_equal(history.values["mlp"], x[:, [0, 2]], equal_nan=True)
    assert observe(history, 6, {"mlp": [1.0, 2.0]}).values["mlp"].shape == (6, 2)
    for name, units in (("mlp", [4]), ("mlp", [-1]), ("head", [0])):
        with pytest.raises(UsageError):
            without(history_of(x), name, units)


def test_halves_made_side_by_side_merge_into_the_whole() -> None:
    x, other = rows(30, 4), rows(30, 6, seed=9)
    whole, first, second = History(kept=25), History(kept=25), History(kept=25)
    for step in range(30):
        both = {"a": x[step], "b": other[step]}
        whole = observe(whole, step, both)
        if step % 3:
            first = observe(first, step, {"a": x[step]})
            second = observe(second, step, {"b": other[step]})
        else:
            second = observe(second, step, both)
    assert same(merge(first, second), whole)
    assert same(merge(second, first), whole)
    assert same(merge(whole, whole), whole)
    assert same(merge(whole, History(kept=25)), whole)


def test_histories_of_another_kind_do_not_merge() -> None:
    with pytest.raises(UsageError, match="one momentum"):
        merge(History(momentum=0.9), History())
    with pytest.raises(DataError, match="2 units in one history and 3"):
        merge(history_of(rows(2, 2)), history_of(rows(2, 3)))


def test_a_history_survives_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.safetensors"
    history = history_of(rows(9, 4), name="layers.0/mlp", momentum=0.9, kept=7)
    save_history(history, path)
    found = load_history(path)
    assert same(found, history)
    assert (found.momentum, found.kept) == (0.9, 7)
    save_history(observe(found, 50, {"layers.0/mlp": np.ones(4)}), path)
    assert load_history(path).steps[-1] == 50
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    save_history(History(), path)
    assert load_history(path).steps == ()


def test_a_damaged_file_is_said_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "history.safetensors"
    save_history(history_of(rows(9, 4)), path)
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[:-8], b"\x80\x04N."):
        path.write_bytes(broken)
        with pytest.raises(MemoryDamaged, match="one whole safetensors file"):
            load_history(path)
        assert path.read_bytes() == broken
    path.write_bytes(whole.replace(b'\\"version\\": 1', b'\\"version\\": 9'))
    with pytest.raises(MemoryDamaged, match="another version"):
        load_history(path)
    with pytest.raises(UsageError, match="no importance history"):
        load_history(tmp_path / "none")


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "history.safetensors"
    history = history_of(rows(3, 2))
    save_history(history, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save_history(observe(history, 9, {"mlp": [1.0, 1.0]}), path)
    assert same(load_history(path), history)
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == [path.name]


def test_fifty_thousand_units_at_five_hundred_checkpoints_are_a_matter_of_seconds() -> None:
    values = {"mlp": np.ones((500, 50_000), dtype=np.float32)}
    history = History(steps=tuple(range(500)), values=values)
    history = observe(history, 500, {"mlp": np.ones(50_000)})
    assert history.values["mlp"].nbytes == 100_000_000
    assert history.steps == tuple(range(1, 501))
