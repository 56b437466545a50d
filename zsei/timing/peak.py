"""Peak memory of a call: what torch's allocator holds at the worst moment, beyond what was there.

On the CPU the allocator's own events are summed (torch's profiler tells every allocation and every
release with its size), so the figure is exact for tensors and for scratch space that torch
allocates, and the same on every run. On a card the allocator keeps the peak itself.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass

import torch

from zsei.timing.allocations import allocations_of
from zsei.timing.device import Device
from zsei.timing.timeline import moments_of


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Memory of one call."""

    bytes: int
    """Most bytes alive at once, beyond those alive when it began."""
    allocated: int
    """Bytes of all allocations together."""
    allocations: int


def peak_memory(call: Callable[[], object], device: Device) -> Peak:
    """Peak memory of one call.

    On a card the call is run twice and the second run counts: at its first product a library sets
    aside a workspace that it then keeps.

    Misleads when: a library allocates on its own (oneDNN's scratch space, ONNX Runtime's arena):
    the figure does not see that (`zsei.timing.resident` does).
    """
    gc.collect()
    if device.is_cuda:
        return _on_card(call, device)
    found = allocations_of(call, device)
    given = [allocation.bytes for allocation in found if allocation.bytes > 0]
    most = max((moment.bytes for moment in moments_of(found)), default=0)
    return Peak(bytes=max(most, 0), allocated=sum(given), allocations=len(given))


def _on_card(call: Callable[[], object], device: Device) -> Peak:
    call()
    device.wait()
    torch.cuda.reset_peak_memory_stats(device.torch)
    before = torch.cuda.memory_stats(device.torch)
    call()
    device.wait()
    after = torch.cuda.memory_stats(device.torch)

    def more(name: str) -> int:
        return after.get(name, 0) - before.get(name, 0)

    alive = before.get("allocated_bytes.all.current", 0)
    return Peak(
        bytes=after.get("allocated_bytes.all.peak", 0) - alive,
        allocated=more("allocated_bytes.all.allocated"),
        allocations=more("allocation.all.allocated"),
    )
