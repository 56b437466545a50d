"""Steps of training, timed against each other.

Every side trains a copy of its own from the same weights, on the calibration batches in turn: what
is held out is never trained on. All are in train mode, with the dropout the model has.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from zsei.speedups.speedup import Step
from zsei.speedups.training import TRAINING_SPEED_UPS, carry_out_training
from zsei.speedups.training.protocol import TrainingSpeedUp
from zsei.speedups.training.setup import OptimizerRecipe, TrainingSetup
from zsei.speedups.workload import Workload
from zsei.timing.pairs import Rounds, Side, interleave
from zsei.timing.peak import Peak, peak_memory
from zsei.timing.threads import torch_threads


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingRace:
    """What some ways to train took, by name."""

    rounds: Rounds
    """Seconds of one step."""
    peaks: Mapping[str, Peak]
    """Most memory alive during a step on the largest batch, beyond what stands from step to step:
    activations, gradients, scratch space. Empty where it was not asked for."""
    standing: Mapping[str, int]
    """Bytes that stand from step to step: parameters, buffers, the optimizer's state."""
    prepared: Mapping[str, float]
    """Seconds of the untimed steps, one on each batch: compiling is among them."""

    def bytes(self, name: str) -> int:
        """Memory of a step in all: what stands from step to step and the peak beyond it."""
        return self.standing[name] + self.peaks[name].bytes


def compare_training(
    workload: Workload,
    sides: Mapping[str, Sequence[Step]],
    *,
    recipe: OptimizerRecipe | None = None,
    rounds: int = 7,
    budget: float | None = None,
    enough: Callable[[Rounds], bool] | None = None,
    threads: Mapping[str, int] | None = None,
    memory: bool = True,
    seed: int = 0,
    shelf: Sequence[TrainingSpeedUp] = TRAINING_SPEED_UPS,
) -> TrainingRace:
    """Time steps of training done several ways, interleaved (`zsei.timing.pairs.interleave`).

    Args:
        workload: Model, calibration batches, objective with labels.
        sides: Name -> speed-ups of training; no steps at all is the baseline: eager, float32, the
            optimizer in a loop.
        recipe: Makes the optimizer of every side; None takes AdamW.
        rounds: Rounds at most.
        budget: Seconds after which no further round is begun.
        enough: Asked after every round whether to stop.
        threads: Torch threads by side, for scaling over cores; the workload's where it has none.
        memory: Whether a step's peak memory is measured too.
        seed: Of the random numbers of each step; the same for all sides.
        shelf: The speed-ups that steps may name.

    Raises:
        UsageError: A step names no speed-up, or its parameters do not fit.
        SpeedUpRefused: A side cannot be carried out on this model.
        ObjectiveError: There is no loss to train by.

    Misleads when: batches are few and of different lengths, so that the median is of one length.
    """
    batches = workload.calibration
    own_threads = threads or {}
    with random_state_kept(workload):
        setups = {
            name: carry_out_training(steps, workload, recipe=recipe, shelf=shelf)
            for name, steps in sides.items()
        }

        def runner(name: str, setup: TrainingSetup) -> Side:
            count = own_threads.get(name, workload.threads)

            def run(number: int) -> float:
                torch.manual_seed(seed + number)
                with torch_threads(count):
                    return setup.step(batches[number])

            return run

        running = {name: runner(name, setup) for name, setup in setups.items()}
        prepared = {name: _warm_up(run, len(batches)) for name, run in running.items()}
        raced = interleave(
            running, workload.device, batches=len(batches), rounds=rounds, warm_up=0,
            budget=budget, enough=enough,
        )  # fmt: skip
        largest = max(range(len(batches)), key=lambda i: batches[i].inputs[0].numel())
        peaks = {
            name: _peak(setup, workload, lambda run=running[name]: run(largest))
            for name, setup in setups.items()
            if memory
        }
        standing = {name: setup.standing_bytes() for name, setup in setups.items()}
    return TrainingRace(rounds=raced, peaks=peaks, standing=standing, prepared=prepared)


def _warm_up(run: Side, batches: int) -> float:
    begin = time.perf_counter()
    for number in range(batches):
        run(number)
    return time.perf_counter() - begin


def _peak(setup: TrainingSetup, workload: Workload, step: Callable[[], object]) -> Peak:
    """Of one step that begins without gradients, so that these count as the step's."""
    setup.optimizer.zero_grad(set_to_none=True)
    return peak_memory(step, workload.device)


@contextmanager
def random_state_kept(workload: Workload) -> Iterator[None]:
    """Whatever is seeded and drawn inside, random numbers go on afterwards as they were."""
    place = workload.device.torch
    cards = [] if place.index is None or not workload.device.is_cuda else [place.index]
    with torch.random.fork_rng(devices=cards):
        yield
