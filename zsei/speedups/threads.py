"""Choose how many threads share one call."""

import os
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from pydantic import Field

from zsei.errors import SpeedUpRefused
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params
from zsei.speedups.workload import Workload
from zsei.timing.threads import torch_threads


class ThreadsParams(Params):
    """Numbers of threads; None leaves one as it is."""

    intra: int | None = Field(default=None, ge=1)
    """Threads that share one operation."""
    interop: int | None = Field(default=None, ge=1)
    """Threads that run independent operations side by side (`torch.jit.fork`, some compiled
    graphs)."""


@final
@dataclass(frozen=True, kw_only=True)
class Threads:
    """Runs under another number of torch threads.

    The intra-op number holds around every call and is then restored. The inter-op number torch lets
    one set once per process, before any parallel work: it is not tried here but checked, `begin`
    sets it where that is still possible, and it is measured in a process of its own.

    Exact: up to the order of sums where a reduction is split (1e-6). Costs nothing.
    Misleads when: the machine is shared, where more threads wait for each other; small batches have
    too little work per thread, so that one thread can be the fastest.

    References: PyTorch, CPU threading and TorchScript inference, documentation.
    """

    name: ClassVar[str] = "threads"
    title: ClassVar[str] = "Threads"
    order: ClassVar[int] = 70
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = ThreadsParams

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """One thread, doubled up to all cores, without the baseline's own number."""
        if workload.device.is_cuda:
            raise SpeedUpRefused(
                f"Threads are those of the CPU; the device is {workload.device.torch}, which "
                f"shares its work out by itself. Use --device cpu."
            )
        numbers = {1, cores(), *(2**power for power in range(1, 16) if 2**power < cores())}
        numbers.discard(workload.threads)
        if not numbers:
            raise SpeedUpRefused(
                f"Another number of threads needs more than one core; this machine lets the "
                f"process use {cores()}. Leave it out."
            )
        return tuple(ThreadsParams(intra=number) for number in sorted(numbers, reverse=True))

    def apply(self, runnable: Runnable, params: Any, workload: Workload) -> Runnable:
        """The number around every call."""
        del workload
        intra, interop = params.intra, params.interop
        if max(intra or 1, interop or 1) > cores():
            raise SpeedUpRefused(
                f"Threads must have a core each; {max(intra or 1, interop or 1)} were asked for "
                f"and this process may use {cores()}. Measure again on this machine."
            )
        if interop is not None and interop != torch.get_num_interop_threads():
            raise SpeedUpRefused(
                f"Inter-op threads can be set once per process, before any parallel work; "
                f"{interop} were asked for and this one has {torch.get_num_interop_threads()}. "
                f"Call zsei.speedups.threads.begin({interop}) first of all, or leave interop out."
            )
        if intra is None:
            return runnable
        return runnable.with_around(lambda: torch_threads(intra))


def cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def begin(interop: int) -> str:
    """Set the inter-op threads of this process where torch still lets one.

    Returns:
        What a user should know: empty when the number holds now, else why it does not.
    """
    if torch.get_num_interop_threads() != interop:
        try:
            torch.set_num_interop_threads(interop)
        except RuntimeError:
            return (
                f"Inter-op threads stay at {torch.get_num_interop_threads()} instead of {interop}: "
                f"they can be set once per process, before any parallel work."
            )
    return ""
