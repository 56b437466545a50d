"""What a cut saves: operations counted, latency in interleaved pairs on one thread."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.pruning.parts import Inputs, Part
from zsei.gate.latency import measure_latency

LENGTH, BATCH = 64, 32
"""Tokens and sentences, or images, of the batch that is timed."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A cut model beside the original on one batch."""

    flops: float
    """Share of the original's multiplications and additions."""
    latency: float
    """Share of the original's time: the median of the pairs."""
    latency_low: float
    latency_high: float
    """90 % interval."""

    @property
    def realised(self) -> float:
        """Share of the operations removed that shows as time; 1 where all of it does."""
        return (1 - self.latency) / (1 - self.flops) if self.flops < 1 else 0.0


def cost(part: Part, model: nn.Module, pairs: int = 9) -> Cost:
    """Operations and latency of a cut model as shares of the original's.

    Misleads when: other work runs on the machine; the pairs even out slow drift only.
    """
    inputs = batch_of(part)
    names = tuple(inputs)
    latency, low, high = measure_latency(
        _run(part, part.model, names), _run(part, model, names), tuple(inputs.values()), pairs=pairs
    )
    return Cost(
        flops=operations(part, model, inputs) / operations(part, part.model, inputs),
        latency=latency, latency_low=low, latency_high=high,
    )  # fmt: skip


def batch_of(part: Part) -> Inputs:
    """One batch of 32; token ids repeated or cut to 64 tokens, without padding."""
    found = {}
    for name, values in part.calibration[0].items():
        rows = values[:BATCH]
        if not rows.is_floating_point():
            full = "mask" in name
            rows = rows.repeat(1, -(-LENGTH // rows.shape[1]))[:, :LENGTH]
            rows = torch.ones_like(rows) if full else rows
        found[name] = rows
    return found


def operations(part: Part, model: nn.Module, inputs: Inputs) -> int:
    """Multiplications and additions of matrix products and convolutions of one batch."""
    # Only the plain form of attention is seen by the counter.
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        part.forward(model, inputs)
    return counter.get_total_flops()


def _run(part: Part, model: nn.Module, names: tuple[str, ...]) -> Callable[..., Tensor]:
    return lambda *values: part.forward(model, dict(zip(names, values, strict=True)))
