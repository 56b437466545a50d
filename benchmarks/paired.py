"""Ratios within one run: interleaved pairs, one thread, medians of CPU time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """How many times the CPU time of the baseline something takes."""

    median: float
    low: float
    high: float
    baseline_seconds: float


def ratio(measured: Callable[[], object], baseline: Callable[[], object], pairs: int = 5) -> Ratio:
    """Median of paired ratios; each pair runs the baseline before and after and takes their mean.

    Args:
        measured: What is measured.
        baseline: What it is compared with.
        pairs: Number of pairs after one warm-up of each.
    """
    torch.set_num_threads(1)
    baseline()
    measured()
    ratios, seconds = [], []
    for _ in range(pairs):
        before = _cpu(baseline)
        middle = _cpu(measured)
        after = _cpu(baseline)
        seconds.append((before + after) / 2)
        ratios.append(middle / seconds[-1])
    return Ratio(
        median=median(ratios), low=min(ratios), high=max(ratios), baseline_seconds=median(seconds)
    )


def _cpu(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin
