"""Claims that a clock decides: speed-up, throughput, latency, and all steps combined.

How surely the same claim gets the same verdict again, by how far the truth lies from what is
claimed (simulated: 10 000 measurements each, 60 rounds at most, times disturbed by Student's t with
two degrees of freedom and, in one round of ten, doubled or tripled by another process):

    truth / claim         0.5    0.8    0.9    0.95   1      1.05   1.1    1.2    2
    commonest verdict     not    not    not    open   open   open   held   held   held
    other than that       0 %    0 %    22 %   9 %    0.2 %  8 %    34 %   0.5 %  0 %

The others are nearly always *not decided* beside a decision, or the other way round: one
measurement that held and another that did not were drawn in none of 10 000 pairs at any distance.
On a quieter machine the two regions in which it wavers lie nearer to the claim.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from zsei.claims.bench import Bench
from zsei.claims.claim import Claim
from zsei.claims.found import Found, by_clock, number
from zsei.claims.ways import Way, Ways, ways_of
from zsei.errors import SpeedUpRefused
from zsei.records import Measurement
from zsei.speed.baseline import BASELINE
from zsei.speedups.runnable import Runnable
from zsei.subject.types import Batch
from zsei.timing.decision import Decided
from zsei.timing.pairs import Rounds
from zsei.timing.threads import torch_threads

CLAIMED = "claimed"
PILOT = 5
"""Rounds in which the best of several alternatives is chosen, and the parts of a combined claim are
timed alone. The claim itself is measured in rounds of its own."""
CONFIDENCE = 0.99

Floats = NDArray[np.float64]
Value = Callable[[Rounds], Floats]


def speed_up(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """How many times faster than the baseline: median over rounds of baseline / claimed, with the
    sequential interval of `zsei.timing.decision`.
    """
    return _timed(bench, claim, budget, lambda rounds: rounds.seconds[BASELINE] / _own(rounds))


def throughput(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """Samples per second: samples of the round's batch / its seconds, median over rounds."""
    sizes = np.array([batch.size for batch in bench.batches(claim.at)], dtype=np.float64)
    return _timed(bench, claim, budget, lambda rounds: sizes[rounds.batches] / _own(rounds))


def latency(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """Milliseconds per sample: 1000 x seconds / samples of the round's batch, median over rounds.

    Misleads when: the batch is large, where a sample is answered only with all others of its batch;
    `at: {batch: 1}` is the latency of one alone.
    """
    sizes = np.array([batch.size for batch in bench.batches(claim.at)], dtype=np.float64)
    return _timed(bench, claim, budget, lambda rounds: 1000 * _own(rounds) / sizes[rounds.batches])


def combined(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """All steps carried out together and measured against the baseline, never a product.

    The product of the parts, each measured alone, stands beside it and is labelled as what it is.
    """
    found = speed_up(bench, claim, None if budget is None else 0.8 * budget)
    if not found.steps or found.value is None:
        return found
    parts = _parts(bench, claim, found)
    alone = [part.value for part in parts if part.value is not None]
    if len(alone) < len(parts):
        note = "not all parts run alone"
        product = Measurement(
            name="product_of_parts", value=None, unit="x", state="could not tell", note=note
        )
        return found.with_(measurements=(*found.measurements, *parts, product))
    product = Measurement(
        name="product_of_parts", value=math.prod(alone), unit="x",
        note="of the parts alone; no measurement of the whole",
    )  # fmt: skip
    reason = f"{found.reason}; multiplying its parts would claim {number(math.prod(alone))}"
    return found.with_(measurements=(*found.measurements, *parts, product), reason=reason)


def _parts(bench: Bench, claim: Claim, found: Found) -> tuple[Measurement, ...]:
    """The speed-up of every single step, timed in one interleaved race of a few rounds."""
    sides: dict[str, Runnable] = {}
    why: dict[str, str] = {}
    for step in found.steps:
        try:
            sides[step.text()] = bench.tried((step,)).runnable
        except SpeedUpRefused as refused:
            why[step.text()] = str(refused)
    rounds = None
    if sides:
        everyone = {BASELINE: bench.start(), **sides}
        rounds = run(bench, everyone, bench.batches(claim.at), _baseline_time, rounds=PILOT).rounds
    told = []
    for name in (step.text() for step in found.steps):
        if rounds is None or name not in sides:
            told.append(
                Measurement(name="speed_up_alone", value=None, unit="x", state="could not tell",
                            note=f"{name}: {why.get(name, 'nothing ran')}"[:300])
            )  # fmt: skip
            continue
        ratio = rounds.speed_up(name, BASELINE)
        told.append(
            Measurement(name="speed_up_alone", value=ratio.median, unit="x", n=ratio.n, note=name)
        )
    return tuple(told)


def _own(rounds: Rounds) -> Floats:
    return rounds.seconds[CLAIMED]


def _baseline_time(rounds: Rounds) -> Floats:
    return rounds.seconds[BASELINE]


def _timed(bench: Bench, claim: Claim, budget: float | None, value: Value) -> Found:
    """Choose the best way and measure it until the claim is decided."""
    batches = bench.batches(claim.at)
    ways = ways_of(bench, claim)
    if not ways.usable:
        return ways.none()
    way = best(bench, ways, batches)
    sides = {CLAIMED: way.runnable}
    if claim.kind in ("speed-up", "combined"):
        sides = {BASELINE: bench.start(), CLAIMED: way.runnable}
    found = by_clock(claim, run(bench, sides, batches, value, claim=claim, budget=budget))
    reason = found.reason
    if claim.alternatives:
        reason += f"; the best of {len(claim.alternatives)} is {way.name}"
    return found.with_(
        steps=way.steps, left_out=ways.left_out, measurements=way.measurements, reason=reason
    )


def best(bench: Bench, ways: Ways, batches: Sequence[Batch]) -> Way:
    """The fastest of several ways by its median over a few rounds of their own, so that choosing
    does not colour the measurement.
    """
    if len(ways.usable) == 1:
        return ways.usable[0]
    sides = {str(place): way.runnable for place, way in enumerate(ways.usable)}
    rounds = run(bench, sides, batches, lambda r: r.seconds["0"], rounds=PILOT).rounds
    place = min(sides, key=lambda name: float(np.median(rounds.seconds[name])))
    return ways.usable[int(place)]


def run(
    bench: Bench,
    sides: Mapping[str, Callable[[tuple[Any, ...]], object]],
    batches: Sequence[Batch],
    value: Value,
    *,
    claim: Claim | None = None,
    rounds: int | None = None,
    budget: float | None = None,
) -> Decided:
    """Time sides on batches in turn, interleaved, until the claim is decided.

    Args:
        bench: Whose clock, device and threads count.
        sides: Name -> what takes the inputs of a batch.
        batches: Run in turn.
        value: From the rounds to the claimed number in each.
        claim: Whose limits decide; None measures `rounds` rounds and decides nothing.
        rounds: Rounds at most; None takes the bench's.
        budget: Seconds after which no further round is begun.
    """

    def runner(side: Callable[[tuple[Any, ...]], object]) -> Callable[[int], object]:
        return lambda index: side(batches[index].inputs)

    least, most = (None, None) if claim is None else claim.limits
    with torch.no_grad(), torch_threads(bench.workload.threads):
        return bench.measure(
            {name: runner(side) for name, side in sides.items()}, bench.workload.device,
            value=value, least=least, most=most, batches=len(batches), confidence=CONFIDENCE,
            rounds=bench.rounds if rounds is None else rounds, budget=budget,
        )  # fmt: skip
