"""Where the time goes, beside what it brings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch

from zsei.analyzers.context import Analysis
from zsei.analyzers.pressure import pressure_checks
from zsei.analyzers.shares import BANDS, criticality_shares, hot_spots
from zsei.analyzers.words import number
from zsei.graph.traffic import CONTAINERS
from zsei.records import Finding, Measurement
from zsei.subject.types import Batch


@final
@dataclass(frozen=True, kw_only=True)
class TimeBottleneck:
    """Parts that take a large share of the measured time and bring a small share of the effect.

    Measures: each working part's share of the seconds of a forward pass on this machine, call by
    call, beside its share of the effect.

    Formula: seconds_share = median seconds of the part's calls / seconds of all components;
    criticality_share as in computational-bottleneck. Found when seconds_share >= min_pressure x
    criticality_share; bands over 20 %, 10 to 20 %, 5 to 10 %. Severity: the sum of the parts'
    excess seconds_share - criticality_share. Where what is run may hang on the data (experts, or a
    model that could not be exported), one batch of each data group is timed in turn: found when the
    fastest round of one takes min_group_ratio times the slowest of another; severity 1 - 1 / ratio
    of the medians.

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
    min_group_ratio: float = 1.25
    """Least ratio between the fastest round of the slow group and the slowest of the fast one."""
    rounds: int = 3
    """How often the groups are timed in turn."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per band, then one of time that changes with the data group."""
        yield from self._hot_spots(analysis)
        yield from self._groups(analysis)

    def _hot_spots(self, analysis: Analysis) -> Iterator[Finding]:
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

    def _groups(self, analysis: Analysis) -> Iterator[Finding]:
        """Only where what is run may hang on the data: a program without experts is the same calls
        at the same shapes for every input.
        """
        anatomy, subject = analysis.subject.anatomy, analysis.subject
        routed = any(c.kind == "experts" for c in anatomy.components)
        batches = group_batches(subject.calibration)
        if len(batches) < 2 or (subject.program is not None and not routed):
            return
        # Rounds alternate between groups, so that a busy machine slows all of them alike.
        rounds = [
            {name: analysis.engine.seconds(batch, repeats=1) for name, batch in batches.items()}
            for _ in range(self.rounds)
        ]
        totals = {name: sorted(sum(r[name].values()) for r in rounds) for name in batches}
        slow = max(totals, key=lambda name: (totals[name][0], name))
        fast = min(totals, key=lambda name: (totals[name][-1], name))
        if totals[slow][0] < self.min_group_ratio * totals[fast][-1]:
            return
        middle = self.rounds // 2
        more = {
            c.id: sum(rounds[0][slow].get(n, 0.0) - rounds[0][fast].get(n, 0.0)
                      for n in anatomy.nodes[c.id])
            for c in anatomy.components
            if c.kind not in ("layer", "head", "output", "input")
        }  # fmt: skip
        most = max(sorted(more), key=lambda name: more[name])
        ratio = totals[slow][middle] / totals[fast][middle]
        yield Finding.make(
            code=self.code,
            components=(most,),
            severity=1 - 1 / ratio,
            evidence=(
                *(
                    Measurement(name="group_seconds", value=totals[name][middle],
                                unit="seconds per batch", n=self.rounds, note=name)
                    for name in sorted(totals)
                ),
                Measurement(name="group_seconds_ratio", value=ratio, unit="ratio"),
            ),
            message=f"A batch of the group {slow} takes {number(ratio)} times as long as one of "
            f"{fast}, in each of {self.rounds} rounds; most of the difference is in {most}.",
        )  # fmt: skip


def group_batches(batches: Sequence[Batch]) -> dict[str, Batch]:
    """One batch per data group, of the usual size; a group with fewer samples repeats them."""
    size, found = batches[0].size, {}
    for name in sorted({group for batch in batches for group in batch.groups}):
        picked = [
            (batch, i) for batch in batches for i, group in enumerate(batch.groups) if group == name
        ]
        rows = [picked[i % len(picked)] for i in range(size)]
        inputs = tuple(
            torch.stack([batch.inputs[k][i] for batch, i in rows])
            for k in range(len(batches[0].inputs))
        )
        masks = [batch.mask[i] for batch, i in rows if batch.mask is not None]
        mask = torch.stack(masks) if len(masks) == size else None
        found[name] = Batch(inputs=inputs, mask=mask, groups=(name,) * size)
    return found
