"""Makes a workload of a subject: the baseline model and its batches, on a device."""

from dataclasses import replace

import torch
from torch import nn

from zsei.errors import DeviceError
from zsei.speedups.workload import Workload
from zsei.subject.program import frozen_twin
from zsei.subject.types import Batch, Subject
from zsei.timing.device import Device


def workload_of(subject: Subject, device: Device, threads: int | None = None) -> Workload:
    """The subject as it is timed: eager attention, float32, batches cut to their longest sample.

    Args:
        subject: Model, data, objective.
        device: Where it runs.
        threads: Torch threads of the baseline; None leaves torch's present number.

    Raises:
        DeviceError: The model does not fit on the device.
    """
    try:
        model = _eager(subject.model).to(device.torch)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"The model must fit on the device; {device.name} has too little memory for it. Use "
            f"--device cpu."
        ) from error
    return Workload(
        model=model,
        input_names=subject.input_names,
        calibration=tuple(_on(trimmed(batch), device) for batch in subject.calibration),
        held_out=tuple(_on(trimmed(batch), device) for batch in subject.held_out),
        objective=subject.objective,
        device=device,
        subject=subject,
        threads=threads or torch.get_num_threads(),
    )


def _eager(model: nn.Module) -> nn.Module:
    """A twin with eager attention; the same model where its class lets nobody choose."""
    twin = frozen_twin(model)
    choose = getattr(twin, "set_attn_implementation", None)
    if callable(choose):
        choose("eager")
    return twin


def trimmed(batch: Batch) -> Batch:
    """The batch without the positions that no sample uses: padded to its own longest sample."""
    if batch.mask is None:
        return batch
    used = batch.mask.any(0).nonzero().flatten()
    if not len(used):
        return batch
    first, end, length = int(used[0]), int(used[-1]) + 1, batch.mask.shape[1]
    if first == 0 and end == length:
        return batch

    def cut(tensor: torch.Tensor) -> torch.Tensor:
        long = tensor.ndim >= 2 and tensor.shape[1] == length
        return tensor[:, first:end].contiguous() if long else tensor

    labels = batch.labels
    return replace(
        batch,
        inputs=tuple(cut(tensor) for tensor in batch.inputs),
        labels=None if labels is None else cut(labels),
        mask=batch.mask[:, first:end].contiguous(),
    )


def _on(batch: Batch, device: Device) -> Batch:
    def moved(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.to(device.torch)

    return replace(
        batch,
        inputs=tuple(tensor.to(device.torch) for tensor in batch.inputs),
        labels=moved(batch.labels),
        mask=moved(batch.mask),
    )
