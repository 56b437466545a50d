"""Where a model runs: the CPU or one CUDA card; its name, its clock, and waiting for it."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from zsei.errors import DeviceError


@dataclass(frozen=True, kw_only=True)
class Device:
    """One place to run."""

    torch: torch.device
    name: str
    """The processor's or the card's own name."""

    @property
    def is_cuda(self) -> bool:
        """Whether calls return before they are done."""
        return self.torch.type == "cuda"

    def wait(self) -> None:
        """Return when everything that was started has ended."""
        if self.is_cuda:
            torch.cuda.synchronize(self.torch)


def find_device(name: str) -> Device:
    """The device of this name: `cpu`, `cuda` or `cuda:N`.

    Raises:
        DeviceError: There is none here, or the name is none.
    """
    if name == "cpu":
        return Device(torch=torch.device("cpu"), name=processor())
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"A device is cpu, cuda or cuda:N; {name!r} is none of them.") from error
    if found.type != "cuda":
        raise DeviceError(f"A device is cpu, cuda or cuda:N; {name!r} is not supported.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = found.index or 0
    if index >= count:
        there = "none" if not count else f"{count} (cuda:0 to cuda:{count - 1})"
        build = "" if torch.version.cuda else "; this torch is built for the CPU alone"
        raise DeviceError(
            f"The device must be there; {name!r} was asked for and torch sees {there}{build}. "
            f"Use --device cpu, or install a torch built for CUDA where there is a card."
        )
    place = torch.device("cuda", index)
    return Device(torch=place, name=torch.cuda.get_device_name(place))


@lru_cache
def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def seconds(call: Callable[[], object], device: Device) -> float:
    """Seconds one call takes until it is done.

    On the CPU by the wall clock. On a card by two events on its stream, the card being idle before:
    from when the card reaches the first to when it has done all that the call gave it. A call of
    many small kernels is so charged for the time in which the host sends them, as its user is.
    Events tell half microseconds.

    Misleads when: the call itself uses streams of its own and does not join them.
    """
    if not device.is_cuda:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin
    # The stream is named: without it an event goes to the current card, which may be another.
    stream = torch.cuda.current_stream(device.torch)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    device.wait()
    start.record(stream)
    call()
    end.record(stream)
    end.synchronize()
    return start.elapsed_time(end) / 1000
