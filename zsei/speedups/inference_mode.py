"""Run without the bookkeeping that gradients would need."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch

from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params
from zsei.speedups.workload import Workload


@final
@dataclass(frozen=True, kw_only=True)
class InferenceMode:
    """Runs under `torch.inference_mode`: no tape, no version counters.

    Exact: always. Costs nothing; outputs cannot take part in autograd afterwards.
    Misleads when: the baseline runs under `no_grad` already, where little is left to gain.
    """

    name: ClassVar[str] = "inference-mode"
    title: ClassVar[str] = "Inference mode"
    order: ClassVar[int] = 70
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = Params

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """The one there is."""
        del workload
        return (Params(),)

    def apply(self, runnable: Runnable, params: Params, workload: Workload) -> Runnable:
        """One more context around every call."""
        del params, workload
        return runnable.with_around(torch.inference_mode)
