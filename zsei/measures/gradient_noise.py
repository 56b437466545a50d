"""How far the gradients of single samples agree."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor

from zsei.measures.samples import could_not_tell, sample_means
from zsei.records import Measurement
from zsei.trace.view import Measured, View

NAME, UNIT = "gradient_signal_to_noise", "ratio"


@final
@dataclass(frozen=True, kw_only=True)
class GradientNoise:
    """Signal to noise of the gradient over samples, per component.

    Measures: whether the samples pull a component's value in one direction or each in its own.

    Formula: with g_n the mean gradient row of sample n [c]: ‖E g‖² / E‖g - E g‖². The plain ratio
    of N samples is too high by 1 / N for pure noise, so this is taken off (at least 0 is reported).

    Reading it: above 1 the samples agree; near 0 an update from few samples is mostly noise there.

    Misleads when: positions of one sample disagree, which the mean over them hides. Without labels
    there is no common direction to agree on (every sample has its own random probe), so nothing is
    claimed under fidelity.

    References: McCandlish, Kaplan, Amodei and others, "An empirical model of large-batch training",
    2018; Shalev-Shwartz, Shamir and Shammah, "Failures of gradient-based deep learning", ICML 2017.
    """

    name: ClassVar[str] = "gradient-noise"

    fewest: int = 4
    """Samples needed."""

    def measure(self, view: View) -> Measured:
        """One measurement per component with a gradient."""
        found = {}
        for component, node in view.taps.writers.items():
            rows = view.gradient_rows.get(node)
            if rows is not None:
                found[component] = (self._ratio(view, rows, view.row_samples[node]),)
        return Measured(measurements=found)

    def _ratio(self, view: View, rows: Tensor, samples: Tensor) -> Measurement:
        if not view.subject.objective.supervised:
            return could_not_tell(NAME, UNIT, "labels are needed: without, directions are random")
        gradients, numbers = sample_means(rows, samples)
        n = len(numbers)
        if n < self.fewest:
            return could_not_tell(NAME, UNIT, f"{self.fewest} samples are needed; there are {n}", n)
        gradients = gradients.double()
        mean = gradients.mean(0)
        noise = float((gradients - mean).square().sum()) / (n - 1)
        if noise <= 0:
            return could_not_tell(NAME, UNIT, "all samples have the same gradient", n)
        value = max(0.0, float(mean.square().sum()) / noise - 1 / n)
        return Measurement(name=NAME, value=value, unit=UNIT, n=n)
