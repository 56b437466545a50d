"""How fast this machine multiplies and moves numbers: the two ends of a roofline."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch

SIDE = 512
"""Side of the square matrices that are multiplied: large enough to be limited by arithmetic."""
STREAM = 1 << 23
"""Numbers that are added to others: 32 MiB each, more than the caches of most machines hold."""
REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured, with as many threads as the model ran on."""

    peak: float
    """Operations per second of a large matrix product, the best of a few."""
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
    del threads  # what is measured depends on it: it is the key
    left, right, product = (torch.full((SIDE, SIDE), 0.5) for _ in range(3))
    source, total = torch.full((STREAM,), 0.5), torch.zeros(STREAM)
    return Machine(
        peak=2 * SIDE**3 / _best(lambda: torch.mm(left, right, out=product)),
        bandwidth=3 * 4 * STREAM / _best(lambda: total.add_(source)),
    )


def _best(call: Callable[[], object]) -> float:
    """Least seconds of a few calls after one to warm up: the others waited for something else."""
    call()
    found = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        call()
        found.append(time.perf_counter() - begin)
    return max(min(found), 1e-9)
