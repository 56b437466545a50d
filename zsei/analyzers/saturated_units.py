"""Units whose activation function is flat on nearly all of the data."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number, percent
from zsei.records import Finding

RECTIFIERS = {"relu"}
"""Flat means exactly zero here: such units are dead, and reported as that."""


@final
@dataclass(frozen=True, kw_only=True)
class SaturatedUnits:
    """Units that sit where their activation function has no slope.

    Measures: per layer with an activation function, how many units are flat at nearly every
    position of the kept rows.

    Formula: a unit is saturated where |f'(x)| < 0.01 on at least 99 % of the rows, f' the
    derivative of the program's own calls (see the measure `saturation`). Plain rectifiers are left
    out: a unit that is off everywhere is dead. Severity: share of the layer's units, at least
    `least`.

    Reading it: such a unit is nearly constant and passes no gradient on: it has stopped learning,
    and a bias can stand in for it. Inputs or weights of too large a scale are the usual cause.

    Misleads when: a gate is meant to be a switch, or the data shows one side of it only.

    References: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010; Gulcehre, Moczulski, Denil and Bengio, "Noisy activation functions",
    ICML 2016.
    """

    code: ClassVar[str] = "saturated-units"
    clock: ClassVar[bool] = False

    fewest: float = 0.02
    """Share of a layer's units from which it is reported."""
    least: float = 0.1
    """Severity of the smallest share."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per layer, in program order."""
        for component in analysis.subject.anatomy.components:
            known = analysis.trace.measurements[component.id]
            stuck, share = known.get("saturated_units"), known.get("saturated_share")
            if stuck is None or not stuck.value or share is None or share.value is None:
                continue
            function = stuck.note.partition(":")[0]
            units = known["units"].value or 1
            if function in RECTIFIERS or stuck.value < self.fewest * units:
                continue
            part = stuck.value / units
            yield Finding.make(
                code=self.code,
                components=(component.id,),
                severity=max(self.least, part),
                evidence=(stuck, share, known["units"]),
                message=f"{number(stuck.value)} of the {number(units)} units of {component.id} "
                f"{'sits' if stuck.value == 1 else 'sit'} where {function} is flat at nearly every "
                f"position ({percent(share.value)} of all entries are flat).",
            )
