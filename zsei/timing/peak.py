"""Peak memory of a call: what torch's allocator holds at the worst moment, beyond what was there.

On the CPU the allocator's own events are summed (torch's profiler tells every allocation and every
release with its size), so the figure is exact for tensors and for scratch space that torch
allocates, and the same on every run. On a card the allocator keeps the peak itself.
"""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from zsei.timing.device import Device


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Memory of one call."""

    bytes: int
    """Most bytes alive at once, beyond those alive when it began."""
    allocated: int
    """Bytes of all allocations together; 0 where they are not counted."""
    allocations: int


def peak_memory(call: Callable[[], object], device: Device) -> Peak:
    """Peak memory of one call.

    Misleads when: a library allocates on its own (oneDNN's scratch space, ONNX Runtime's arena):
    the CPU figure does not see that.
    """
    gc.collect()
    if device.is_cuda:
        device.wait()
        torch.cuda.reset_peak_memory_stats(device.torch)
        before = torch.cuda.memory_allocated(device.torch)
        call()
        device.wait()
        most = torch.cuda.max_memory_allocated(device.torch)
        return Peak(bytes=most - before, allocated=0, allocations=0)
    with quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    held = most = total = count = 0
    results: Any = seen.profiler and seen.profiler.kineto_results
    for event in results.events():
        if event.name() != "[memory]":
            continue
        size = event.nbytes()
        held += size
        most = max(most, held)
        if size > 0:
            total, count = total + size, count + 1
    return Peak(bytes=most, allocated=total, allocations=count)


@contextmanager
def quiet_profiler() -> Iterator[None]:
    """Nothing of what the profiler's library writes to the terminal itself gets there."""
    level = os.environ.get("KINETO_LOG_LEVEL")
    os.environ["KINETO_LOG_LEVEL"] = "99"
    try:
        yield
    finally:
        if level is None:
            del os.environ["KINETO_LOG_LEVEL"]
        else:
            os.environ["KINETO_LOG_LEVEL"] = level
