"""What is run for a timing: a model, real batches, an objective, a device."""

from dataclasses import dataclass

from torch import nn

from zsei.subject.objective import Objective
from zsei.subject.types import Batch, Subject
from zsei.timing.device import Device


@dataclass(frozen=True, kw_only=True, eq=False)
class Workload:
    """A model and the batches it is timed and judged on."""

    model: nn.Module
    """In eval mode and float32, on the device, with eager attention where its class lets one
    choose: the baseline. Never changed; a speed-up works on a twin."""
    input_names: tuple[str, ...]
    calibration: tuple[Batch, ...]
    """On the device. What a speed-up may fit to: ranges of values, sensitivities, buckets."""
    held_out: tuple[Batch, ...]
    """On the device. What it is timed and judged on: real samples, each batch padded to its own
    longest sample."""
    objective: Objective
    device: Device
    subject: Subject
    """On the CPU: program, anatomy, source. Batches there are padded to one common length."""
    threads: int
    """Torch threads of the baseline."""
