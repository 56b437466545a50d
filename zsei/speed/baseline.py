"""The baseline of all speed-ups, measured once: its answers and its peak memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zsei.gate.quality import Reference, measure_reference
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.workload import Workload
from zsei.subject.types import Batch
from zsei.timing.peak import Peak, peak_memory
from zsei.timing.threads import torch_threads

BASELINE = "baseline"
"""Name of its side in a race."""
_KEPT_BYTES = 1 << 27
"""Outputs beyond this many bytes are computed again rather than kept."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """The workload as it is, with what every speed-up is compared with."""

    runnable: Runnable
    batches: tuple[Batch, ...]
    """The held-out batches on the CPU, where answers are compared."""
    reference: Reference
    """Its answers there, for the gate."""
    kept: tuple[Tensor | None, ...]
    """Main output of each batch, on the CPU; None where it was too large to keep."""
    peak: Peak | None
    """Of one batch, the largest; None where it could not be told."""

    def output(self, index: int, workload: Workload) -> Tensor:
        """The main output for batch `index`, on the CPU."""
        kept = self.kept[index]
        return main_output(self.runnable, workload, index) if kept is None else kept


def measure_baseline(workload: Workload) -> Baseline:
    """Run the baseline over the held-out batches.

    Raises:
        DataError: There is no held-out batch.
        ModelError: Its own output is not finite.
    """
    runnable = bare(workload.model, workload.input_names)
    batches = tuple(_on_cpu(batch) for batch in workload.held_out)
    place = {id(batch): index for index, batch in enumerate(batches)}
    kept: list[Tensor | None] = []
    used = 0

    def run(batch: Batch) -> Tensor:
        nonlocal used
        output = main_output(runnable, workload, place[id(batch)])
        if len(kept) < len(batches):
            used += output.numel() * output.element_size()
            kept.append(output if used <= _KEPT_BYTES else None)
        return counted(output, batch, workload)

    with one_by_one():
        reference = measure_reference(run, workload.subject, batches)
    return Baseline(
        runnable=runnable, batches=batches, reference=reference, kept=tuple(kept),
        peak=peak_of(runnable, workload),
    )  # fmt: skip


@contextmanager
def one_by_one() -> Iterator[None]:
    """With one torch thread the gate runs batch after batch, as contexts of the process demand.

    Each run then sets the workload's own number of threads for itself.
    """
    with torch_threads(1):
        yield


def main_output(runnable: Runnable, workload: Workload, index: int) -> Tensor:
    """The main output for a held-out batch, as float numbers on the CPU."""
    with torch.no_grad(), torch_threads(workload.threads):
        output = runnable(workload.held_out[index].inputs)
        return output.detach().to("cpu", torch.float32, copy=True)


def counted(output: Tensor, batch: Batch, workload: Workload) -> Tensor:
    """The output as the objective may see it: plain values hold nothing at padding.

    Logits and embeddings leave padding out themselves (`zsei.subject.objective`).
    """
    mask = batch.mask
    if workload.objective.output != "values" or mask is None:
        return output
    if output.ndim < 3 or mask.shape != output.shape[:2]:
        return output
    return output.masked_fill(~mask[(...,) + (None,) * (output.ndim - 2)], 0)


def peak_of(runnable: Runnable, workload: Workload) -> Peak | None:
    """Peak memory of the largest held-out batch, from the second call on; None where it fails, or
    where torch allocated nothing, so that another runtime holds the memory.
    """
    batch = max(workload.held_out, key=lambda b: sum(t.numel() for t in b.inputs))
    try:
        with torch.no_grad(), torch_threads(workload.threads):
            runnable(batch.inputs)
            found = peak_memory(lambda: runnable(batch.inputs), workload.device)
            return found if found.bytes else None
    except Exception:
        return None  # a backend that the profiler cannot follow: told as "could not tell"


def _on_cpu(batch: Batch) -> Batch:
    def moved(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.cpu()

    return replace(
        batch,
        inputs=tuple(tensor.cpu() for tensor in batch.inputs),
        labels=moved(batch.labels),
        mask=moved(batch.mask),
    )
