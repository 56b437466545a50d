"""Interleaved timing: all sides run the same batch in turn, so that a slow moment hits them all."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsei.errors import UsageError
from zsei.timing.device import Device, seconds
from zsei.timing.interval import Interval, interval_of

Floats = NDArray[np.float64]
Side = Callable[[int], object]
"""Runs one batch, named by its number."""

CARD_WARM_UP = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Rounds:
    """Seconds of every side in every round: name -> [r]."""

    seconds: Mapping[str, Floats]
    batches: NDArray[np.int64]
    """Number of the batch that was run in each round."""

    def speed_up(self, name: str, baseline: str, confidence: float = 0.9) -> Interval:
        """How many times faster a side is: median over rounds of baseline / side."""
        return interval_of(self.seconds[baseline] / self.seconds[name], confidence)

    def time(self, name: str, confidence: float = 0.9) -> Interval:
        """Seconds of one batch."""
        return interval_of(self.seconds[name], confidence)


def interleave(
    sides: Mapping[str, Side],
    device: Device,
    *,
    batches: int = 1,
    rounds: int = 7,
    warm_up: int = 1,
    budget: float | None = None,
    enough: Callable[[Rounds], bool] | None = None,
    least: int = 5,
) -> Rounds:
    """Time sides against each other, round by round.

    In a round every side runs the same batch once; who goes first moves on by one from round to
    round.

    Args:
        sides: What is timed. A side sets up and tears down what it needs around its own call.
        device: Whose clock is read.
        batches: How many batches there are; round r runs batch r modulo this.
        rounds: Rounds at most.
        warm_up: Untimed runs of each side on each batch first (compilers and caches settle there).
            On a card at least 3, unless 0 is asked for: it raises its clocks under load alone.
        budget: Seconds after which no further round is begun, `least` rounds being done.
        enough: Asked after every round from `least` on whether to stop.
        least: Rounds at least.

    Raises:
        UsageError: Nothing is to be timed, or in no round.
    """
    names = list(sides)
    if not names or rounds < 1 or batches < 1:
        raise UsageError(
            f"Timing needs a side, a round and a batch; {len(names)} sides, {rounds} rounds and "
            f"{batches} batches arrived."
        )
    for _ in range(max(warm_up, CARD_WARM_UP) if warm_up and device.is_cuda else warm_up):
        for batch in range(batches):
            for name in names:
                sides[name](batch)
    found: dict[str, list[float]] = {name: [] for name in names}
    ran: list[int] = []
    begin = time.monotonic()
    for number in range(rounds):
        batch = number % batches
        first = number % len(names)
        for name in (*names[first:], *names[:first]):
            found[name].append(seconds(lambda name=name, batch=batch: sides[name](batch), device))
        ran.append(batch)
        if number + 1 < least:
            continue
        if budget is not None and time.monotonic() - begin > budget:
            break
        if enough is not None and enough(_rounds(found, ran)):
            break
    return _rounds(found, ran)


def _rounds(found: Mapping[str, Sequence[float]], ran: Sequence[int]) -> Rounds:
    return Rounds(
        seconds={name: np.array(values) for name, values in found.items()},
        batches=np.array(ran, dtype=np.int64),
    )
