"""How much of the past a forecast needs, by taking the oldest part away."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.modality import Series, could_not_tell, few_samples, run_twin, series_input
from zsei.measures.reach import doublings, reach
from zsei.measures.series_flow import series_component
from zsei.records import Matrix, Measurement
from zsei.subject.objective import divergence, loss
from zsei.subject.types import Subject
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class LookBack:
    """What a forecast loses when only the last k steps are real, for k = 1, 2, 4 ...

    Measures: the effective look-back window, exactly.

    Formula: effect(k) = E_n ‖f(x_k) - f(x)‖ / ‖f(x)‖, where every step of x_k older than k is the
    mean of that sample's and series' last k steps; effective_look_back = the smallest k from which
    on effect(k) <= enough · max effect. With labels also the increase of the squared error.

    Reading it: an effective look-back far below the window given says that the older part can be
    left out. A loss increase below zero says that the older part does harm on these data.

    Misleads when: the model puts the window to a common scale (the mean then moves it less than a
    constant of another level would), or a season longer than the window is what matters.

    References: Zeng, Chen, Zhang and Xu, "Are transformers effective for time series forecasting?",
    AAAI 2023 (forecasts under different look-back windows); Breiman, "Random forests", 2001
    (importance by replacing inputs).
    """

    name: ClassVar[str] = "look-back"

    samples: int = 32
    """Samples whose past is shortened."""
    enough: float = 0.05
    """Share of the largest effect that counts as nothing."""
    fewest: int = 4
    """Samples below which no window is claimed."""

    def measure(self, view: View) -> Measured:
        """One matrix, and the effective window on the input."""
        series = series_input(view.subject)
        if series is None:
            return Measured()
        lengths, effects, losses = shortened(view.subject, series, self.samples)
        n = len(effects)
        rows = [("divergence", effects)]
        if losses is not None:
            rows.append(("loss increase", losses))
        matrix = Matrix(
            name="look_back_effect",
            title="Effect of keeping only the last k steps",
            rows=tuple(label for label, _ in rows),
            columns=tuple(str(length) for length in lengths),
            values=tuple(tuple(values.double().mean(0).tolist()) for _, values in rows),
            unit=view.subject.objective.metric,
            n=n,
            note="loss increase in squared error",
        )
        component = series_component(view, series)
        if n < self.fewest:
            why = f"{n} samples; {self.fewest} are the least"
            unknown = could_not_tell("effective_look_back", "steps", why, n)
            return Measured(measurements={component: (unknown,)}, matrices=(matrix,))
        found = reach(effects, lengths, enough=self.enough, seed=view.settings.seed)
        note = f"90 % interval {found.low} to {found.high}"
        return Measured(
            measurements={
                component: (
                    Measurement(name="effective_look_back", value=found.length, unit="steps", n=n,
                                note=note),
                    Measurement(name="effective_look_back_high", value=found.high, unit="steps",
                                n=n),
                    Measurement(name="look_back_given", value=series.lags, unit="steps", n=n),
                )
            },
            matrices=(matrix,),
        )  # fmt: skip


def shortened(
    subject: Subject, series: Series, samples: int
) -> tuple[list[int], Tensor, Tensor | None]:
    """(lengths kept, divergence [n, k], loss increase [n, k]); the last length is the whole."""
    size = subject.calibration[0].size
    few = few_samples(subject, max(samples, size))
    given = few.inputs[series.index]
    clean = run_twin(subject, few.inputs)
    base = loss(subject.objective, clean, few) if subject.objective.supervised else None
    lengths = doublings(series.lags)
    effects = torch.zeros(len(given), len(lengths))
    losses = torch.zeros(len(given), len(lengths))
    for k, length in enumerate(lengths[:-1]):
        values = series.by_time(given).clone()
        values[:, :-length] = values[:, -length:].mean(1, keepdim=True)
        edited = series.as_given(values, given)
        inputs = tuple(edited if i == series.index else x for i, x in enumerate(few.inputs))
        seen = run_twin(subject, inputs)
        effects[:, k] = divergence(subject.objective, seen, clean, few)
        if base is not None:
            losses[:, k] = loss(subject.objective, seen, few) - base
    return lengths, effects, losses if base is not None else None
