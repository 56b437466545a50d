import numpy as np
import pytest
from oracles import over_time as oracle

from zsei.checkpoint.history.slope import CORRELATIONS, slopes
from zsei.checkpoint.history.turning import TurnLimits, turns
from zsei.errors import DataError, UsageError


def noise(n: int, series: int, correlation: float, seed: int = 0) -> np.ndarray:
    """Stationary first-order autoregressions of variance 1, [c, s]."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, series))
    for row in range(1, n):
        x[row] = correlation * x[row - 1] + np.sqrt(1 - correlation**2) * x[row]
    return x


def test_slopes_their_errors_and_chances_are_those_of_whole_matrices() -> None:
    generator = np.random.default_rng(1)
    epochs = np.cumsum(generator.integers(1, 4, size=18))
    x = 3 + 0.05 * epochs[:, None] + noise(18, 6, 0.6)
    x[generator.random(x.shape) < 0.15] = np.nan
    found = slopes(epochs, x)
    for s in range(6):
        chance, error = oracle.chance_of_rising(epochs.tolist(), x[:, s].tolist(), CORRELATIONS)
        assert found.slope[s] == pytest.approx(oracle.theil_sen(epochs.tolist(), x[:, s].tolist()))
        assert found.rising[s] == pytest.approx(chance, rel=1e-6)
        assert found.falling[s] == pytest.approx(1 - chance, rel=1e-6)
        assert found.error[s] == pytest.approx(error, rel=1e-6)


def test_the_unit_of_a_series_does_not_matter_to_its_chance() -> None:
    x = 2 + noise(20, 3, 0.5)
    one, other = slopes(range(20), x), slopes(range(20), 1e-9 * x)
    assert other.rising == pytest.approx(one.rising)
    assert other.error == pytest.approx(1e-9 * one.error)


@pytest.mark.parametrize(
    ("correlation", "most"), [(0.0, 0.002), (0.5, 0.002), (0.8, 0.005), (0.9, 0.012)]
)
def test_noise_that_remembers_is_not_taken_for_a_slope(correlation: float, most: float) -> None:
    """At a thousandth. Least squares would call a tenth of the last a slope, as tested below."""
    found = slopes(range(30), 5 + noise(30, 2000, correlation))
    assert (found.rising < 0.001).mean() <= most
    assert (found.falling < 0.001).mean() <= most


def test_errors_that_forget_the_memory_would_be_wrong() -> None:
    """The negative above has teeth: least squares calls a seventh of such noise a slope."""
    x = noise(30, 200, 0.9)
    chances = [oracle.chance_of_rising(range(30), x[:, s].tolist(), [0.0])[0] for s in range(200)]
    assert (np.array(chances) < 0.001).mean() > 0.05


def test_a_steady_climb_is_seen_and_a_constant_is_none() -> None:
    climb = np.linspace(1, 2, 30)[:, None] + 0.02 * noise(30, 200, 0.3)
    found = slopes(range(30), climb)
    assert (found.rising < 1e-6).all()
    assert found.slope == pytest.approx(np.full(200, 1 / 29), rel=0.1)
    still = slopes(range(30), np.full((30, 1), 7.0))
    assert still.slope[0] == 0
    assert still.rising[0] == pytest.approx(0.5)


def test_too_few_checkpoints_say_nothing() -> None:
    x = np.full((8, 2), np.nan)
    x[:4, 0] = [1, 2, 3, 4]
    x[:5, 1] = [1, 2, 3, 4, 5]
    found = slopes(range(8), x)
    assert np.isnan([found.slope[0], found.rising[0], found.error[0]]).all()
    assert found.n.tolist() == [4, 5]
    assert found.slope[1] == 1


def test_epochs_rise_and_values_are_finite() -> None:
    with pytest.raises(DataError, match="rising epochs"):
        slopes([1, 1, 2], np.zeros((3, 1)))
    with pytest.raises(DataError, match="finite values"):
        slopes([1, 2], np.full((2, 1), np.inf))


def test_what_stopped_is_found_where_trying_every_place_finds_it() -> None:
    generator = np.random.default_rng(2)
    x = generator.lognormal(sigma=0.4, size=(40, 40))
    for unit in range(30):
        x[generator.integers(8, 33) :, unit] *= 0.01
    x[20, :5] = 1.0  # an exception on the low side
    found = turns(x)
    assert found.fell.sum() > 15
    for unit in range(40):
        wanted = oracle.fell_at(x[:, unit].tolist(), 0.05, 0.3, 0.95)
        assert found.fell[unit] == (wanted is not None)
        if wanted is not None:
            assert (found.at[unit], found.confidence[unit]) == (wanted[0], pytest.approx(wanted[1]))


def test_waking_is_dying_read_backwards() -> None:
    x = np.random.default_rng(3).lognormal(sigma=0.3, size=(30, 6))
    x[:12] *= 0.001
    found = turns(x)
    assert found.rose.all()
    assert not found.fell.any()
    assert found.at.tolist() == [12] * 6
    assert (found.after > 100 * found.before).all()
    again = turns(x[::-1])
    assert again.fell.all()
    assert again.at.tolist() == [18] * 6


def test_without_an_exception_it_takes_nine_checkpoints_on_each_side() -> None:
    for n, told in ((8, False), (9, True)):
        x = np.concatenate([np.ones((20, 1)), np.full((n, 1), 0.001)])
        assert turns(x).fell[0] == told


def test_what_was_not_measured_last_has_no_turn() -> None:
    x = np.concatenate([np.ones((20, 1)), np.full((12, 1), 0.0)])
    x[-1] = np.nan
    assert not turns(x).fell[0]


def test_noise_does_not_die() -> None:
    """Thousands of units that come and go, independent or not, and none that stays away."""
    generator = np.random.default_rng(4)
    wild = generator.exponential(size=(64, 1500))
    slow = np.exp(0.8 * noise(64, 1500, 0.9))
    for x in (wild, slow):
        found = turns(x)
        assert not (found.fell | found.rose).any()


def test_limits_of_a_turn_are_shares() -> None:
    with pytest.raises(UsageError, match="between 0 and 1"):
        TurnLimits(low=1.5)
