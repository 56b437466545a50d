"""What a speed-up of training is: a name, typed parameters, and another way to make a step."""

from typing import Any, ClassVar, Literal, Protocol

from zsei.speedups.speedup import Params
from zsei.speedups.training.setup import TrainingSetup
from zsei.speedups.workload import Workload

Gain = Literal["time", "memory"]


class TrainingSpeedUp(Protocol):
    """Another way to train the same model. It says how; timing and the gate say whether it counts.

    It changes neither the setup it is given nor anything process-wide but inside
    `TrainingSetup.around`, so that dropping the result undoes it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    order: ClassVar[int]
    """Place in which steps are carried out, small first: 10 what is kept, 20 how a batch is cut,
    30 precision, 40 optimizer, 50 compilers."""
    exact: ClassVar[bool]
    """Whether a step must give the same gradients and the same update within `EXACT`; else the
    gate's limit on the held-out loss after training holds."""
    gain: ClassVar[Gain]
    """What it is for, and judged by: less time a step, or less memory."""
    params: ClassVar[type[Params]]

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """What is worth measuring here, most promising first.

        Raises:
            SpeedUpRefused: This model, machine or installation cannot have it, and why.
        """
        ...

    def apply(self, setup: TrainingSetup, params: Any, workload: Workload) -> TrainingSetup:
        """The setup made faster or smaller.

        Raises:
            SpeedUpRefused: It cannot be carried out on this setup, and why.
        """
        ...
