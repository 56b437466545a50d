"""Made-up runs in which something happens over the epochs, and runs in which nothing does."""

from collections.abc import Mapping
from typing import cast

import numpy as np

from zsei.checkpoint.contracts import UnitKind
from zsei.checkpoint.history.history import History, observe
from zsei.checkpoint.history.series import Series, follow
from zsei.checkpoint.tasks import SiteMeasure
from zsei.records import Measurement

Floats = np.ndarray


def noise(n: int, shape: tuple[int, ...], spread: float, correlation: float, seed: int) -> Floats:
    """Positive series of mean about 1 around which a stationary autoregression moves, [c, ...]."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, *shape))
    for row in range(1, n):
        x[row] = correlation * x[row - 1] + np.sqrt(1 - correlation**2) * x[row]
    return np.exp(spread * x)


class Run:
    """Activities, pairs and numbers by epoch; `history` and `series` are what ZSEI would keep."""

    def __init__(
        self, *, epochs: int = 60, layers: int = 4, heads: int = 4, neurons: int = 8,
        spread: float = 0.15, correlation: float = 0.5, seed: int = 0,
    ) -> None:  # fmt: skip
        self.epochs = epochs
        self.units = {
            **{f"h.{i}/mlp|neuron": noise(epochs, (neurons,), spread, correlation, 7 * seed + i)
               for i in range(layers)},
            **{f"h.{i}/attention|head": noise(epochs, (heads,), spread, correlation,
                                              1000 + 7 * seed + i) for i in range(layers)},
            **{f"h.{i}|layer": noise(epochs, (1,), spread, correlation, 2000 + 7 * seed + i)
               for i in range(layers)},
        }  # fmt: skip
        self.pairs: dict[str, dict[tuple[int, int], Floats]] = {}
        self.gradients = {
            f"h.{i}": 0.1 * noise(epochs, (), 0.2, correlation, 3000 + 7 * seed + i)
            for i in range(layers)
        }
        self.efficiency = {
            f"h.{i}": noise(epochs, (), 0.3, correlation, 4000 + 7 * seed + i)
            for i in range(layers)
        }

    def kept(self, last: int | None = None) -> tuple[History, Series]:
        """What is kept after an epoch."""
        history, series = History(), Series()
        for row in range(last or self.epochs):
            sites = tuple(self._site(key, row) for key in self.units)
            history = observe(history, row + 1, {k: x[row] for k, x in self.units.items()})
            series = follow(
                series, row + 1, sites=sites, measurements=self._numbers(row),
                model={"loss": 1.0, "accuracy": None},
            )  # fmt: skip
        return history, series

    def _site(self, key: str, row: int) -> SiteMeasure:
        component, _, kind = key.rpartition("|")
        values = tuple(None if np.isnan(v) else float(v) for v in self.units[key][row])
        alike = tuple(
            (a, b, float(s[row])) for (a, b), s in self.pairs.get(key, {}).items() if s[row] >= 0.8
        )
        return SiteMeasure(
            component=component, kind=cast(UnitKind, kind), layer=int(component.split("/")[0][2:]),
            parts={"taylor": values}, pairs=alike,
        )  # fmt: skip

    def _numbers(self, row: int) -> Mapping[str, tuple[Measurement, ...]]:
        return {
            name: (
                Measurement(name="gradient_rms", value=float(self.gradients[name][row])),
                Measurement(name="learning_efficiency", value=float(self.efficiency[name][row])),
            )
            for name in self.gradients
        }
