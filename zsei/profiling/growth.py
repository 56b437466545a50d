"""How time and memory grow with the number of samples and with their length.

The model itself is run, since an exported program takes one shape only, on real samples cut
shorter. Sizes are a quarter, a half and the whole of a third of the profiled batch, so that all of
it costs two to three forwards: short runs do less work in a second.
"""

import gc
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

import numpy as np
import torch
from scipy import stats

from zsei.profiling.instrument import Seen, hooked, kinds_of_modules, timed_modules
from zsei.profiling.record import Growth
from zsei.subject.program import MainOutput
from zsei.subject.types import Batch, Subject
from zsei.timing.device import Device
from zsei.timing.interval import Interval
from zsei.timing.pairs import Side, interleave
from zsei.timing.peak import peak_memory

CONFIDENCE = 0.9
FEWEST = 4
"""Samples of the largest size, where the batch has them: fewer make no three sizes."""
ROUNDS = 2
"""Rounds over all sizes at least."""
MOST_ROUNDS = 9
PATIENCE = 0.2
"""Seconds of rounds after which `ROUNDS` are enough: only small models get more."""
SMALLEST_SHARE = 0.05
"""Kinds with a smaller share of the time at the largest size are left out."""

Size = tuple[int, int]
"""(samples, positions); 0 positions where samples are no sequences."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Sizes along one axis, the other held."""

    over: Literal["batch", "length"]
    sizes: tuple[Size, ...]
    at: str
    why_not: str = ""
    """Why it cannot be told; "" when it can."""

    @property
    def along(self) -> tuple[int, ...]:
        """The sizes on the axis that varies."""
        return tuple(size[0 if self.over == "batch" else 1] for size in self.sizes)


def growth(subject: Subject, batch: Batch, device: Device) -> tuple[Growth, ...]:
    """Time and memory over batch and length, four fits; those that cannot be had say why.

    Memory is the allocator's peak of one run (`peak_memory`), taken first: the runs also settle
    what a library prepares for each shape. Times are interleaved over all sizes.

    Args:
        subject: With its model on the device.
        batch: Real samples on the device.
        device: Whose clock and allocator are read.
    """
    bench = _Bench(subject, batch, device)
    tried = []
    with _quick_collections():
        for plan in plans(batch):
            why = plan.why_not or bench.measure_memory(plan.sizes)
            tried.append(replace(plan, why_not=why))
    bench.measure_time(sorted({size for plan in tried if not plan.why_not for size in plan.sizes}))
    return tuple(fit for plan in tried for fit in _fits(plan, bench))


def plans(batch: Batch) -> tuple[Plan, Plan]:
    """What is run: over the batch at full length, over the length at a part of the batch."""
    length = sequence_length(batch)
    samples = quarters(max(batch.size // 3, min(batch.size, FEWEST)))
    lengths = quarters(length or 1)
    held = samples[-2:][0]
    full = length or 0
    return (
        Plan(
            over="batch", sizes=tuple((n, full) for n in samples),
            at=f"{length} positions" if length else "",
            why_not="" if len(samples) > 1 else "the batch holds one sample",
        ),
        Plan(
            over="length", sizes=tuple((held, t) for t in lengths),
            at=f"{held} sample{'s' if held > 1 else ''}",
            why_not="" if len(lengths) > 1 else "the samples are no sequences that can be cut",
        ),
    )  # fmt: skip


def quarters(size: int) -> tuple[int, ...]:
    """A quarter, a half and the whole of a size, without zeros and repetitions."""
    return tuple(sorted({size // 4, size // 2, size} - {0}))


def sequence_length(batch: Batch) -> int | None:
    """Positions of a sample, padding included; None where no input is a sequence.

    A sequence has its positions on axis 1: token numbers [n, t] or vectors [n, t, c]. Whether a
    model takes fewer of them, only running it can tell.
    """
    if batch.mask is not None:
        return batch.mask.shape[1]
    for tensor in batch.inputs:
        tokens = tensor.ndim == 2 and not tensor.is_floating_point()
        if tokens or tensor.ndim == 3:
            return tensor.shape[1]
    return None


def cut(batch: Batch, size: Size) -> Batch:
    """The first samples of a batch, and of each the first positions."""
    samples, positions = size
    length = sequence_length(batch)
    inputs = []
    for tensor in batch.inputs:
        kept = tensor[:samples]
        if positions and tensor.ndim >= 2 and tensor.shape[1] == length:
            kept = kept[:, :positions]
        inputs.append(kept.contiguous())
    return Batch(inputs=tuple(inputs))


def exponent(sizes: Sequence[float], values: Sequence[float]) -> Interval | None:
    """Slope of the least-squares line through (log size, log value), with a t-interval.

    Formula: b = Σ (x - x̄) y / Σ (x - x̄)², x = log size, y = log value; b ± t · s / √Σ (x - x̄)²
    with s² = Σ residual² / (n - 2) and t the quantile of Student's distribution with n - 2 degrees
    of freedom.

    Args:
        sizes: One for every value; sizes repeat where a size was measured again.
        values: What was measured.

    Returns:
        None with fewer than three values, fewer than two sizes, or a value that is not positive.
    """
    if len(values) < 3 or len(set(sizes)) < 2 or min(values) <= 0:
        return None
    x, y = np.log(np.array(sizes, dtype=float)), np.log(np.array(values, dtype=float))
    spread = float(((x - x.mean()) ** 2).sum())
    slope = float(((x - x.mean()) * y).sum()) / spread
    residuals = y - y.mean() - slope * (x - x.mean())
    freedom = len(values) - 2
    error = math.sqrt(float((residuals**2).sum()) / freedom / spread)
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom)) * error
    return Interval(
        median=slope, low=slope - reach, high=slope + reach, n=len(values), confidence=CONFIDENCE
    )


@contextmanager
def _quick_collections() -> Iterator[None]:
    """`peak_memory` collects garbage before each run, which takes as long as a forward where many
    objects live. What lives now is set aside meanwhile, without a look through all of it, which
    would take as long; where somebody did so before, nothing is.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Bench:
    """Runs the model at several sizes and keeps what was measured."""

    def __init__(self, subject: Subject, batch: Batch, device: Device):
        self.batch, self.device = batch, device
        self.model = subject.model
        self.call = MainOutput(subject.model, subject.input_names).eval()
        self.paths = timed_modules(subject.model, subject.anatomy, leaves=False)
        self.kinds = kinds_of_modules(subject.anatomy)
        self.bytes: dict[Size, int] = {}
        self.seconds: dict[Size, list[float]] = {}
        self.by_kind: dict[Size, list[dict[str, float]]] = {}

    def measure_memory(self, sizes: Sequence[Size]) -> str:
        """Peak memory at sizes not measured yet; why not where the model refuses one, else ""."""
        for size in sizes:
            if size in self.bytes:
                continue
            inputs = cut(self.batch, size).inputs
            try:
                with torch.no_grad():
                    self.bytes[size] = peak_memory(
                        lambda i=inputs: self.call(*i), self.device
                    ).bytes
            except Exception as error:
                said = next(iter(str(error).strip().splitlines()), "")[:200]
                return (
                    f"the model does not take {size[0]} x {size[1]} "
                    f"({type(error).__name__}: {said})"
                )
        return ""

    def measure_time(self, sizes: Sequence[Size]) -> None:
        """Seconds at every size, interleaved; with those of each kind of component."""
        if not sizes:
            return
        seen: dict[Size, list[Seen]] = {size: [] for size in sizes}
        sides = {str(size): self._side(cut(self.batch, size), seen[size]) for size in sizes}
        found = interleave(
            sides, self.device, rounds=MOST_ROUNDS, warm_up=0, least=ROUNDS, budget=PATIENCE
        )
        for size in sizes:
            self.seconds[size] = found.seconds[str(size)].tolist()
            self.by_kind[size] = [self._sums(one) for one in seen[size]]

    def _side(self, batch: Batch, seen: list[Seen]) -> Side:
        def run(_: int) -> None:
            with torch.no_grad(), hooked(self.model, self.paths, self.device) as one:
                self.call(*batch.inputs)
            seen.append(one)

        return run

    def _sums(self, seen: Seen) -> dict[str, float]:
        found: dict[str, float] = {}
        for path, seconds in seen.spans():
            kind = self.kinds[path]
            found[kind] = found.get(kind, 0.0) + seconds
        return found


def _fits(plan: Plan, bench: _Bench) -> tuple[Growth, Growth]:
    if plan.why_not:
        note = f"Could not tell: {plan.why_not}."
        return (
            Growth(over=plan.over, measure="seconds", at=plan.at, note=note),
            Growth(over=plan.over, measure="bytes", at=plan.at, note=note),
        )
    timed = [(n, t) for n, s in zip(plan.along, plan.sizes, strict=True) for t in bench.seconds[s]]
    held = [bench.bytes[size] for size in plan.sizes]
    memory = exponent(plan.along, held)
    return (
        Growth(
            over=plan.over, measure="seconds", at=plan.at, sizes=plan.along,
            values=tuple(median(bench.seconds[size]) for size in plan.sizes),
            exponent=exponent([n for n, _ in timed], [t for _, t in timed]),
            kinds=_kinds(plan, bench),
        ),
        Growth(
            over=plan.over, measure="bytes", at=plan.at, sizes=plan.along,
            values=tuple(float(b) for b in held), exponent=memory,
            note="" if memory else "Could not tell: two sizes give no interval.",
        ),
    )  # fmt: skip


def _kinds(plan: Plan, bench: _Bench) -> dict[str, float]:
    """Kind -> exponent of its time, for kinds that matter at the largest size."""
    sums = {
        size: {k: median(one[k] for one in bench.by_kind[size]) for k in bench.by_kind[size][0]}
        for size in plan.sizes
    }
    largest = sums[plan.sizes[-1]]
    total = median(bench.seconds[plan.sizes[-1]])
    found = {}
    for kind in sorted(largest):
        if largest[kind] < SMALLEST_SHARE * total:
            continue
        values = [sums[size].get(kind, 0.0) for size in plan.sizes]
        if min(values) > 0:
            x, y = np.log(plan.along), np.log(values)
            found[kind] = float(np.polyfit(x, y, 1)[0])
    return found
