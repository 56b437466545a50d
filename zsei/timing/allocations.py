"""Every allocation and release of a call, as torch's profiler tells them, with who asked for it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch.profiler import ProfilerActivity, profile

from zsei.timing.device import Device

_MEMORY = "[memory]"


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """Memory that torch's allocator gave out or took back."""

    seconds: float
    """Since the call began; on a card when the host asked, not when the card got there."""
    bytes: int
    """Negative for a release."""
    operator: str
    """Outermost torch operator that was running (`aten::linear`); empty between operators."""
    scope: str
    """Innermost `torch.profiler.record_function` around it; empty where there is none."""


def allocations_of(call: Callable[[], object], device: Device) -> list[Allocation]:
    """Run a call once and list its allocations and releases on the device, in order.

    Misleads when: a library allocates on its own (oneDNN's scratch space, ONNX Runtime's arena):
    only what goes through torch's allocator is told.
    """
    with quiet_profiler(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
        device.wait()
    results: Any = seen.profiler and seen.profiler.kineto_results
    kind = "CUDA" if device.is_cuda else "CPU"
    number = device.torch.index
    begin = results.trace_start_ns()
    found: list[Allocation] = []
    # What is running, outermost first, on each thread: (end, name, whether a person named it).
    running: dict[int, list[tuple[int, str, bool]]] = {}
    for event in sorted(results.events(), key=lambda event: (event.start_ns(), -event.end_ns())):
        now = event.start_ns()
        stack = running.setdefault(event.start_thread_id(), [])
        while stack and stack[-1][0] < now:
            stack.pop()
        if event.name() != _MEMORY:
            stack.append((event.end_ns(), event.name(), event.is_user_annotation()))
            continue
        if event.device_type().name != kind or (device.is_cuda and event.device_index() != number):
            continue
        found.append(
            Allocation(
                seconds=(now - begin) / 1e9,
                bytes=event.nbytes(),
                operator=next((name for _, name, named in stack if not named), ""),
                scope=next((name for _, name, named in reversed(stack) if named), ""),
            )
        )
    return found


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
