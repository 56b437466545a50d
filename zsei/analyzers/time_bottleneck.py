"""Where the time goes, beside what it brings."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.pressure import pressure_checks
from zsei.analyzers.shares import BANDS, criticality_shares, hot_spots
from zsei.graph.traffic import CONTAINERS
from zsei.records import Finding


@final
@dataclass(frozen=True, kw_only=True)
class TimeBottleneck:
    """Parts that take a large share of the measured time and bring a small share of the effect.

    Measures: each working part's share of the seconds of a forward pass on this machine, call by
    call, beside its share of the effect.

    Formula: seconds_share = median seconds of the part's calls / seconds of all components;
    criticality_share as in computational-bottleneck. Found when seconds_share >= min_pressure x
    criticality_share; bands over 20 %, 10 to 20 %, 5 to 10 %. Severity: the sum of the parts'
    excess seconds_share - criticality_share.

    Reading it: what a profiler calls a hot spot, weighted by what would be lost with it. A part
    that is here and not under computational-bottleneck is slow for its arithmetic: it waits for
    memory or is made of many small calls.

    Misleads when: something else keeps the machine busy, a call is compiled or fused in
    production, or the batch is not the one that will be served. It rests on a clock, so two runs
    differ.

    References: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
    for multicore architectures", Communications of the ACM 52(4), 2009.
    """

    code: ClassVar[str] = "time-bottleneck"
    clock: ClassVar[bool] = True

    bands: tuple[float, ...] = BANDS
    """Lower ends of the bands of cost, share of all measured time, highest first."""
    min_pressure: float = 3.0
    """Least ratio of time share to criticality share."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per band."""
        kinds = {c.id: c.kind for c in analysis.subject.anatomy.components}
        seconds = {
            c.id: analysis.trace.seconds.get(c.id, 0.0)
            for c in analysis.subject.anatomy.components
            if c.kind not in ("layer", "head", "output")
            and kinds.get(c.parent or "") not in CONTAINERS
        }
        total = sum(seconds.values())
        if total == 0:
            return
        cost = {part: value / total for part, value in seconds.items()}
        yield from hot_spots(
            code=self.code,
            measure="seconds_share",
            noun="time",
            cost=cost,
            criticality=criticality_shares(analysis),
            bands=self.bands,
            pressure=self.min_pressure,
            extra={},
            tests=lambda named: pressure_checks(analysis, named, cost, self.min_pressure),
        )
