"""Leaves out samples on which a model is undefined, so that they do not poison what is measured."""

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from zsei.subject.types import Batch


def finite_samples(value: Tensor, samples: int) -> Tensor:
    """Which samples of a value hold neither NaN nor infinity: bool [n].

    Values that fold something into the first axis do so sample-major, some have positions first
    ([t, n, c]); one that no sample owns (position embeddings) is every sample's.

    Args:
        value: Any value of a run; axis 0 is the sample, or a multiple of it.
        samples: How many samples n the batch has.
    """
    if value.ndim > 2 and value.shape[0] % samples and value.shape[1] == samples:
        value = value.transpose(0, 1)
    if value.ndim == 0 or value.shape[0] == 0 or value.shape[0] % samples:
        return value.isfinite().all().expand(samples)
    return value.isfinite().reshape(samples, -1).all(1)


def whole(keep: Tensor, step: int) -> Tensor:
    """`keep` [n] with every group of `step` rows kept or left out as one (pairs of texts)."""
    return keep.view(-1, step).all(1).repeat_interleave(step) if step > 1 else keep


def regrouped(batches: Sequence[Batch], keep: Tensor, size: int) -> tuple[Batch, ...]:
    """The samples that are kept, in order, as batches of `size`; what does not fill one is dropped.

    Programs run batches of one fixed size. Where fewer samples than that are left, they are
    repeated until one batch is full: numbers stay those of these samples, only their n is too high.

    Args:
        batches: Any batches of one model.
        keep: Bool over the samples of all batches, in order.
        size: Samples per batch.
    """
    chosen = keep.nonzero().flatten()
    if not len(chosen):
        return ()
    if len(chosen) < size:
        chosen = chosen.repeat(-(-size // len(chosen)))[:size]
    return tuple(
        taken(batches, chosen[start : start + size])
        for start in range(0, len(chosen) - size + 1, size)
    )


def without(batches: Sequence[Batch], left_out: Collection[int], step: int) -> tuple[Batch, ...]:
    """Batches of the same size without some samples, by their number over all batches.

    Args:
        batches: What the numbers count through.
        left_out: Numbers of the samples to leave out.
        step: Rows that belong together; all go when one goes.
    """
    if not left_out:
        return tuple(batches)
    keep = torch.ones(sum(batch.size for batch in batches), dtype=torch.bool)
    keep[sorted(left_out)] = False
    return regrouped(batches, whole(keep, step), batches[0].size)


def taken(batches: Sequence[Batch], chosen: Tensor) -> Batch:
    """The samples with these numbers, in this order, as one batch."""
    first = batches[0]
    inputs = zip(*(batch.inputs for batch in batches), strict=True)
    groups = [group for batch in batches for group in batch.groups]
    return Batch(
        inputs=tuple(torch.cat(parts)[chosen] for parts in inputs),
        labels=None if first.labels is None else _rows([b.labels for b in batches], chosen),
        mask=None if first.mask is None else _rows([b.mask for b in batches], chosen),
        groups=tuple(groups[i] for i in chosen.tolist()) if groups else (),
    )


def _rows(parts: Sequence[Tensor | None], chosen: Tensor) -> Tensor:
    return torch.cat([part for part in parts if part is not None])[chosen]
