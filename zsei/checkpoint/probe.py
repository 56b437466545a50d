"""One batch through a model, forward and backward, timed: what the estimate of a run rests on."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsei.checkpoint.job import Job
from zsei.subject.data import load_data
from zsei.subject.load import load_model
from zsei.subject.program import MainOutput, frozen_twin
from zsei.subject.seeded import seeded
from zsei.subject.types import Batch


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What one batch took."""

    parameters: int
    parameter_bytes: int
    """Of parameters and buffers, shared ones once."""
    activation_bytes: int
    """What autograd keeps of a batch for the backward run and what comes out; shared storage once,
    weights not."""
    forward_seconds: float
    """On processors that have nothing else to do."""
    backward_seconds: float
    """The same, in values alone and not in weights."""
    batches: int = 1
    """Batches of the calibration data."""


def probe_job(job: Job) -> Probe:
    """Probe a job's model on the first batch of its data. Nothing is exported or analysed.

    Raises:
        ModelError: Nothing loadable, or a forward that fails on the data.
        DataError: Data that is missing, too small or does not fit.
    """
    loaded = load_model(job.model, job.settings)  # type: ignore[arg-type]
    data = loaded.data if job.data is None else job.data
    with seeded(job.settings.model_copy(update={"threads": job.threads})):
        samples = load_data(data, loaded, job.settings)
        batches = samples.calibration
        return probe(loaded.model, samples.input_names, batches[0], batches=len(batches))


def probe(model: nn.Module, input_names: Sequence[str], batch: Batch, *, batches: int = 1) -> Probe:
    """Run one batch forward and backward, twice, and time the second, in processor seconds.

    What runs is a twin in eval mode that shares the model's weights, so nothing of the model
    changes; what is differentiated is the sum of its main output. It misleads where the processors
    have less time for the analysis than they had now.

    Args:
        model: The model.
        input_names: Names of forward's arguments, in the order of the batch's inputs.
        batch: The batch.
        batches: How many such there are.
    """
    twin = frozen_twin(model)
    tensors = {t.untyped_storage().data_ptr(): t for t in (*twin.parameters(), *twin.buffers())}
    floating = [p for p in twin.parameters() if p.is_floating_point()]
    call = MainOutput(twin, input_names)
    # The analysis differentiates in values, not in weights: a tape from the first weight on holds
    # the same. Where the first is not used, all of them are taken.
    _pass(call, batch, floating[:1], set(tensors))  # the first run pages in weights
    found = _pass(call, batch, floating[:1], set(tensors))
    if not found.backward:
        found = _pass(call, batch, floating, set(tensors))
    return Probe(
        parameters=sum(p.numel() for p in twin.parameters()),
        parameter_bytes=sum(t.untyped_storage().nbytes() for t in tensors.values()),
        activation_bytes=found.kept,
        forward_seconds=found.forward,
        backward_seconds=found.backward,
        batches=batches,
    )


@dataclass(frozen=True, kw_only=True)
class _Pass:
    kept: int
    forward: float
    backward: float


def _pass(call: MainOutput, batch: Batch, weights: Sequence[Tensor], leave: set[int]) -> _Pass:
    for weight in weights:
        weight.requires_grad_()
    kept: dict[int, int] = {}
    begin = _clock()
    with torch.enable_grad(), _counting(kept, leave):
        output = call(*batch.inputs)
    forward = _clock() - begin
    kept[output.untyped_storage().data_ptr()] = output.untyped_storage().nbytes()
    if not output.requires_grad:
        return _Pass(kept=sum(kept.values()), forward=forward, backward=0.0)
    begin = _clock()
    torch.autograd.grad(output.sum(), weights, allow_unused=True)
    return _Pass(kept=sum(kept.values()), forward=forward, backward=_clock() - begin)


def _clock() -> float:
    """Processor seconds per thread: what else runs on the machine now says nothing of later."""
    return time.process_time() / torch.get_num_threads()


def _counting(kept: dict[int, int], leave: set[int]) -> torch.autograd.graph.saved_tensors_hooks:
    """Writes down the bytes of each storage that autograd keeps, but for some."""

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in leave:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
