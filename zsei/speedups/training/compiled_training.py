"""Model, loss and their backward pass compiled into fused kernels."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from zsei.errors import SpeedUpRefused
from zsei.speedups.compiled import check_compiler
from zsei.speedups.speedup import Params
from zsei.speedups.training.protocol import Gain
from zsei.speedups.training.setup import LossFunction, TrainingSetup
from zsei.speedups.workload import Workload

RECOMPILE_LIMIT = 64
"""Versions of one function that are kept. Beyond the limit torch would run it uncompiled without a
word; its own, 8, is passed by a few shapes in a few precisions."""


class CompileParams(Params):
    """How far the compiler goes."""

    mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"


@final
@dataclass(frozen=True, kw_only=True)
class CompiledTraining:
    """`torch.compile` (inductor) of forward pass and loss, and so of the backward pass too.

    Exact: yes, up to the order of sums; with dropout it draws other masks of the same distribution.
    Costs: seconds to minutes at the first step, and again for batches of another shape.
    Misleads when: batches keep changing their shape.
    """

    name: ClassVar[str] = "compiled-training"
    title: ClassVar[str] = "Compiled training"
    order: ClassVar[int] = 50
    exact: ClassVar[bool] = True
    gain: ClassVar[Gain] = "time"
    params: ClassVar[type[Params]] = CompileParams

    def variants(self, workload: Workload) -> tuple[CompileParams, ...]:
        """As the compiler does it unless told otherwise."""
        del workload
        return (CompileParams(),)

    def apply(
        self, setup: TrainingSetup, params: CompileParams, workload: Workload
    ) -> TrainingSetup:
        """Model and loss as one compiled function, made at the first step."""
        if setup.compiler is not None:
            raise SpeedUpRefused("A setup is compiled once; it is already.")
        check_compiler(workload)
        return replace(setup, compiler=_compiler(params.mode))


def _compiler(mode: str) -> Callable[[nn.Module], LossFunction]:
    def compiled(whole: nn.Module) -> LossFunction:
        with _quiet():
            from torch._dynamo import config

            run = torch.compile(whole, mode=mode)

        def call(inputs: tuple[Tensor, ...], labels: Tensor | None, mask: Tensor | None) -> Tensor:
            with _quiet(), config.patch(recompile_limit=RECOMPILE_LIMIT):
                return run(inputs, labels, mask)

        return call

    return compiled


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's compiler says about its own parts (deprecations, mostly)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"torch\.")
        yield
