"""The measures of forecasters against slow second implementations, and where truth is known."""

from functools import cache

import pytest
import torch
import zoo
from measures.views import matrix, named, value, view_of
from oracles.series import kept_steps, linear_lag_shares, squared_errors
from prepared import SMALL, family, seeded, subject_of
from torch import Tensor, nn
from trained import LAGS, SEASON, STEPS, TRAINED

from zsei.measures import Horizon, LookBack, SeriesFlow, View
from zsei.measures.look_back import shortened
from zsei.measures.modality import few_samples, run_twin, series_input
from zsei.measures.series_flow import doubling_edges
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.prepare import prepare

SETTINGS = Settings(samples=64, batch_size=16, probes=1)
VALUES = Objective(name="fidelity", output="values", reason="a test")


@cache
def patchtst() -> View:
    model, data = TRAINED["patchtst"]()
    return view_of(prepare(model, data, settings=SETTINGS), SETTINGS)


@cache
def forecaster(planted: bool) -> View:
    made = zoo.forgetful_forecaster(planted)
    return view_of(prepare(made.model, made.data, "fidelity", SETTINGS), SETTINGS)


class Linear(nn.Module):
    """y = W x over time, with series 1 added to the forecast of series 0."""

    def __init__(self) -> None:
        super().__init__()
        self.over_time = nn.Linear(8, 4, bias=False)
        with torch.no_grad():
            self.over_time.weight.copy_(seeded(4, 8, seed=3))

    def forward(self, series: Tensor) -> Tensor:
        forecast = self.over_time(series.transpose(1, 2)).transpose(1, 2)
        first = forecast[:, :, :1] + 2 * forecast[:, :, 1:]
        return torch.cat([first, forecast[:, :, 1:]], 2)


def linear() -> View:
    data = seeded(32, 8, 2) * torch.tensor([1.0, 3.0])
    return view_of(subject_of(Linear().eval(), [data], VALUES, batch_size=16), SMALL)


def test_lags_of_a_linear_forecast_are_its_weights() -> None:
    view = linear()
    found = SeriesFlow().measure(view)
    profile = matrix(found, "lag_profile")
    assert profile.columns == ("1", "2", "3-4", "5-8")
    shares = linear_lag_shares(seeded(4, 8, seed=3), torch.ones(()))
    for h in range(4):
        joined = [float(shares[h, a - 1 : b].sum()) for a, b in doubling_edges(8)]
        assert list(profile.values[h]) == pytest.approx(joined, rel=1e-4)


def test_mixing_is_what_was_mixed() -> None:
    view = linear()
    found = SeriesFlow().measure(view)
    first, second = matrix(found, "variate_mixing").values
    deviation = torch.cat([b.inputs[0] for b in view.subject.calibration]).flatten(0, 1).std(0)
    other = float((2 * deviation[1] / deviation[0]).square())
    assert first[1] == pytest.approx(other / (1 + other), rel=1e-4)
    assert tuple(second) == (0, 1)
    mixing = value(found, "input.x", "mixing_share")
    assert mixing == pytest.approx((first[1] or 0) / 2, rel=1e-5)


def test_older_steps_are_replaced_by_the_mean_of_the_kept() -> None:
    view = forecaster(False)
    series = series_input(view.subject)
    assert series is not None
    assert (series.lags, series.horizon, series.variates) == (32, 8, 2)
    lengths, effects, losses = shortened(view.subject, series, 4)
    assert losses is None
    few = few_samples(view.subject, len(effects)).inputs[0]
    expected = kept_steps(lambda x: run_twin(view.subject, (x,)), few[:3], 4)
    assert effects[:3, lengths.index(4)].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_forecaster_of_eight_steps_needs_eight() -> None:
    found = LookBack().measure(forecaster(True))
    assert value(found, "input.series", "effective_look_back") == 8
    assert value(found, "input.series", "effective_look_back_high") == 8
    effects = matrix(found, "look_back_effect")
    assert max(v or 0 for v in effects.values[0][effects.columns.index("8") :]) == 0
    whole = LookBack().measure(forecaster(False))
    assert value(whole, "input.series", "effective_look_back") == 32
    lags = matrix(SeriesFlow().measure(forecaster(True)), "lag_profile")
    assert all(row[lags.columns.index("9-16")] == 0 for row in lags.values)


def test_a_trained_forecaster_beats_the_last_value_inside_the_season() -> None:
    """A whole season ahead, the last value is a good forecast itself."""
    view = patchtst()
    found = Horizon().measure(view)
    assert SEASON == STEPS
    assert STEPS / 2 <= value(found, "input.past_values", "useful_horizon") <= STEPS
    assert value(found, "input.past_values", "skill") > 0.7
    model, naive = matrix(found, "horizon_error").values
    few = few_samples(view.subject, 64)
    assert few.labels is not None
    past, truth = few.inputs[0], few.labels
    expected = squared_errors(run_twin(view.subject, few.inputs), truth)
    assert list(model) == pytest.approx(expected, rel=1e-4)
    expected = squared_errors(past[:, -1:].expand_as(truth), truth)
    assert list(naive) == pytest.approx(expected, rel=1e-4)
    assert (naive[SEASON // 2 - 1] or 0) > 3 * (naive[SEASON - 1] or 0)


def test_a_forecaster_of_single_series_mixes_none() -> None:
    found = SeriesFlow().measure(patchtst())
    assert value(found, "input.past_values", "mixing_share") == 0
    given = value(LookBack().measure(patchtst()), "input.past_values", "look_back_given")
    assert given == LAGS


def test_few_samples_tell_no_horizon() -> None:
    view = view_of(family("patchtst"), SMALL)
    told = named(Horizon(fewest=1000).measure(view), "input.past_values")["useful_horizon"]
    assert told.state == "could not tell"
    assert "1000 are the least" in told.note


def test_tables_and_texts_are_no_series() -> None:
    for name in ("mlp", "encoder", "gpt2", "vit"):
        view = view_of(family(name), SMALL)
        assert series_input(view.subject) is None
        for measure in (SeriesFlow(), LookBack(), Horizon()):
            assert measure.measure(view).measurements == {}


def test_rows_of_a_table_are_told_from_steps_in_time() -> None:
    walk = seeded(16, 12).cumsum(1)
    model = nn.Linear(12, 4)
    assert series_input(subject_of(model, [walk], VALUES)) is not None
    assert series_input(subject_of(model, [seeded(16, 12)], VALUES)) is None
