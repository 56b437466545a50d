"""Every part on this machine's roofline, and in its band of the measured time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.machine import machine
from zsei.analyzers.shares import BANDS, URGENCY, working_parts
from zsei.analyzers.words import listed, number, percent
from zsei.graph.traffic import CONTAINERS, bytes_moved
from zsei.records import Component, Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class Roofline:
    """Which parts wait for arithmetic and which for memory, and which are worth the trouble.

    Measures: for every working part its arithmetic intensity beside this machine's ridge, and its
    share of the measured time in bands.

    Formula: arithmetic_intensity = operations for a batch / bytes its calls read and write,
    parameters once. ridge = operations per second of a float32 product of 1024 x 1024 matrices /
    bytes per second of a sum of two vectors of 32 MiB, each the best of five, on as many threads as
    the model.
    Compute-bound above the ridge, memory-bound below. roofline_share = operations a second that the
    part reached / min(peak, intensity x bandwidth). Bands of the time: over 20 % now, 10 to 20 %
    next, 5 to 10 % later, under 5 % not worth it. Severity: 0, for it describes.

    Reading it: a compute-bound part gets faster with fewer operations or lower precision; a
    memory-bound one with fewer bytes (fusing, smaller types, larger batches) whatever its
    operations. A low roofline_share says that neither is the limit, but the cost of making calls.

    Misleads when: values stay in a cache, so that fewer bytes move than are counted; or something
    else keeps the machine busy. It rests on a clock, so two runs differ.

    References: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model
    for multicore architectures", Communications of the ACM 52(4), 2009; McCalpin, "Memory bandwidth
    and machine balance in current high performance computers", 1995.
    """

    code: ClassVar[str] = "roofline"
    clock: ClassVar[bool] = True

    bands: tuple[float, ...] = BANDS
    """Lower ends of the bands of the measured time, highest first."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding, parts in order of their time."""
        seconds = analysis.trace.seconds
        total = sum(seconds.get(part.id, 0.0) for part in _timed(analysis))
        moved = bytes_moved(analysis.subject)
        parts = [p for p in working_parts(analysis) if seconds.get(p.id, 0) > 0 and moved.get(p.id)]
        if not parts or total <= 0:
            return
        parts.sort(key=lambda part: (-seconds[part.id], part.id))
        samples = analysis.subject.calibration[0].size
        here = machine()
        limits: dict[str, list[str]] = {"compute": [], "memory": []}
        banded: dict[str, list[str]] = {name: [] for name in URGENCY}
        evidence = [
            Measurement(name="machine_peak", value=here.peak, unit="operations per second"),
            Measurement(name="machine_bandwidth", value=here.bandwidth, unit="bytes per second"),
            Measurement(name="machine_ridge", value=here.ridge, unit="operations per byte"),
        ]
        for part in parts:
            intensity = part.flops * samples / moved[part.id]
            bound = "compute" if intensity >= here.ridge else "memory"
            limits[bound].append(part.id)
            share = seconds[part.id] / total
            urgency = URGENCY[next((i for i, low in enumerate(self.bands) if share >= low), -1)]
            banded[urgency].append(part.id)
            reached = part.flops * samples / seconds[part.id]
            possible = min(here.peak, max(intensity, 1e-12) * here.bandwidth)
            evidence += [
                Measurement(name="seconds_share", value=share, unit="share",
                            note=f"{part.id}: {urgency}"),
                Measurement(name="arithmetic_intensity", value=intensity,
                            unit="operations per byte", note=f"{part.id}: {bound}-bound"),
                Measurement(name="roofline_share", value=reached / possible, unit="share",
                            note=part.id),
            ]  # fmt: skip
        worth = [p for name in URGENCY[:-1] for p in banded[name]]
        yield Finding.make(
            code=self.code,
            components=tuple(part.id for part in parts),
            severity=0.0,
            evidence=tuple(evidence),
            message=f"{len(limits['compute'])} of {len(parts)} working parts are compute-bound and "
            f"{len(limits['memory'])} memory-bound at this machine's ridge of "
            f"{number(here.ridge)} operations per byte; worth the trouble by their time (at least "
            f"{percent(self.bands[-1])}): {listed(worth)}.",
        )


def _timed(analysis: Analysis) -> list[Component]:
    """Components whose calls have a time of their own, none inside another."""
    kinds = {c.id: c.kind for c in analysis.subject.anatomy.components}
    return [
        c
        for c in analysis.subject.anatomy.components
        if c.kind not in ("layer", "head", "output") and kinds.get(c.parent or "") not in CONTAINERS
    ]
