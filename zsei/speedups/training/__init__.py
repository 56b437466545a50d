"""The shelf of speed-ups of training: other ways to make the same step, one per file.

A user's own loop gets its parts from `carry_out_training`:

    setup = carry_out_training(steps, workload, model=model)
    for batch in batches:
        loss = setup.step(batch)                  # forward, backward, update
    model.load_state_dict(setup.module.state_dict())

The setup trains a copy. Its module has the model's own parameter names; `setup.optimizer`,
`setup.scaler` and `setup.forward_context()` serve a loop with a loss of its own.
"""

from collections.abc import Sequence

from torch import nn

from zsei.speedups.shelf import find
from zsei.speedups.speedup import Step, params_of
from zsei.speedups.training.accumulation import GradientAccumulation
from zsei.speedups.training.activation_checkpointing import ActivationCheckpointing
from zsei.speedups.training.autocast import Autocast
from zsei.speedups.training.compiled_training import CompiledTraining
from zsei.speedups.training.fused_optimizer import FusedOptimizer
from zsei.speedups.training.protocol import TrainingSpeedUp
from zsei.speedups.training.setup import OptimizerRecipe, TrainingSetup, bare_training
from zsei.speedups.workload import Workload

TRAINING_SPEED_UPS: tuple[TrainingSpeedUp, ...] = (
    Autocast(), FusedOptimizer(), CompiledTraining(), ActivationCheckpointing(),
    GradientAccumulation(),
)  # fmt: skip


def find_training_speed_up(
    name: str, shelf: Sequence[TrainingSpeedUp] = TRAINING_SPEED_UPS
) -> TrainingSpeedUp:
    """The speed-up of this name.

    Raises:
        UsageError: There is none; the message lists those there are.
    """
    return find(shelf, name, called="speed-up of training")


def carry_out_training(
    steps: Sequence[Step],
    workload: Workload,
    *,
    recipe: OptimizerRecipe | None = None,
    model: nn.Module | None = None,
    shelf: Sequence[TrainingSpeedUp] = TRAINING_SPEED_UPS,
) -> TrainingSetup:
    """A training setup with all steps carried out, each in its place (`TrainingSpeedUp.order`).

    Args:
        steps: Which speed-ups, with their parameters; none gives the baseline.
        workload: Objective, device and anatomy; its model is copied unless another is given.
        recipe: Makes the optimizer; None takes AdamW.
        model: Whose weights are copied, of the workload's class; its frozen parameters stay so.
        shelf: The speed-ups that steps may name.

    Raises:
        UsageError: A step names no speed-up, or its parameters do not fit.
        SpeedUpRefused: One of them cannot be carried out on this model, or after the others.
        ObjectiveError: There is no loss to train by.
    """
    found = [(find_training_speed_up(step.speedup, shelf), step) for step in steps]
    setup = bare_training(workload, recipe, model=model)
    for speedup, step in sorted(found, key=lambda pair: pair[0].order):
        setup = speedup.apply(setup, params_of(speedup, step), workload)
    return setup
