"""How long an edited program takes against the original: clock values, for `timings` only.

They decide nothing, unless the user sets a limit in time (setting `latency_limit`).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from zsei.timing.device import find_device
from zsei.timing.pairs import interleave
from zsei.timing.threads import torch_threads

Run = Callable[..., Tensor]


def measure_latency(
    before: Run, after: Run, inputs: Sequence[Tensor], *, pairs: int = 7, threads: int = 1
) -> tuple[float, float, float]:
    """Latency ratio after / before: (median, low, high) with a 90 % interval.

    Both run in turn, and who goes first alternates, so that a slow moment of the machine hits both
    sides of a pair. Each pair gives one ratio; the interval is made of order statistics.

    Args:
        before: The original program.
        after: The edited one.
        inputs: One batch for both.
        pairs: Timed pairs after one untimed pair; 5 is the least for which 90 % can be covered.
        threads: Threads torch may use meanwhile; the number in force before is restored.

    Misleads when: the machine is shared and loaded; more than one thread makes it worse.
    """
    sides = {"before": lambda _: before(*inputs), "after": lambda _: after(*inputs)}
    with torch_threads(threads), torch.no_grad():
        found = interleave(sides, find_device("cpu"), rounds=pairs)
    interval = found.speed_up("before", "after")  # seconds of after / seconds of before
    return interval.median, interval.low, interval.high


def within_limit(
    ratio: tuple[float, float, float], limit: float
) -> Literal["passed", "failed", "inconclusive"]:
    """Hold a measured latency ratio against the user's limit.

    Args:
        ratio: (median, low, high) of after / before, as `measure_latency` gives them.
        limit: Largest ratio the user accepts; 0.9 asks for a tenth less time.

    Returns:
        "passed" when the whole interval lies at or below the limit, "failed" when all of it lies
        above, and "inconclusive" when it straddles the limit or is no number. With the 90 %
        interval either side is wrong at most one time in twenty.

    Misleads when: the machine's load changed between pairs; the same edit may pass now and be
    inconclusive a minute later, which is why no verdict rests on a clock unless asked to.
    """
    _, low, high = ratio
    if high <= limit:
        return "passed"
    return "failed" if low > limit else "inconclusive"
