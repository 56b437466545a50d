"""Run the model with ONNX Runtime in the place of torch."""

from dataclasses import dataclass
from typing import ClassVar, final

from pydantic import Field

from zsei.speedups.onnx_session import Optimisation, SessionSettings, exported
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params
from zsei.speedups.workload import Workload


class OnnxParams(Params):
    """How the session runs."""

    threads: int | None = Field(default=None, ge=1)
    """Threads that share one operation; None takes the baseline's number."""
    inter_threads: int = Field(default=1, ge=1)
    """Operations that run side by side."""
    optimisation: Optimisation = "all"
    """How much of the graph is fused when it is loaded."""


@final
@dataclass(frozen=True, kw_only=True)
class OnnxRuntime:
    """The model exported to ONNX in float32 and run by ONNX Runtime's fused kernels.

    Batch size and length stay open where the model allows it. The runtime has threads of its own,
    which neither torch's number nor another step changes, and which sleep while they wait.

    Exact: up to the order of sums (1e-6). Costs: seconds to minutes of export, and the weights a
    second time in memory. The main output comes alone, on the CPU.
    Misleads when: memory is compared, for torch's allocator does not see the runtime's.

    References: ONNX Runtime developers, "ONNX Runtime", documentation, 2021.
    """

    name: ClassVar[str] = "onnx-runtime"
    title: ClassVar[str] = "ONNX Runtime"
    order: ClassVar[int] = 50
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = OnnxParams

    def variants(self, workload: Workload) -> tuple[OnnxParams, ...]:
        """As many threads as the baseline has, everything fused."""
        del workload
        return (OnnxParams(),)

    def apply(self, runnable: Runnable, params: OnnxParams, workload: Workload) -> Runnable:
        """Exported, loaded and run once on a batch of every shape."""
        with exported(runnable, workload, self.title) as model:
            return model.run(model.path, session_settings(params, workload))


def session_settings(params: OnnxParams, workload: Workload) -> SessionSettings:
    """What the parameters mean on this workload."""
    return SessionSettings(
        threads=params.threads or workload.threads,
        inter_threads=params.inter_threads,
        optimisation=params.optimisation,
    )
