"""Claims about scaling: how many times faster some cores are than one."""

from collections.abc import Callable
from typing import Any

from zsei.claims.bench import Bench
from zsei.claims.by_time import CLAIMED, run
from zsei.claims.claim import Claim
from zsei.claims.found import Found, by_clock, not_measurable
from zsei.claims.ways import ways_of
from zsei.speedups.runnable import Runnable
from zsei.timing.threads import torch_threads

ONE = "one"
"""The side on one thread."""


def rows(claim: Claim) -> tuple[Claim, ...]:
    """A claim for every row of the table, by cores; a claim of another kind as it is."""
    if claim.kind != "scaling":
        return (claim,)
    return tuple(
        claim.model_copy(
            update={
                "id": f"{claim.id}@{cores}", "table": {cores: factor},
                "at_least": factor.at_least, "at_most": factor.at_most,
            }
        )
        for cores, factor in sorted(claim.table.items())
    )  # fmt: skip


def cores_of(row: Claim) -> int:
    """How many cores a row is about."""
    return next(iter(row.table))


def scaling(bench: Bench, row: Claim, budget: float | None) -> Found:
    """One row of the table: time on one thread / time on as many threads as the row has cores.

    Both sides run the same steps on the same batch, interleaved. A row of more cores than this
    machine has is not measurable here: threads that share a core say nothing about cores.

    Misleads when: something else runs on the cores; then the factor is of what it leaves.
    """
    cores = cores_of(row)
    if cores > bench.cores:
        have = f"{bench.cores} core{'s' if bench.cores != 1 else ''}"
        return not_measurable(f"this machine has {have}, and the claim is about {cores}")
    ways = ways_of(bench, row)
    if not ways.usable:
        return ways.none()
    way = ways.usable[0]
    sides = {ONE: on_threads(way.runnable, 1), CLAIMED: on_threads(way.runnable, cores)}
    decided = run(
        bench, sides, bench.batches(row.at), lambda r: r.seconds[ONE] / r.seconds[CLAIMED],
        claim=row, budget=budget,
    )  # fmt: skip
    found = by_clock(row, decided)
    return found.with_(steps=way.steps, measurements=way.measurements, left_out=ways.left_out)


def on_threads(runnable: Runnable, threads: int) -> Callable[[tuple[Any, ...]], object]:
    """The runnable on so many torch threads; the number in force before is restored."""

    def call(inputs: tuple[Any, ...]) -> object:
        with torch_threads(threads):
            return runnable(inputs)

    return call
