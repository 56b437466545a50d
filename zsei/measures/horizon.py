"""How far ahead a forecast is worth having."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.modality import Series, could_not_tell, few_samples, run_twin, series_input
from zsei.measures.series_flow import series_component
from zsei.records import Matrix, Measurement
from zsei.subject.types import Subject
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class Horizon:
    """Error of each forecast step beside that of repeating the last value.

    Measures: the horizon up to which the model knows more than the last value says.

    Formula: error(h) = E_n E_v (ŷ_h - y_h)²; naive(h) the same with the last value for ŷ;
    useful_horizon = the number of first steps h at which the one-sided 95 % bound of the mean of
    naive - error over samples (normal approximation) lies above 0; skill = 1 - Σ error / Σ naive.

    Reading it: steps behind the useful horizon add cost and no knowledge on these data. A useful
    horizon of 0 is a model that a constant matches.

    Misleads when: samples overlap in time: they are then fewer than they look, and the bound too
    narrow. Repeating the last value is a weak rival where a season is strong.

    References: Hyndman and Koehler, "Another look at measures of forecast accuracy", International
    Journal of Forecasting, 2006 (errors scaled by the naive forecast's).
    """

    name: ClassVar[str] = "horizon"

    samples: int = 64
    """Samples whose errors are taken."""
    fewest: int = 8
    """Samples below which no horizon is claimed."""

    def measure(self, view: View) -> Measured:
        """One matrix and two numbers on the output's input; nothing without labels."""
        series = series_input(view.subject)
        if series is None or not view.subject.objective.supervised:
            return Measured()
        found = step_errors(view.subject, series, self.samples)
        if found is None:
            return Measured()
        model, naive = found
        n = len(model)
        matrix = Matrix(
            name="horizon_error",
            title="Squared error by forecast step",
            rows=("model", "last value"),
            columns=tuple(str(h) for h in range(1, series.horizon + 1)),
            values=(tuple(model.mean(0).tolist()), tuple(naive.mean(0).tolist())),
            unit="squared error",
            n=n,
        )
        component = series_component(view, series)
        if n < self.fewest:
            why = f"{n} samples; {self.fewest} are the least"
            unknown = could_not_tell("useful_horizon", "steps", why, n)
            return Measured(measurements={component: (unknown,)}, matrices=(matrix,))
        gain = naive - model
        low = gain.mean(0) - 1.645 * gain.std(0) / n**0.5
        useful = int((low > 0).long().cumprod(0).sum())
        skill = 1 - float(model.sum() / naive.sum().clamp_min(1e-30))
        return Measured(
            measurements={
                component: (
                    Measurement(name="useful_horizon", value=useful, unit="steps", n=n,
                                note=f"of {series.horizon}"),
                    Measurement(name="horizon_given", value=series.horizon, unit="steps", n=n),
                    Measurement(name="skill", value=skill, unit="share of the naive error", n=n),
                )
            },
            matrices=(matrix,),
        )  # fmt: skip


def step_errors(subject: Subject, series: Series, samples: int) -> tuple[Tensor, Tensor] | None:
    """(model's, last value's) squared error [n, h], mean over series; None without such labels."""
    few = few_samples(subject, max(samples, subject.calibration[0].size))
    if few.labels is None:
        return None
    forecast = series.by_time(run_twin(subject, few.inputs)).double()
    truth = few.labels.double().reshape(series_shape(few.labels, series, forecast))
    truth = series.by_time(truth) if truth.shape != forecast.shape else truth
    last = series.by_time(few.inputs[series.index]).double()[:, -1:]
    error = (forecast - truth).square().mean(2)
    return error, (last - truth).square().mean(2).expand_as(error)


def series_shape(labels: Tensor, series: Series, forecast: Tensor) -> torch.Size:
    """Shape that labels of as many numbers as the forecast take."""
    if labels.numel() != forecast.numel():
        raise ValueError(f"{tuple(labels.shape)} labels for {tuple(forecast.shape)} forecasts")
    if series.last_axis_is_time:
        return torch.Size((len(forecast), series.variates, series.horizon))
    return forecast.shape
