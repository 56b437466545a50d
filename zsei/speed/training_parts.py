"""Where the time of a step goes: forward pass, backward pass, update."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Protocol

import torch
from torch import Tensor

from zsei.speed.parts import PartTimes
from zsei.speed.training import random_state_kept
from zsei.speedups.speedup import Step
from zsei.speedups.training import carry_out_training
from zsei.speedups.training.protocol import TrainingSpeedUp
from zsei.speedups.training.setup import OptimizerRecipe, TrainingSetup
from zsei.speedups.workload import Workload
from zsei.subject.types import Batch
from zsei.timing.device import seconds
from zsei.timing.threads import torch_threads

FORWARD, BACKWARD, UPDATE = PARTS = ("forward pass", "backward pass", "update")
REPEATS = 5


class Bench(Protocol):
    """What is needed to make setups."""

    @property
    def workload(self) -> Workload:
        """Model and batches."""
        ...

    @property
    def recipe(self) -> OptimizerRecipe | None:
        """Makes the optimizer."""
        ...

    @property
    def shelf(self) -> Sequence[TrainingSpeedUp]:
        """The speed-ups that steps may name."""
        ...


def part_seconds(
    bench: Bench, sides: Mapping[str, Sequence[Step]], repeats: int = REPEATS
) -> dict[str, PartTimes]:
    """Median seconds of each part of a step, by side; sides take turns.

    With micro-batches a part's time is the sum over them. Computing activations again counts for
    the backward pass, where it happens.
    """
    workload = bench.workload
    batch = max(workload.calibration, key=lambda b: b.inputs[0].numel())
    found: dict[str, dict[str, list[float]]] = {n: {p: [] for p in PARTS} for n in sides}
    with random_state_kept(workload), torch_threads(workload.threads):
        setups = {
            name: carry_out_training(steps, workload, recipe=bench.recipe, shelf=bench.shelf)
            for name, steps in sides.items()
        }
        for setup in setups.values():
            setup.step(batch)
        for _ in range(repeats):
            for name, setup in setups.items():
                for part, value in _once(setup, batch, workload).items():
                    found[name][part].append(value)
    return {name: {p: median(v) for p, v in own.items()} for name, own in found.items()}


def part_ratios(bench: Bench, steps: Sequence[Step]) -> PartTimes:
    """Time with some steps / time without them, for each part."""
    times = part_seconds(bench, {"without": (), "with": steps})
    return {part: times["with"][part] / times["without"][part] for part in PARTS}


@torch.enable_grad()
def _once(setup: TrainingSetup, batch: Batch, workload: Workload) -> dict[str, float]:
    device = workload.device
    found: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    setup.optimizer.zero_grad(set_to_none=True)
    for part, share in setup.parts(batch):
        losses: list[Tensor] = []
        found[FORWARD] += seconds(
            lambda p=part, to=losses: to.append(setup.loss_of(p)), device
        )  # fmt: skip
        found[BACKWARD] += seconds(setup.scaler.scale(losses[0] * share).backward, device)
    found[UPDATE] = seconds(setup.update, device)
    return found
