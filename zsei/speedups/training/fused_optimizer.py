"""The optimizer's update in one kernel, or in few calls for all parameters."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

from zsei.errors import SpeedUpRefused
from zsei.speedups.speedup import Params
from zsei.speedups.training.protocol import Gain
from zsei.speedups.training.setup import TrainingSetup
from zsei.speedups.workload import Workload


class OptimizerParams(Params):
    """How the parameters are gone through."""

    implementation: Literal["fused", "foreach"] = "fused"


@final
@dataclass(frozen=True, kw_only=True)
class FusedOptimizer:
    """The same update with fewer passes over memory.

    The plain loop runs some ten kernels for every parameter; `foreach` runs each of them once for
    lists of parameters, `fused` all of them as one.

    Exact: yes, up to the order of roundings.
    Memory: foreach holds a copy of the parameters for the time of the update.
    Misleads when: forward and backward passes take nearly all of a step, as with large batches.
    """

    name: ClassVar[str] = "fused-optimizer"
    title: ClassVar[str] = "Fused optimizer"
    order: ClassVar[int] = 40
    exact: ClassVar[bool] = True
    gain: ClassVar[Gain] = "time"
    params: ClassVar[type[Params]] = OptimizerParams

    def variants(self, workload: Workload) -> tuple[OptimizerParams, ...]:
        """Fused, then for lists."""
        del workload
        return (OptimizerParams(), OptimizerParams(implementation="foreach"))

    def apply(
        self, setup: TrainingSetup, params: OptimizerParams, workload: Workload
    ) -> TrainingSetup:
        """The optimizer made another way; refused where its recipe cannot."""
        del workload
        if setup.implementation != "loop":
            raise SpeedUpRefused(
                f"An optimizer is made one way; it is {setup.implementation} already."
            )
        try:
            setup.recipe(setup.parameters, params.implementation)
        except (RuntimeError, TypeError, ValueError) as error:
            raise SpeedUpRefused(
                f"The optimizer must have a {params.implementation} implementation for this "
                f"device; torch says: {error}"
            ) from error
        return replace(setup, implementation=params.implementation)
