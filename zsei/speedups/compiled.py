"""Compile the model: kernels fused by torch's own compiler."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch

from zsei.errors import SpeedUpRefused
from zsei.speedups.onnx_session import shapes_of
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params
from zsei.speedups.weighted import one_line, refuse_opaque
from zsei.speedups.workload import Workload
from zsei.subject.program import frozen_twin
from zsei.timing.threads import torch_threads

Mode = Literal["default", "reduce-overhead", "max-autotune"]


class CompileParams(Params):
    """How the compiler goes about it."""

    mode: Mode = "default"
    """`reduce-overhead` and `max-autotune` replay a recorded graph on a card; on the CPU the first
    is the default, the second tries several kernels for each product."""
    dynamic: bool | None = None
    """Sizes left open from the start, never, or (None) from the second shape on."""
    freeze: bool = False
    """Weights as constants, laid out once as the processor's matrix products like them best."""


@final
@dataclass(frozen=True, kw_only=True)
class Compiled:
    """`torch.compile` with inductor: elementwise work fused into few kernels, made at first use.

    Every shape of the workload's batches is run once before it is handed out, so that what fails
    fails here. Another shape, number of threads or gradient mode later compiles again.

    Exact: up to the order of sums (1e-6). Costs: 15 s to minutes, and again in every new process
    but for what torch's own cache keeps (`TORCHINDUCTOR_CACHE_DIR`). Frozen weights are held twice,
    and a weight that is changed afterwards changes nothing.
    Misleads when: most time goes into matrix products, which are the library's either way; when a
    part of the model cannot be compiled, torch runs that part as it is.

    References: Ansel et al., "PyTorch 2: faster machine learning through dynamic Python bytecode
    transformation and graph compilation", ASPLOS 2024.
    """

    name: ClassVar[str] = "compile"
    title: ClassVar[str] = "Compilation"
    order: ClassVar[int] = 50
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = CompileParams

    def variants(self, workload: Workload) -> tuple[CompileParams, ...]:
        """Sizes open where batches differ in shape; frozen on the CPU, where layouts matter; on a
        card the modes that replay a graph too.
        """
        check_compiler(workload)
        dynamic = True if len(shapes_of(workload)) > 1 else None
        if not workload.device.is_cuda:
            return (CompileParams(dynamic=dynamic, freeze=True),)
        modes: tuple[Mode, ...] = ("max-autotune", "reduce-overhead", "default")
        return tuple(CompileParams(mode=mode, dynamic=dynamic) for mode in modes)

    def apply(self, runnable: Runnable, params: CompileParams, workload: Workload) -> Runnable:
        """A twin that compiles itself, run once on a batch of every shape."""
        refuse_opaque(runnable, self.title)
        check_compiler(workload)
        twin = frozen_twin(runnable.module)
        try:
            with quiet_compiler(), torch.no_grad(), torch_threads(workload.threads):
                # In the module itself, whose class, signature and attributes stay what they were.
                twin.compile(mode=params.mode, dynamic=params.dynamic)
                found = runnable.with_module(twin)
                if params.freeze:
                    # Around every call, for a new shape compiles when it comes.
                    found = found.with_around(frozen_weights)
                for inputs in shapes_of(workload):
                    found(inputs)
        except Exception as error:
            raise SpeedUpRefused(
                f"{self.title} must succeed on batches of every shape; it stopped with "
                f"{one_line(error)}. Leave it out for this model, or compile with other sizes "
                f"(dynamic)."
            ) from error
        return found


def check_compiler(workload: Workload) -> None:
    """Raise SpeedUpRefused where there is nothing that turns generated code into a library."""
    try:
        with quiet_compiler():
            if workload.device.is_cuda:
                import triton  # noqa: F401  # type: ignore[import-not-found]
            else:
                from torch._inductor.cpp_builder import get_cpp_compiler

                get_cpp_compiler()
    except Exception as error:
        needs = "triton" if workload.device.is_cuda else "a C++ compiler (g++ or clang++)"
        raise SpeedUpRefused(
            f"Compiling for {workload.device.torch} needs {needs}; none was found "
            f"({one_line(error)}). Install one, or leave compilation out."
        ) from error


def frozen_weights() -> AbstractContextManager[object]:
    """What is compiled inside takes the weights for constants."""
    import torch._inductor.config as inductor

    return inductor.patch(freezing=True)


@contextmanager
def quiet_compiler() -> Iterator[None]:
    """Without what the compiler warns of about its own parts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
