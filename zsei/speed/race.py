"""Runs ways to run one model against each other on the same batches."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from zsei.speedups.runnable import Runnable
from zsei.speedups.workload import Workload
from zsei.subject.types import Batch
from zsei.timing.pairs import Rounds, interleave
from zsei.timing.threads import torch_threads


def race(
    workload: Workload,
    sides: Mapping[str, Runnable],
    *,
    batches: Sequence[Batch] | None = None,
    rounds: int = 7,
    warm_up: int = 1,
    budget: float | None = None,
    enough: Callable[[Rounds], bool] | None = None,
) -> Rounds:
    """Time several ways to run the workload, interleaved (`zsei.timing.pairs.interleave`).

    Args:
        workload: Model and batches.
        sides: Name -> way to run it.
        batches: What is run; None takes the held-out batches, in turn.
        rounds: Rounds at most.
        warm_up: Untimed runs of every side on every batch first.
        budget: Seconds after which no further round is begun.
        enough: Asked after every round whether to stop.
    """
    given = workload.held_out if batches is None else batches

    def runner(side: Runnable) -> Callable[[int], Tensor]:
        return lambda number: side(given[number].inputs)

    with torch.no_grad(), torch_threads(workload.threads):
        return interleave(
            {name: runner(side) for name, side in sides.items()}, workload.device,
            batches=len(given), rounds=rounds, warm_up=warm_up, budget=budget, enough=enough,
        )  # fmt: skip


@torch.no_grad()
def outputs(workload: Workload, runnable: Runnable) -> list[Tensor]:
    """Main output for every held-out batch."""
    with torch_threads(workload.threads):
        return [runnable(batch.inputs).clone() for batch in workload.held_out]


def difference(before: Tensor, after: Tensor, batch: Batch) -> float:
    """Largest difference at real positions, relative to the largest output there (at least 1).

    Infinite where the shape is another one or a value is no number.
    """
    if before.shape != after.shape:
        return float("inf")
    if batch.mask is not None and batch.mask.shape == before.shape[:2] and before.ndim > 2:
        before, after = before[batch.mask], after[batch.mask]
    moved = (after.double() - before.double()).abs().max()
    if not bool(moved.isfinite()):
        return float("inf")
    return float(moved / before.double().abs().max().clamp_min(1.0))
