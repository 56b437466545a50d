"""Whether a step names a speed-up that there is, for inference or for training."""

from zsei.speedups import find_speed_up
from zsei.speedups.speedup import Step, Use, params_of
from zsei.speedups.training import find_training_speed_up


def check_step(step: Step, use: Use) -> None:
    """Whether there is such a speed-up, for inference or training, that takes these parameters.

    Raises:
        UsageError: There is none, or it does not take them.
    """
    find = find_training_speed_up if use == "training" else find_speed_up
    params_of(find(step.speedup), step)
