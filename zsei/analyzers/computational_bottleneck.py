"""Where the operations go, beside what they bring."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.pressure import pressure_checks
from zsei.analyzers.shares import (
    BANDS,
    criticality_shares,
    hot_spots,
    working_parts,
)
from zsei.graph.traffic import bytes_moved
from zsei.records import Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class ComputationalBottleneck:
    """Parts that take a large share of the operations and bring a small share of the effect.

    Measures: each working part's share of the model's floating point operations (matrix products
    and convolutions, 2 x multiply-adds) beside its share of the effect, and how many operations it
    does per byte it moves.

    Formula: flops_share = operations of the part / operations of all parts. criticality_share =
    effect of removing the part / sum of the effects of removing each, exact where ablated. A part
    is found when flops_share >= min_pressure x criticality_share. Bands: over 20 % (now), 10 to
    20 %, 5 to 10 %; below that it is not worth it. arithmetic_intensity = operations for a batch /
    bytes its calls read and write, parameters once. Severity: the sum of the parts' excess
    flops_share - criticality_share.

    Reading it: cheaper arithmetic is worth looking for here first, since little hangs on these
    parts. Few operations per byte (below about 10 on a CPU) means that the part waits for memory,
    and that fewer operations alone will not make it faster.

    Misleads when: parts back each other up, so that each alone brings little and all together a
    lot; or when time does not follow operations (small matrices, look-ups): see time-bottleneck.

    References: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
    for multicore architectures", Communications of the ACM 52(4), 2009.
    """

    code: ClassVar[str] = "computational-bottleneck"
    clock: ClassVar[bool] = False

    bands: tuple[float, ...] = BANDS
    """Lower ends of the bands of cost, share of all operations, highest first."""
    min_pressure: float = 3.0
    """Least ratio of cost share to criticality share."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per band."""
        parts = working_parts(analysis)
        total = sum(part.flops for part in parts)
        if total == 0:
            return
        moved = bytes_moved(analysis.subject)
        samples = analysis.subject.calibration[0].size
        intensity = {
            part.id: (
                Measurement(
                    name="arithmetic_intensity",
                    value=part.flops * samples / moved[part.id],
                    unit="operations per byte",
                    note=part.id,
                ),
            )
            for part in parts
            if moved.get(part.id)
        }
        cost = {part.id: part.flops / total for part in parts}
        yield from hot_spots(
            code=self.code,
            measure="flops_share",
            noun="operations",
            cost=cost,
            criticality=criticality_shares(analysis),
            bands=self.bands,
            pressure=self.min_pressure,
            extra=intensity,
            tests=lambda named: pressure_checks(analysis, named, cost, self.min_pressure),
        )
