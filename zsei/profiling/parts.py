"""Calls gathered into components and kinds, each held against the machine's ceilings."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from zsei.analyzers.shares import URGENCY, band
from zsei.profiling.costs import Cost
from zsei.profiling.memory import Held
from zsei.profiling.record import OUTSIDE, Bound, Call, Part, Roof
from zsei.timing.ceilings import Ceilings
from zsei.timing.interval import interval_of

Floats = NDArray[np.float64]


def roof_of(found: Ceilings, dtype: str) -> Roof:
    """The ceilings for one type of numbers."""
    peak = found.peak.get(dtype)
    why = found.could_not_tell.get(dtype, f"no ceiling is measured for {dtype}")
    return Roof(
        dtype=dtype, peak=peak, bandwidth=found.bandwidth, ridge=peak and peak / found.bandwidth,
        note="" if peak else why,
    )  # fmt: skip


def calls_of(
    costs: Sequence[Cost], seconds: Floats, memory: Sequence[Held] | None
) -> tuple[Call, ...]:
    """Every call with its time and memory.

    Args:
        costs: One per call.
        seconds: [rounds, calls].
        memory: One per call; None where it was not measured.
    """
    return tuple(
        Call(
            name=cost.name,
            operation=cost.operation,
            component=cost.component,
            seconds=interval_of(seconds[:, i]),
            flops=cost.flops,
            moved=cost.moved,
            written=cost.written,
            alive=memory[i].alive if memory else None,
            held=memory[i].held if memory else None,
        )
        for i, cost in enumerate(costs)
    )


def parts_of(
    calls: Sequence[Call], seconds: Floats, group: Mapping[str, str], kinds: Mapping[str, str],
    roof: Roof,
) -> tuple[Part, ...]:  # fmt: skip
    """Calls gathered by a name, slowest first.

    Share: median seconds of the part / sum of the medians of all parts. Roofline: least time =
    max(operations / peak, bytes / bandwidth), the share of it in the time that was taken. Without a
    part's operations (nothing but element-wise work is counted as none) bytes alone decide.

    Args:
        calls: In program order.
        seconds: [rounds, calls].
        group: Component -> name of the part it counts with; `OUTSIDE` for one that is missing.
        kinds: Name of a part -> its kind.
        roof: The ceilings.
    """
    members: dict[str, list[int]] = {}
    for place, call in enumerate(calls):
        members.setdefault(group.get(call.component, OUTSIDE), []).append(place)
    times = {name: seconds[:, places].sum(1) for name, places in members.items()}
    total = sum(float(np.median(values)) for values in times.values())
    found = [
        _part(name, kinds.get(name, ""), [calls[i] for i in places], times[name], total, roof)
        for name, places in members.items()
    ]
    return tuple(sorted(found, key=lambda part: (-part.seconds.median, part.name)))


def _part(
    name: str, kind: str, calls: Sequence[Call], seconds: Floats, total: float, roof: Roof
) -> Part:
    time = interval_of(seconds)
    share = time.median / total if total > 0 else 0.0
    flops, moved = _sum([c.flops for c in calls]), _sum([c.moved for c in calls])
    intensity = flops / moved if moved and flops is not None else None
    bound, possible = _ceiling(flops, moved, roof)
    told = time.median > 0
    return Part(
        name=name,
        kind=kind,
        calls=len(calls),
        seconds=time,
        share=share,
        band=URGENCY[band(share)],
        flops=flops,
        moved=moved,
        written=_sum([c.written for c in calls]),
        intensity=intensity,
        flops_per_second=flops / time.median if flops is not None and told else None,
        bytes_per_second=moved / time.median if moved is not None and told else None,
        bound=bound,
        roofline_share=possible / time.median if possible is not None and told else None,
        alive=_most([c.alive for c in calls]),
        held=_most([c.held for c in calls]),
    )


def _ceiling(flops: int | None, moved: int | None, roof: Roof) -> tuple[Bound | None, float | None]:
    """Which ceiling a part meets, and the least seconds it allows."""
    if flops is None or not moved:
        return None, None
    of_memory = moved / roof.bandwidth
    if not flops:
        return "memory", of_memory
    if roof.peak is None:
        return None, None
    of_arithmetic = flops / roof.peak
    return ("compute" if of_arithmetic >= of_memory else "memory"), max(of_arithmetic, of_memory)


def _sum(values: Sequence[int | None]) -> int | None:
    told = [value for value in values if value is not None]
    return sum(told) if told else None


def _most(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
