"""A few small samples on which a speed-up is tried before it is offered or carried out."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.speedup import EXACT
from zsei.speedups.workload import Workload

Inputs = tuple[Tensor, ...]
LEEWAY = 4.0
"""How many times the difference that earlier steps made a later one may add."""


def mask_name(workload: Workload) -> str | None:
    """The input that says which tokens are real: `attention_mask`, or one that equals the batches'
    mask; None when there is none.
    """
    batches = (*workload.calibration, *workload.held_out)
    if any(batch.mask is None for batch in batches):
        return None
    for name in sorted(workload.input_names, key=lambda name: name != "attention_mask"):
        place = workload.input_names.index(name)
        given = [(batch.inputs[place], batch.mask) for batch in batches]
        if name == "attention_mask" and all(tensor.ndim == 2 for tensor, _ in given):
            return name
        if all(_is_mask(tensor, mask) for tensor, mask in given):
            return name
    return None


def _is_mask(given: Tensor, mask: Tensor | None) -> bool:
    # Token ids are 0 at padding too, but not 1 everywhere else.
    return mask is not None and given.shape == mask.shape and bool((given == mask).all())


def token_names(workload: Workload, mask: str) -> tuple[str, ...]:
    """The inputs with one value per position of the mask, the mask among them."""
    place = workload.input_names.index(mask)
    batches = (*workload.calibration, *workload.held_out)

    def follows(number: int) -> bool:
        return all(b.inputs[number].shape[:2] == b.inputs[place].shape for b in batches)

    return tuple(
        name
        for number, name in enumerate(workload.input_names)
        if name == mask or (not name.startswith("decoder_") and follows(number))
    )


def probe(workload: Workload) -> Inputs:
    """Three samples made of the longest real one: whole, its first half, its second half, both
    halves padded on the right. Two samples as they are where no input says what is real.
    """
    batch = workload.calibration[0]
    mask = mask_name(workload)
    if mask is None:
        return tuple(tensor[:2] for tensor in batch.inputs)
    tokens = token_names(workload, mask)
    real = batch.inputs[workload.input_names.index(mask)] != 0
    longest = int(real.sum(1).argmax())
    columns = real[longest].nonzero().flatten()
    half = len(columns) // 2

    def made(name: str, tensor: Tensor) -> Tensor:
        if name not in tokens:
            return tensor[[longest] * 3]
        whole = tensor[longest, columns]
        parts = torch.stack([whole, whole, whole.roll(-half, 0)])
        if name == mask:
            parts[1, half:] = 0
            parts[2, len(columns) - half :] = 0
        return parts

    return tuple(
        made(name, tensor)
        for name, tensor in zip(workload.input_names, batch.inputs, strict=True)
    )  # fmt: skip


def padded_left(inputs: Sequence[Tensor], names: Sequence[str], workload: Workload) -> Inputs:
    """Right-padded samples padded on the left instead.

    Args:
        inputs: One tensor per input of the workload.
        names: The inputs that have one value per position; the first of them is the mask.
        workload: Names the inputs.
    """
    mask = inputs[workload.input_names.index(names[0])]
    empty = (mask == 0).sum(1).tolist()
    return tuple(
        torch.stack([row.roll(by, 0) for row, by in zip(tensor, empty, strict=True)])
        if name in names else tensor
        for name, tensor in zip(workload.input_names, inputs, strict=True)
    )  # fmt: skip


def moved(before: Tensor, after: Tensor, real: Tensor | None = None) -> float:
    """Largest difference relative to the largest output (at least 1); infinite for another shape.

    Args:
        before: Expected output.
        after: What came.
        real: Bool [n, t]: the positions that count; None counts all.
    """
    if before.shape != after.shape:
        return float("inf")
    if real is not None:
        before, after = before[real], after[real]
    largest = float((after.double() - before.double()).abs().max())
    scale = max(1.0, float(before.double().abs().max()))
    return largest / scale if largest == largest else float("inf")


def tolerance(
    runnable: Runnable, workload: Workload, inputs: Inputs, real: Tensor | None = None
) -> float:
    """How far a rearrangement of batches may move outputs: `EXACT`, and `LEEWAY` times what the
    steps before it moved them by (lower precision rounds another batch in another way).

    Args:
        runnable: The steps so far.
        workload: Holds the baseline.
        inputs: What both are run on.
        real: Bool [n, t]: the positions that count; None counts all.
    """
    baseline = bare(workload.model, workload.input_names)(inputs)
    earlier = moved(baseline, runnable(inputs), real)
    return EXACT if earlier <= EXACT else EXACT + LEEWAY * earlier
