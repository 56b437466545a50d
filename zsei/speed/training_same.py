"""Whether two ways to train make the same steps, and what each has learnt after some.

Letters: θ parameters, g their gradients, b baseline, s the other side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.gate.quality import Quality, Reference, RunBatch, measure_quality, measure_reference
from zsei.speed.baseline import counted, one_by_one
from zsei.speedups.training.setup import TrainingSetup
from zsei.speedups.workload import Workload
from zsei.subject.program import MainOutput
from zsei.subject.types import Batch
from zsei.timing.threads import torch_threads

STEPS = 5
_LEAST_LOSS = 1e-6
"""A loss below this counts as this, as in the gate."""


@dataclass(frozen=True, kw_only=True)
class Sameness:
    """Largest differences of single steps made from the same state on the same batch."""

    loss: float
    """|L_s - L_b| / |L_b|."""
    gradient: float
    """max |g_s - g_b| / max |g_b|, both over all parameters."""
    update: float
    """From the baseline's gradients: max (|θ_s - θ_b| - 2 ε |θ_b|) / max |Δθ_b|, ε the spacing of
    the parameters' own type at 1: what storing θ rounds off is no difference of the update."""
    buffer: float
    """max |c_s - c_b| / max(1, |c_b|) over buffers c: running statistics."""

    @property
    def largest(self) -> float:
        """The largest of them."""
        return max(self.loss, self.gradient, self.update, self.buffer)


def sameness(
    workload: Workload,
    baseline: TrainingSetup,
    side: TrainingSetup,
    *,
    count: int = STEPS,
    seed: int = 0,
) -> Sameness:
    """Make steps with two fresh setups, each from the same state, and compare them one by one.

    After each step the side gets the baseline's parameters, and before each update its gradients.
    Otherwise roundings would be taken for differences: Adam divides a gradient by its own size, so
    that one that is nothing but rounding (that of a key's bias is) becomes a full step either way.
    The optimizer's state is the side's own and sees all updates.

    Args:
        workload: Whose calibration batches are trained on, in turn.
        baseline: Made without dropout (`without_dropout`), from the same weights.
        side: Likewise.
        count: Steps.
        seed: Of the random numbers of each step, for a model that draws some without dropout.

    Returns:
        The largest difference over the steps; infinite where one is no number.
    """
    batches = workload.calibration
    found = {"loss": 0.0, "gradient": 0.0, "update": 0.0, "buffer": 0.0}
    with torch_threads(workload.threads):
        for number in range(count):
            batch = batches[number % len(batches)]
            losses = [_seeded_gradients(setup, batch, seed + number) for setup in (baseline, side)]
            before = [parameter.detach().clone() for parameter in baseline.parameters]
            once = {
                "loss": abs(losses[1] - losses[0]) / max(abs(losses[0]), _LEAST_LOSS),
                "gradient": _gradient_difference(baseline, side),
            }
            _hand_over_gradients(baseline, side)
            baseline.update()
            side.update()
            once["update"] = _update_difference(before, baseline, side)
            once["buffer"] = _buffer_difference(baseline, side)
            with torch.no_grad():
                for theirs, ours in zip(side.parameters, baseline.parameters, strict=True):
                    theirs.copy_(ours)
            found = {name: _worse(found[name], value) for name, value in once.items()}
    return Sameness(**found)


def _worse(first: float, second: float) -> float:
    both = max(first, second)
    return math.inf if math.isnan(first + second) else both


def _seeded_gradients(setup: TrainingSetup, batch: Batch, seed: int) -> float:
    torch.manual_seed(seed)
    return float(setup.gradients(batch))


def _gradient_difference(baseline: TrainingSetup, side: TrainingSetup) -> float:
    moved, scale = 0.0, 0.0
    for ours, theirs in zip(baseline.parameters, side.parameters, strict=True):
        b, s = (torch.zeros_like(p) if p.grad is None else p.grad for p in (ours, theirs))
        moved = _worse(moved, _largest(s - b))
        scale = _worse(scale, _largest(b))
    return moved / scale if scale else (0.0 if moved == 0 else math.inf)


def _hand_over_gradients(baseline: TrainingSetup, side: TrainingSetup) -> None:
    for ours, theirs in zip(baseline.parameters, side.parameters, strict=True):
        theirs.grad = None if ours.grad is None else ours.grad.detach().clone()


@torch.no_grad()
def _update_difference(
    before: Sequence[Tensor], baseline: TrainingSetup, side: TrainingSetup
) -> float:
    beyond, scale = 0.0, 0.0
    pairs = zip(before, baseline.parameters, side.parameters, strict=True)
    for old, ours, theirs in pairs:
        rounding = 2 * torch.finfo(ours.dtype).eps * ours.abs()
        beyond = _worse(beyond, _largest(((theirs - ours).abs() - rounding).clamp_min(0)))
        scale = _worse(scale, _largest(ours - old))
    return beyond / scale if scale else (0.0 if beyond == 0 else math.inf)


def _buffer_difference(baseline: TrainingSetup, side: TrainingSetup) -> float:
    found = 0.0
    pairs = zip(baseline.module.buffers(), side.module.buffers(), strict=True)
    for ours, theirs in pairs:
        if ours.numel():
            scale = max(1.0, _largest(ours))
            found = _worse(found, _largest(theirs.double() - ours.double()) / scale)
    return found


def _largest(values: Tensor) -> float:
    return float(values.detach().double().abs().max()) if values.numel() else 0.0


def train(
    workload: Workload, setup: TrainingSetup, *, count: int = STEPS, seed: int = 0
) -> tuple[float, ...]:
    """Train a setup for some steps on the calibration batches in turn: the loss of each step."""
    batches = workload.calibration
    losses = []
    with torch_threads(workload.threads):
        for number in range(count):
            torch.manual_seed(seed + number)
            losses.append(setup.step(batches[number % len(batches)]))
    return tuple(losses)


def learnt(workload: Workload, setup: TrainingSetup) -> Reference:
    """What a trained model answers on the held-out batches, for others to be compared with.

    Raises:
        ModelError: Its output is not finite.
    """
    with one_by_one():
        batches = workload.subject.held_out
        return measure_reference(_answers(workload, setup), workload.subject, batches)


def learnt_beside(workload: Workload, setup: TrainingSetup, reference: Reference) -> Quality:
    """What a trained model answers on the held-out batches, beside another trained one.

    Both run as they are, in float32: what is compared is the weights.
    """
    with one_by_one():
        batches = workload.subject.held_out
        run = _answers(workload, setup)
        return measure_quality(run, workload.subject, batches, reference)


def _answers(workload: Workload, setup: TrainingSetup) -> RunBatch:
    model = MainOutput(setup.module, setup.input_names).eval()
    device = workload.device.torch

    def run(batch: Batch) -> Tensor:
        with torch.no_grad(), torch_threads(workload.threads):
            output = model(*(tensor.to(device) for tensor in batch.inputs))
            return counted(output.detach().to("cpu", torch.float32), batch, workload)

    return run


def stays_finite(setup: TrainingSetup, losses: Sequence[float]) -> bool:
    """Whether losses and trained parameters are numbers."""
    weights = all(bool(parameter.isfinite().all()) for parameter in setup.parameters)
    return weights and all(math.isfinite(value) for value in losses)
