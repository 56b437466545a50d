"""How fast this machine multiplies and moves numbers: the two ends of a roofline."""

from dataclasses import dataclass
from functools import lru_cache

import torch

from zsei.timing.ceilings import ceilings
from zsei.timing.device import find_device


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured, with as many threads as the model ran on (`zsei.timing.ceilings`)."""

    peak: float
    """Operations per second of a large float32 matrix product, the best of a few."""
    bandwidth: float
    """Bytes per second of a sum of two long vectors, read and written, the best of a few."""

    @property
    def ridge(self) -> float:
        """Operations per byte above which arithmetic, and below which memory, is the limit."""
        return self.peak / self.bandwidth


def machine() -> Machine:
    """This machine at torch's present number of threads; measured once per process."""
    return _measured(torch.get_num_threads())


@lru_cache
def _measured(threads: int) -> Machine:
    found = ceilings(find_device("cpu"), threads, ("float32",))
    return Machine(peak=found.peak["float32"], bandwidth=found.bandwidth)
