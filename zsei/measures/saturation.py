"""How much of an activation function's input lies where the function is flat."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.records import Measurement
from zsei.trace.activation_functions import FLAT, ActivationTap
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class Saturation:
    """Share of entries at which an activation function passes no gradient on.

    Measures: per component that applies an activation function, the share of entries, and the
    number of units, at which the function is flat; for each data group too.

    Formula: the derivative f'(x) of the program's own calls at every entry x of a fixed sample of
    rows; saturated_share = share with |f'(x)| < 0.01; a unit is saturated when this holds on at
    least `always` of the rows. A function that is written out (x · sigmoid(x)) counts as one.

    Reading it: a rectifier is flat wherever it is off, so half is usual and its units that are off
    everywhere are dead. For tanh and sigmoid a high share says that the unit acts as a switch and
    hardly learns any more.

    Misleads when: a gate is meant to be a switch (recurrent gates), or a component applies several
    functions: their entries are put together. Gates inside fused recurrent calls cannot be seen.

    References: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.
    """

    name: ClassVar[str] = "saturation"

    always: float = 0.99
    """Share of the rows on which a saturated unit is flat."""

    fewest_rows: int = 16
    """Rows below which no unit is called saturated."""

    def measure(self, view: View) -> Measured:
        """Two measurements per component with activation functions, one per group."""
        by_component: dict[str, list[ActivationTap]] = {}
        for tap in view.taps.activations:
            if tap.node in view.evidence.saturated:
                by_component.setdefault(tap.component, []).append(tap)
        kinds = {c.id: c.kind for c in view.subject.anatomy.components}
        found, groups = {}, {}
        for component, taps in by_component.items():
            flat = [torch.cat(view.evidence.saturated[tap.node].rows) for tap in taps]
            samples = [torch.cat(view.evidence.saturated[tap.node].samples) for tap in taps]
            n = len(samples[0].unique())
            names = ", ".join(dict.fromkeys(tap.name for tap in taps))
            found[component] = (
                _share(flat, n, f"{names}; |slope| < {FLAT}, from {len(flat[0])} rows"),
                *self._units(taps, flat, n),
            )
            # Experts get their tokens in an order that no longer tells the sample.
            if kinds.get(component) != "experts":
                for group, rows in _by_group(view, flat, samples).items():
                    groups.setdefault(group, {})[component] = (rows,)
        return Measured(measurements=found, groups=groups)

    def _units(
        self, taps: list[ActivationTap], flat: list[Tensor], n: int
    ) -> tuple[Measurement, ...]:
        if len(flat[0]) < self.fewest_rows or len(taps) > 1:
            return ()
        stuck = (flat[0].float().mean(0) >= self.always).nonzero().flatten().tolist()
        listed = " ".join(str(i) for i in stuck[:64])
        note = f"{taps[0].name}: {listed}" if stuck else taps[0].name
        return (
            Measurement(name="saturated_units", value=len(stuck), unit="count", n=n, note=note),
            Measurement(name="units", value=flat[0].shape[1], unit="count"),
        )


def _share(flat: list[Tensor], n: int, note: str) -> Measurement:
    entries = sum(rows.numel() for rows in flat)
    share = sum(int(rows.sum()) for rows in flat) / max(entries, 1)
    return Measurement(name="saturated_share", value=share, unit="share", n=n, note=note)


def _by_group(
    view: View, flat: list[Tensor], samples: list[Tensor]
) -> dict[str, Measurement]:  # fmt: skip
    names = view.sample_groups
    found = {}
    for group in sorted(set(names)) if len(set(names)) > 1 else ():
        members = torch.tensor([name == group for name in names])
        chosen = [rows[members[which]] for rows, which in zip(flat, samples, strict=True)]
        if any(len(rows) for rows in chosen):
            n = len(samples[0][members[samples[0]]].unique())
            found[group] = _share(chosen, n, f"from {len(chosen[0])} rows")
    return found
