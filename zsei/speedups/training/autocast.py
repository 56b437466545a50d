"""Forward and backward passes of training in half precision, weights in float32."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch

from zsei.errors import SpeedUpRefused
from zsei.speedups.speedup import Params
from zsei.speedups.training.protocol import Gain
from zsei.speedups.training.setup import TrainingSetup
from zsei.speedups.workload import Workload


class AutocastParams(Params):
    """In which precision."""

    dtype: Literal["bfloat16", "float16"] = "bfloat16"


@final
@dataclass(frozen=True, kw_only=True)
class Autocast:
    """Matrix products and convolutions under `torch.autocast`; weights, optimizer and loss float32.

    float16 gradients underflow, so that its loss is scaled (`torch.amp.GradScaler`); that is for
    cards alone. bfloat16 needs no scale.

    Exact: never; the loss on held-out data after training is held against the gate's limit.
    Memory: activations of matrix products take half; weights gain a half-precision copy for the
    time of a pass, so that a model of many weights and small batches may need more.
    Misleads when: the processor has no half-precision units, where it is slower.
    Sources: Micikevicius et al., "Mixed precision training", ICLR 2018.
    """

    name: ClassVar[str] = "autocast"
    title: ClassVar[str] = "Mixed precision (autocast)"
    order: ClassVar[int] = 30
    exact: ClassVar[bool] = False
    gain: ClassVar[Gain] = "time"
    params: ClassVar[type[Params]] = AutocastParams

    def variants(self, workload: Workload) -> tuple[AutocastParams, ...]:
        """bfloat16; on a card float16 too."""
        if not workload.device.is_cuda:
            return (AutocastParams(),)
        return (AutocastParams(), AutocastParams(dtype="float16"))

    def apply(
        self, setup: TrainingSetup, params: AutocastParams, workload: Workload
    ) -> TrainingSetup:
        """One more context around every forward pass; a scaled loss for float16."""
        device = workload.device.torch.type
        if params.dtype == "float16" and device != "cuda":
            raise SpeedUpRefused(
                "Training in float16 needs a card with its scaled loss; the device is "
                f"{workload.device.torch}. Use dtype=bfloat16."
            )
        if setup.scaled or any(isinstance(enter, _Enter) for enter in setup.around):
            raise SpeedUpRefused("Training runs in one precision; autocast is there already.")
        dtype = torch.float16 if params.dtype == "float16" else torch.bfloat16
        return replace(
            setup.with_around(_Enter(device=device, dtype=dtype)), scaled=params.dtype == "float16"
        )


@dataclass(frozen=True, kw_only=True)
class _Enter:
    device: str
    dtype: torch.dtype

    def __call__(self) -> torch.autocast:
        return torch.autocast(self.device, dtype=self.dtype)
