"""Measures speed-ups of training from the baseline to the settings file, and applies them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from zsei.clock import Clock, Progress
from zsei.errors import UsageError
from zsei.gate.sandbox import verify_unchanged
from zsei.settings import Settings
from zsei.speed.alone import Alone
from zsei.speed.baseline import BASELINE
from zsei.speed.record import Combination, SpeedRecord, Trial
from zsei.speed.record_of import record_of
from zsei.speed.settings_file import read_settings
from zsei.speed.speed_up import BEFORE_TOGETHER, SHARES
from zsei.speed.state import undisturbed
from zsei.speed.together import Order
from zsei.speed.training import compare_training
from zsei.speed.training_together import FINAL_ROUNDS, combine_training
from zsei.speed.training_trials import (
    ROUNDS,
    Compare,
    TrainingBench,
    measure_training_alone,
    training_bench,
)
from zsei.speed.workload_of import workload_of
from zsei.speedups.shelf import chosen
from zsei.speedups.speedup import Step
from zsei.speedups.training import TRAINING_SPEED_UPS, carry_out_training
from zsei.speedups.training.protocol import TrainingSpeedUp
from zsei.speedups.training.setup import OptimizerRecipe, TrainingSetup
from zsei.subject.prepare import prepare
from zsei.subject.seeded import seeded
from zsei.timing.device import find_device


def speed_up_training(
    model: str | nn.Module | None = None,
    data: Any = None,
    *,
    objective: str = "auto",
    settings: Settings | None = None,
    device: str = "cpu",
    threads: int | None = None,
    only: Sequence[str] | None = None,
    without: Sequence[str] | None = None,
    save_memory: bool = False,
    order: Order | None = None,
    recipe: OptimizerRecipe | None = None,
    rounds: int = ROUNDS,
    final_rounds: int = FINAL_ROUNDS,
    progress: Progress | None = None,
    command: str = "",
    shelf: Sequence[TrainingSpeedUp] = TRAINING_SPEED_UPS,
    compare: Compare = compare_training,
) -> SpeedRecord:
    """Measure speed-ups of training against one baseline, alone, then those that held together.

    The baseline is a step in float32 with eager attention and AdamW in a Python loop, on the
    calibration batches, each padded to its own longest sample. An exact speed-up must make the
    same steps within 1e-5; every one must have learnt as much after some steps, judged on held-out
    samples by the limits of any edit; then it must be faster, or need less memory where that is
    what it is for.

    Args:
        model: As for `zsei.analyze`. It is never changed: copies are trained.
        data: As for `zsei.analyze`, with labels.
        objective: `auto` or a name in `zsei.subject.objective.OBJECTIVES`, not `fidelity`.
        settings: Samples, batch size, length, safety, `budget` seconds; None reads `zsei.toml` and
            `ZSEI_*`.
        device: `cpu`, `cuda` or `cuda:N`.
        threads: Torch threads; None takes the setting, else torch's choice.
        only: Names of the speed-ups to measure; None takes all.
        without: Names of those to leave out.
        save_memory: Whether what saves memory and costs time joins the combination.
        order: From the accepted trials to names in the order in which they are combined.
        recipe: Makes the optimizer; None takes AdamW.
        rounds: Timed steps of each trial at most.
        final_rounds: Timed steps of the whole.
        progress: Called with (stage, share done, seconds remaining or None, note).
        command: What repeats this measurement, for the record.
        shelf: The speed-ups there are.
        compare: Times sides against each other.

    Returns:
        The record, its `use` being "training"; `settings` are None when nothing was accepted.

    Raises:
        ObjectiveError: The objective has no labels, hence no loss to train by.
        ZseiError: With the rule, what arrived and the likely fix; nothing is left changed.

    Misleads when: the data's lengths or the batch size are not those of use; every parameter is
    trained here, and a loop that trains few of them gains other shares.
    """
    settings = settings or Settings()
    speedups = chosen(shelf, only, without, called="speed-up of training")
    place = find_device(device)
    clock = Clock(progress, settings.budget, SHARES)
    with seeded(settings), undisturbed():
        with clock.stage("prepare"):
            subject = prepare(model, data, objective=objective, settings=settings)
            workload = workload_of(subject, place, threads or settings.threads)
            bench = training_bench(
                workload, settings, recipe=recipe, shelf=shelf, compare=compare, rounds=rounds
            )
            alone_time = compare(
                workload, {BASELINE: ()}, recipe=recipe, rounds=rounds, memory=False, shelf=shelf,
                seed=settings.seed,
            )  # fmt: skip
        with clock.stage("alone") as report:
            alone = measure_training_alone(
                bench, speedups, lambda: clock.out_of_time(BEFORE_TOGETHER), report
            )
        with clock.stage("together") as report:
            together = combine_training(
                bench, alone, save_memory=save_memory, order=order, final_rounds=final_rounds,
                out_of_time=clock.out_of_time, report=report,
            )  # fmt: skip
        verify_unchanged(subject)
    return record_of(
        workload, settings, use="training", measured=workload.calibration,
        asked={"use": "training"}, baseline=alone_time.rounds.time(BASELINE), alone=alone,
        together=together, applied=_best(bench, alone, together), command=command,
    )  # fmt: skip


def training_setup(
    file: Path | str,
    model: str | nn.Module | None = None,
    data: Any = None,
    *,
    objective: str = "auto",
    settings: Settings | None = None,
    recipe: OptimizerRecipe | None = None,
) -> TrainingSetup:
    """A copy of a model, ready to be trained the way a settings file of training says.

    Args:
        file: `speed.json`, as `zsei speed --train --out DIR` writes it.
        model: The model, a Python object or as for `zsei.analyze`; its frozen parameters stay so
            where it is an object.
        data: As for `zsei.analyze`; it says what the inputs and the loss are.
        objective: As for `zsei.analyze`.
        settings: Batch size, length, seed.
        recipe: Makes the optimizer, such as `adamw(learning_rate=3e-5)`; None takes AdamW.

    Raises:
        UsageError: The file holds no speed-ups of training.
        ZseiError: As of `speed_up_training`.
    """
    stored = read_settings(file)
    if stored.use != "training":
        raise UsageError(
            f"A setup for training needs a file of `zsei speed --train`; {Path(file).name} holds "
            f"speed-ups of {stored.use}. zsei.load applies those."
        )
    settings = settings or Settings()
    device = find_device(stored.device)
    with seeded(settings), undisturbed():
        subject = prepare(model, data, objective=objective, settings=settings)
        workload = workload_of(subject, device, settings.threads)
    own = model if isinstance(model, nn.Module) else None
    steps: Sequence[Step] = stored.steps
    return carry_out_training(steps, workload, recipe=recipe, model=own)


def _best(bench: TrainingBench, alone: Alone, together: Combination | None) -> Trial | None:
    """What the settings file applies: the whole where it is accepted, else the fastest alone."""
    if together is not None and together.trial.verdict.outcome == "accepted":
        return together.trial
    return next((t for t in alone.best() if not bench.is_for_memory(t.steps)), None)
