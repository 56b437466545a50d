"""The same model at half the input length: an edit must hold there too.

Only for models of tokens, whose length is a free choice; the program is exported again for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zsei.errors import ExportError, ModelError
from zsei.gate.quality import Reference, measure_reference
from zsei.subject.anatomy import read_anatomy
from zsei.subject.program import Program, export, frozen_twin
from zsei.subject.types import Anatomy, Batch, Subject

_LEAST = 4
"""Tokens that half a length must have to be worth a look."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shorter:
    """The original at half length, measured once for all proposals."""

    length: int
    program: Program
    anatomy: Anatomy
    batches: tuple[Batch, ...]
    reference: Reference


def measure_shorter(subject: Subject) -> tuple[Shorter | None, str]:
    """The original at half length with its readouts; or None and why that cannot be had."""
    first = subject.held_out[0]
    if not all(_is_tokens(tensor) for tensor in first.inputs):
        return None, "inputs are not tokens"
    length = first.inputs[0].shape[1] // 2
    if length < _LEAST:
        return None, f"half the length is {length} tokens"
    batches = _halved(subject.held_out)
    try:
        twin = frozen_twin(subject.model)
        program = export(twin, subject.input_names, batches[0].inputs)
        reference = measure_reference(lambda b: program(*b.inputs), subject, batches)
    except (ExportError, ModelError) as error:
        return None, f"the original does not run at {length} tokens: {error}"
    found = Shorter(
        length=length,
        program=program,
        anatomy=read_anatomy(program),
        batches=batches,
        reference=reference,
    )
    return found, f"{length} tokens"


def _is_tokens(tensor: Tensor) -> bool:
    """Whole numbers or marks of shape [n, t]."""
    return tensor.ndim == 2 and not tensor.is_floating_point() and not tensor.is_complex()


def _halved(batches: Sequence[Batch]) -> tuple[Batch, ...]:
    # Padding on the left would leave nothing but padding in the first half.
    left_padded = any(b.mask is not None and not bool(b.mask[:, 0].all()) for b in batches)

    def half(tensor: Tensor) -> Tensor:
        middle = tensor.shape[1] // 2
        return tensor[:, -middle:].clone() if left_padded else tensor[:, :middle].clone()

    def halved(batch: Batch) -> Batch:
        long = batch.inputs[0].shape[1]
        labels = batch.labels
        per_token = labels is not None and labels.ndim == 2 and labels.shape[1] == long
        return replace(
            batch,
            inputs=tuple(half(tensor) for tensor in batch.inputs),
            labels=half(labels) if per_token and isinstance(labels, torch.Tensor) else labels,
            mask=None if batch.mask is None else half(batch.mask),
        )

    return tuple(halved(batch) for batch in batches)
