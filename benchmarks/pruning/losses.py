"""Losses whose gradients Torch-Pruning's scores are made of; it brings none of its own."""

from collections.abc import Callable, Iterator
from itertools import islice

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pruning.parts import Inputs, Part

Loss = Callable[[Tensor, Tensor | None], Tensor]
"""Outputs and labels of one batch to one loss per sample [n]."""
HESSIAN_SAMPLES = 128
"""Samples for which a gradient of their own is taken."""


def contrastive(found: Tensor, labels: Tensor | None) -> Tensor:
    """How well each sentence of the first half finds its partner in the second, at 0.05."""
    del labels
    first, second = found.chunk(2)
    scores = first @ second.T / 0.05
    return F.cross_entropy(scores, torch.arange(len(scores)), reduction="none")


def total(found: Tensor, labels: Tensor | None) -> Tensor:
    """The sum of the outputs, as Torch-Pruning's examples have it."""
    del labels
    return found.flatten(1).sum(1)


def projection(found: Tensor, labels: Tensor | None) -> Tensor:
    """The outputs along a direction drawn for each: its gradients are those of Gauss and Newton."""
    del labels
    return (found * torch.randn_like(found)).flatten(1).sum(1)


def gold(found: Tensor, labels: Tensor | None) -> Tensor:
    """Cross-entropy of the labels; of the next token where the labels are tokens."""
    assert labels is not None
    if labels.dim() == 1:
        return F.cross_entropy(found, labels, reduction="none")
    each = F.cross_entropy(found[:, :-1].transpose(1, 2), labels[:, 1:], reduction="none")
    return each.mean(1)


LOSSES: dict[str, Loss] = {
    "contrastive": contrastive, "sum": total, "projection": projection, "labels": gold
}  # fmt: skip


def mean_gradient(part: Part, loss: Loss) -> dict[str, Tensor]:
    """Gradient of the mean loss over the calibration data, by parameter."""

    def step(inputs: Inputs, labels: Tensor | None) -> None:
        loss(part.forward(part.model, inputs), labels).mean().backward()

    return _collected(part, lambda: [step(*batch) for batch in _batches(part)])


def mean_square_gradient(part: Part, loss: Loss) -> dict[str, Tensor]:
    """Mean over samples of the square of each one's gradient, by parameter.

    A loss that compares the samples of a batch needs a backward of the whole batch for each, so
    only the first batch is used; of others the first `HESSIAN_SAMPLES` samples, one at a time.
    """
    squares = {name: torch.zeros_like(p) for name, p in part.model.named_parameters()}
    seen = 0
    for one in _samples(part, loss):
        part.model.zero_grad()
        one.backward(retain_graph=loss is contrastive)
        seen += 1
        for name, parameter in part.model.named_parameters():
            if parameter.grad is not None:
                squares[name] += parameter.grad.square()
    part.model.zero_grad()
    return {name: square / seen for name, square in squares.items()}


def _samples(part: Part, loss: Loss) -> Iterator[Tensor]:
    """Losses of single samples."""
    if loss is contrastive:
        yield from loss(part.forward(part.model, part.calibration[0]), None)
        return
    rows = (
        ({name: values[row : row + 1] for name, values in inputs.items()}, labels, row)
        for inputs, labels in _batches(part)
        for row in range(len(next(iter(inputs.values()))))
    )
    for inputs, labels, row in islice(rows, HESSIAN_SAMPLES):
        own = None if labels is None else labels[row : row + 1]
        yield loss(part.forward(part.model, inputs), own)[0]


def _collected(part: Part, run: Callable[[], object]) -> dict[str, Tensor]:
    part.model.zero_grad()
    run()
    # Parameters no output depends on (MiniLM's pooler) have none.
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in part.model.named_parameters()
    }
    part.model.zero_grad()
    return found


def _batches(part: Part) -> list[tuple[Inputs, Tensor | None]]:
    labels = part.labels or (None,) * len(part.calibration)
    return list(zip(part.calibration, labels, strict=True))


def zero_gradient(model: nn.Module) -> dict[str, Tensor]:
    """For scores that need none."""
    return {name: torch.zeros_like(p) for name, p in model.named_parameters()}
