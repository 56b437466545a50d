"""Run batches of another size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from zsei.errors import SpeedUpRefused
from zsei.speedups.rearranged import Rearranged
from zsei.speedups.runnable import Runnable
from zsei.speedups.speedup import Params
from zsei.speedups.workload import Workload
from zsei.subject.objective import IGNORED
from zsei.subject.types import Batch


class BatchingParams(Params):
    """Samples in one call of the model."""

    size: int = Field(default=8, ge=1)


@final
@dataclass(frozen=True, kw_only=True)
class Batching:
    """Splits a call into several of at most `size` samples, whose values fit in the cache.

    A call cannot be made larger than what the caller gives: larger batches are another workload
    (`rebatched`), and what counts there is time per sample, not per call.

    Exact: up to the kernel that a library chooses for another size (1e-6), because samples do not
    meet; a model in which they do (batch statistics) differs and is rejected. Costs nothing.
    Misleads when: figures for one size are read as if they held for another.
    """

    name: ClassVar[str] = "batching"
    title: ClassVar[str] = "Batch size"
    order: ClassVar[int] = 60
    exact: ClassVar[bool] = True
    params: ClassVar[type[Params]] = BatchingParams

    def variants(self, workload: Workload) -> tuple[Params, ...]:
        """A half and a quarter of the workload's own size."""
        size = max(batch.size for batch in workload.held_out)
        smaller = sorted({size // 2, size // 4} - {0}, reverse=True)
        if not smaller:
            raise SpeedUpRefused(
                f"A batch is split where it holds two samples or more; it holds {size}. Use a "
                f"larger --batch."
            )
        return tuple(BatchingParams(size=size) for size in smaller)

    def apply(self, runnable: Runnable, params: Any, workload: Workload) -> Runnable:
        """A wrapper that splits what it is given."""
        del workload
        return runnable.with_module(Split(runnable, params.size), main_only=True)


class Split(Rearranged):
    """Calls a model for `size` samples at a time and joins what it gives."""

    def __init__(self, runnable: Runnable, size: int):
        super().__init__(runnable)
        self.size = size

    def rearranged(self, named: Mapping[str, Tensor]) -> Tensor:
        """One output per sample, in the caller's order."""
        samples = next(iter(named.values())).shape[0]
        if samples <= self.size:
            return self.run(named)

        # What is the same for all samples (a mask [1, 1, t, t]) is not cut.
        own = {name for name, tensor in named.items() if tensor.shape[:1] == (samples,)}

        def part(start: int) -> Tensor:
            end = start + self.size
            return self.run({k: v[start:end] if k in own else v for k, v in named.items()})

        return torch.cat([part(start) for start in range(0, samples, self.size)])


def rebatched(batches: Sequence[Batch], size: int) -> tuple[Batch, ...]:
    """The same samples in order, in batches of `size`; the last one may be smaller.

    Batches of different length are padded on the right to their longest: zeros in the inputs,
    `IGNORED` in labels per position, False in the mask.
    """
    longest = max((b.mask.shape[1] for b in batches if b.mask is not None), default=0)
    padded = [_lengthened(batch, longest) for batch in batches]
    inputs = tuple(torch.cat(tensors) for tensors in zip(*(b.inputs for b in padded), strict=True))
    labels, masks = [b.labels for b in padded], [b.mask for b in padded]
    groups = tuple(group for batch in batches for group in batch.groups)

    def joined(parts: Sequence[Tensor | None]) -> Tensor | None:
        there = [part for part in parts if part is not None]
        return torch.cat(there) if len(there) == len(parts) else None

    whole = Batch(inputs=inputs, labels=joined(labels), mask=joined(masks), groups=groups)

    def cut(tensor: Tensor | None, start: int) -> Tensor | None:
        return None if tensor is None else tensor[start : start + size]

    return tuple(
        Batch(
            inputs=tuple(tensor[start : start + size] for tensor in whole.inputs),
            labels=cut(whole.labels, start), mask=cut(whole.mask, start),
            groups=groups[start : start + size],
        )
        for start in range(0, whole.size, size)
    )  # fmt: skip


def _lengthened(batch: Batch, longest: int) -> Batch:
    mask = batch.mask
    if mask is None or mask.shape[1] == longest:
        return batch
    more = longest - mask.shape[1]

    def longer(tensor: Tensor, value: float) -> Tensor:
        if tensor.shape[:2] != mask.shape:
            return tensor
        return F.pad(tensor, (*[0, 0] * (tensor.ndim - 2), 0, more), value=value)

    labels = batch.labels
    return Batch(
        inputs=tuple(longer(tensor, 0) for tensor in batch.inputs),
        labels=None if labels is None else longer(labels, IGNORED),
        mask=longer(mask, 0), groups=batch.groups,
    )  # fmt: skip
