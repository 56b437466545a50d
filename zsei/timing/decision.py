"""Measures until a claim is decided: looks at the interval after every round and stops rightly."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from zsei.timing.device import Device
from zsei.timing.interval import Decision, Interval
from zsei.timing.pairs import Rounds, Side, interleave

Floats = NDArray[np.float64]

ROUNDS = 60
CONFIDENCE = 0.99
MARGIN = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class Decided:
    """What came out of measuring a claim."""

    decision: Decision
    interval: Interval
    """Of the claimed number, valid at whichever round the measuring stopped."""
    reason: str
    """Why it stopped: the interval is clear of the limit, lies within the margin around it, or the
    rounds or the seconds were used up."""
    rounds: Rounds


def measure_until_decided(
    sides: Mapping[str, Side],
    device: Device,
    *,
    value: Callable[[Rounds], Floats],
    least: float | None = None,
    most: float | None = None,
    batches: int = 1,
    rounds: int = ROUNDS,
    confidence: float = CONFIDENCE,
    margin: float = MARGIN,
    warm_up: int = 1,
    budget: float | None = None,
) -> Decided:
    """Add interleaved rounds until the claim is decided, or a cap is reached.

    Formula: after every round the interval [x_(k), x_(n+1-k)] of the median of the values so far,
    k = `sequential_ranks(rounds, confidence)[n - 1]`: all these intervals together hold the median
    with the confidence, so stopping at the first that decides is no peeping. With L a limit and m
    the margin, a claim of at least L is held when all of the interval lies at or above L (1 + m),
    not held when all of it lies below L (1 - m), and too near to decide when all of it lies between
    the two; a claim of at most L is the mirror image.

    Args:
        sides: What is timed (`zsei.timing.pairs.interleave`).
        device: Whose clock is read.
        value: From the rounds so far to the claimed number in each round [r]; for a speed-up
            `lambda r: r.seconds["baseline"] / r.seconds["side"]`.
        least: Smallest value that is claimed; None claims none.
        most: Largest value that is claimed; None claims none.
        batches: How many batches there are; they are run in turn.
        rounds: Rounds at most. Under 8 no interval has 99 % and nothing is ever decided.
        confidence: Probability that no verdict is wrong, whenever the measuring stops.
        margin: Share of the limit that no clock can tell from it: two processes on one machine
            differ by a per cent or two through the addresses they got, however long either is
            measured.
        warm_up: Untimed runs of every side on every batch first.
        budget: Seconds after which no further round is begun.

    How near the truth may lie before it is *not decided*, at 60 rounds and a margin of 2 %, for
    noise with heavy tails (Student's t with 2 degrees of freedom), share of 4000 runs decided (and
    mean rounds), rightly in all of them:

        truth beyond the limit      2 %        4 %         6 %         8 %         10 %       20 %
        noise of 2 % a round     0.00 (60)  0.94 (30)   1.00 (15)   1.00 (12)   1.00 (11)  1.00 (10)
        noise of 5 % a round     0.00 (60)  0.19 (56)   0.79 (39)   0.98 (25)   1.00 (18)  1.00 (12)
        noise of 10 % a round    0.00 (60)  0.04 (59)   0.19 (56)   0.46 (50)   0.76 (40)  1.00 (17)

    Misleads when: rounds are not independent, as when the load of the machine comes and goes over
    many of them. Neighbours that correlate by 0.5 leave wrong verdicts under 1 %, thanks to the
    margin; at 0.8 a truth at the very limit gets a verdict in one run of six.

    References: Lan and DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70,
    1983; the median's sign test is exact for any distribution.
    """
    begin = time.monotonic()
    reason = "the rounds were used up"

    def enough(so_far: Rounds) -> bool:
        nonlocal reason
        said = look(value(so_far), least, most, rounds, confidence, margin)[1]
        if said is not None:
            reason = said
        elif budget is not None and time.monotonic() - begin > budget:
            reason = "the seconds were used up"
            return True
        return said is not None

    found = interleave(
        sides, device, batches=batches, rounds=rounds, warm_up=warm_up, enough=enough, least=1
    )
    values = value(found)
    return Decided(
        decision=look(values, least, most, rounds, confidence, margin)[0],
        interval=sequential_interval(values, rounds, confidence),
        reason=reason,
        rounds=found,
    )


def look(
    values: Floats,
    least: float | None,
    most: float | None,
    rounds: int = ROUNDS,
    confidence: float = CONFIDENCE,
    margin: float = MARGIN,
) -> tuple[Decision, str | None]:
    """What the values so far [n] say of a claim, and why no more are needed; None: they are.

    Args:
        values: The claimed number in each round so far.
        least: Smallest value that is claimed; None claims none.
        most: Largest value that is claimed; None claims none.
        rounds: Rounds there may be in all.
        confidence: Of all looks together.
        margin: Share of the limit that is too near to it.
    """
    if sequential_ranks(rounds, confidence)[len(values) - 1] == 0:
        return "not decided", None
    interval = sequential_interval(values, rounds, confidence)
    low, high = interval.low, interval.high
    limits = [(low, high, least)] if least is not None else []
    limits += [(-high, -low, -most)] if most is not None else []  # at most L: -x is at least -L
    near = False
    held = True
    for begin, end, limit in limits:
        slack = margin * abs(limit)
        if end < limit - slack:
            return "not held", "the whole interval lies outside the claim"
        held &= begin >= limit + slack
        near |= begin >= limit - slack and end < limit + slack
    if held:
        return "held", "the whole interval lies inside the claim"
    return "not decided", "the whole interval lies within the margin of the limit" if near else None


def sequential_interval(values: Floats, rounds: int, confidence: float) -> Interval:
    """Median of values that are still coming in, with an interval that may be read at any round.

    With too few values for the confidence it is their whole range, and says the confidence that
    this has.

    Args:
        values: The values so far [n], n at most `rounds`.
        rounds: Values there may be in all.
        confidence: That all intervals from the first round to the last hold the median.
    """
    ordered = np.sort(values)
    n = len(ordered)
    rank = sequential_ranks(rounds, confidence)[n - 1]
    return Interval(
        median=float(np.median(ordered)),
        low=float(ordered[max(rank, 1) - 1]),
        high=float(ordered[n - max(rank, 1)]),
        n=n,
        confidence=confidence if rank else 1 - 0.5 ** (n - 1),
    )


@lru_cache
def sequential_ranks(rounds: int, confidence: float) -> tuple[int, ...]:
    """For n = 1 to `rounds`: k such that [x_(k), x_(n+1-k)] hold the median at all n together.

    0 where there are too few values. Values below the median are a fair coin's heads S_n, whatever
    the distribution; the interval misses the median when S_n < k or n - S_n < k. Each k is the
    largest for which the probability that any look up to n misses is at most (1 - confidence)
    (n / rounds)^(1/2); the walk of S_n is followed exactly.
    """
    alive = np.array([1.0])  # probability of every S_n among the walks that no look has missed
    missed = 0.0
    ranks: list[int] = []
    for n in range(1, rounds + 1):
        alive = (np.append(alive, 0.0) + np.append(0.0, alive)) / 2
        allowed = (1 - confidence) * (n / rounds) ** 0.5
        rank = ranks[-1] if ranks else 0
        while 2 * (rank + 1) <= n and missed + 2 * alive[: rank + 1].sum() <= allowed:
            rank += 1
        missed += 2 * float(alive[:rank].sum())
        alive[:rank] = 0.0
        alive[n + 1 - rank :] = 0.0
        ranks.append(rank)
    return tuple(ranks)
