"""Memory over the time of a call: how much is alive when, and which operator asked for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zsei.timing.allocations import Allocation, allocations_of
from zsei.timing.device import Device

POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Moment:
    """What is alive right after one allocation or release."""

    seconds: float
    """Since the call began."""
    bytes: int
    """Alive of what the call allocated; nobody tells the size of what was there before and is
    released."""
    operator: str
    """Outermost torch operator that was running; empty between operators."""
    scope: str
    """Innermost `torch.profiler.record_function` around it; empty where there is none."""


def allocation_timeline(
    call: Callable[[], object], device: Device, points: int = POINTS
) -> list[Moment]:
    """Run a call once and tell how much memory is alive over its time.

    The seconds are those of a run under the profiler, which is slower than one without: they say
    where in the call a moment lies, not how long the call takes.

    Args:
        call: What is measured. `torch.profiler.record_function` around its parts names them.
        device: Whose allocator is read.
        points: Moments at most; the largest one is always among them (`thinned`).

    Misleads when: a library allocates on its own (oneDNN, ONNX Runtime); on a card, memory that
    is free in torch's cache counts as released, though the driver still holds it.
    """
    return thinned(moments_of(allocations_of(call, device)), points)


def moments_of(allocations: Sequence[Allocation]) -> list[Moment]:
    """The running sum of allocations, one moment for each."""
    alive = 0
    found = []
    for allocation in allocations:
        alive += allocation.bytes
        found.append(
            Moment(
                seconds=allocation.seconds, bytes=alive, operator=allocation.operator,
                scope=allocation.scope,
            )
        )  # fmt: skip
    return found


def thinned(moments: Sequence[Moment], points: int) -> list[Moment]:
    """At most so many of the moments: the first, the last, and each stretch's largest and smallest.

    Args:
        moments: In order of time.
        points: How many may stay, 4 at least.
    """
    if len(moments) <= points:
        return list(moments)
    stretches = (max(points, 4) - 2) // 2
    inner = range(1, len(moments) - 1)
    kept = {0, len(moments) - 1}
    for number in range(stretches):
        stretch = inner[number * len(inner) // stretches : (number + 1) * len(inner) // stretches]
        if stretch:
            kept.add(max(stretch, key=lambda i: moments[i].bytes))
            kept.add(min(stretch, key=lambda i: moments[i].bytes))
    return [moments[i] for i in sorted(kept)]
