"""Which lags and which series a forecast is made from."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.modality import Series, series_input
from zsei.records import Matrix, Measurement
from zsei.trace.view import Measured, View

MOST_VARIATES = 16


@final
@dataclass(frozen=True, kw_only=True)
class SeriesFlow:
    """Sensitivity of a forecast to each lag, step by step, and to each series.

    Measures: how far back the forecast of each step looks, and whether one series' past changes
    another's forecast.

    Formula: q[h, τ] = E_n Σ_v (σ_v ∂ s_h / ∂ x_{-τ,v})², s_h the forecasts of the steps h under
    random signs, σ_v the standard deviation of series v; rows are divided by their sum. Lag 1 is
    the last value; steps and lags are joined in doublings. mean_lag = Σ τ q / Σ q. variate_mixing
    [j, i]: the same sum over the past of series i for the forecast of series j; mixing_share = its
    mean off the diagonal, summed per row.

    Reading it: mass on recent lags only is persistence; mass at one far lag is a season. A mixing
    share of 0 is a model that treats every series alone (channel independence).

    Misleads when: the sensitivity is local: a lag may matter only for large changes. Neighbouring
    lags carry the same information, and the model may take it from any of them.

    References: Nie, Nguyen, Sinthong and Kalagnanam, "A time series is worth 64 words: long-term
    forecasting with transformers", ICLR 2023 (look-back, channel independence); Zeng et al., "Are
    transformers effective for time series forecasting?", AAAI 2023.
    """

    name: ClassVar[str] = "series-flow"

    steps: int = 8
    """Forecast steps up to which each has a row of its own; more are joined in doublings."""

    def measure(self, view: View) -> Measured:
        """Two matrices, and numbers on the input; nothing for models that do not forecast."""
        series = series_input(view.subject)
        if series is None:
            return Measured()
        lags, mixing = sensitivities(view, series, self.row_edges(series.horizon))
        n = view.subject.calibration[0].size
        edges = doubling_edges(series.lags)
        profile = _joined(lags, edges)
        share = profile / profile.sum(1, keepdim=True).clamp_min(1e-30)
        matrices = [
            _matrix("lag_profile", "Lags that each forecast step is sensitive to",
                    _names(self.row_edges(series.horizon)), _names(edges), share, n)
        ]  # fmt: skip
        numbers = torch.arange(1, series.lags + 1, dtype=torch.float64)
        total = lags.sum(0)
        mean = float((total * numbers).sum() / total.sum().clamp_min(1e-30))
        found = [Measurement(name="mean_lag", value=mean, unit="steps", n=n)]
        if mixing is not None:
            parts = mixing / mixing.sum(1, keepdim=True).clamp_min(1e-30)
            names = [f"series {i}" for i in range(len(parts))]
            matrices.append(
                _matrix("variate_mixing", "Series (columns) that each forecast (rows) looks at",
                        names, names, parts, n)
            )  # fmt: skip
            off = float(1 - parts.diagonal().mean())
            found.append(Measurement(name="mixing_share", value=max(off, 0.0), unit="share", n=n))
        component = series_component(view, series)
        return Measured(measurements={component: tuple(found)}, matrices=tuple(matrices))

    def row_edges(self, horizon: int) -> list[tuple[int, int]]:
        """(first, last) forecast step of each row."""
        if horizon <= self.steps:
            return [(h, h) for h in range(1, horizon + 1)]
        return doubling_edges(horizon)


def series_component(view: View, series: Series) -> str:
    """The component that findings about the series name: the input, else the first one."""
    name = f"input.{view.subject.input_names[series.index]}"
    known = [c.id for c in view.subject.anatomy.components]
    return name if name in known else known[0]


def doubling_edges(count: int) -> list[tuple[int, int]]:
    """(1, 1), (2, 2), (3, 4), (5, 8) ... up to `count`."""
    found, first = [(1, 1)], 2
    while first <= count:
        last = min(2 * (first - 1), count)
        found.append((first, last))
        first = last + 1
    return found


def sensitivities(
    view: View, series: Series, rows: list[tuple[int, int]]
) -> tuple[Tensor, Tensor | None]:
    """(squared sensitivity [rows, lag], lag 1 first; [v, v] by series, None for a single one)."""
    batch = view.subject.calibration[0]
    given = batch.inputs[series.index].detach().clone().requires_grad_()
    inputs = tuple(given if i == series.index else x for i, x in enumerate(batch.inputs))
    everything = torch.cat([b.inputs[series.index] for b in view.subject.calibration])
    deviation = series.by_time(everything).flatten(0, 1).double().std(0)
    generator = torch.Generator().manual_seed(view.settings.seed)
    with torch.enable_grad():
        forecast = series.by_time(view.engine.run(replace(batch, inputs=inputs)))
        signs = torch.randint(0, 2, forecast.shape, generator=generator) * 2 - 1
        signed = forecast * signs

        def squared(part: Tensor) -> Tensor:
            [gradient] = torch.autograd.grad(part.sum(), [given], retain_graph=True)
            return (series.by_time(gradient).double() * deviation).square().mean(0)

        by_lag = [squared(signed[:, first - 1 : last]).sum(1).flip(0) for first, last in rows]
        by_series = None
        if 1 < series.variates <= MOST_VARIATES:
            by_series = torch.stack(
                [squared(signed[:, :, v]).sum(0) for v in range(series.variates)]
            )
    return torch.stack(by_lag), by_series


def _joined(lags: Tensor, edges: list[tuple[int, int]]) -> Tensor:
    return torch.stack([lags[:, first - 1 : last].sum(1) for first, last in edges], 1)


def _names(edges: list[tuple[int, int]]) -> list[str]:
    return [str(first) if first == last else f"{first}-{last}" for first, last in edges]


def _matrix(
    name: str, title: str, rows: list[str], columns: list[str], values: Tensor, n: int
) -> Matrix:
    return Matrix(
        name=name,
        title=title,
        rows=tuple(rows),
        columns=tuple(columns),
        values=tuple(tuple(row) for row in values.tolist()),
        unit="share",
        n=n,
    )
