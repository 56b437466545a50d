"""Peak resident memory of this process: what the system counts, whoever allocated it."""

import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_STATUS = Path("/proc/self/status")
_FORGET = Path("/proc/self/clear_refs")


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Resident memory around one call."""

    result: Any
    """What the call returned."""
    before: int
    """Bytes when it began."""
    peak: int
    """Most bytes while it ran."""

    @property
    def grown(self) -> int:
        """Bytes that the call added at its worst moment."""
        return max(self.peak - self.before, 0)


def resident_memory(call: Callable[[], object]) -> Resident | None:
    """Resident memory before and during a call; None where the system does not tell it.

    Linux keeps the most a process ever held (`VmHWM`) and forgets it when asked to.

    Misleads when: freed memory of earlier calls is still with the process, for then the call fills
    that first and seems to need less: measure in a fresh process (`zsei.timing.fresh`). Pages of
    files that are mapped (weights, libraries) count as well.
    """
    gc.collect()
    try:
        _FORGET.write_text("5", encoding="ascii")
        before = _bytes("VmRSS")
    except (OSError, ValueError):
        return None
    result = call()
    return Resident(result=result, before=before, peak=max(_bytes("VmHWM"), before))


def _bytes(field: str) -> int:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{_STATUS} has no {field}.")
