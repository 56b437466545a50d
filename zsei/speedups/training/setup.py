"""A training step that can be made another way: a copy of the model, an optimizer, and a step.

Letters: n sample of a batch, k micro-batches that a step is cut into.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from zsei.errors import ObjectiveError
from zsei.speedups.runnable import Around
from zsei.speedups.workload import Workload
from zsei.subject.objective import Objective, loss, readout
from zsei.subject.program import MainOutput
from zsei.subject.types import Batch

Implementation = Literal["loop", "foreach", "fused"]
"""How an optimizer goes through the parameters: one by one in Python, several calls for lists of
them, or one kernel."""
OptimizerRecipe = Callable[[Sequence[nn.Parameter], Implementation], torch.optim.Optimizer]
LossFunction = Callable[[tuple[Tensor, ...], Tensor | None, Tensor | None], Tensor]
LEARNING_RATE = 1e-4


def adamw(learning_rate: float = LEARNING_RATE, weight_decay: float = 0.01) -> OptimizerRecipe:
    """The recipe of `torch.optim.AdamW`."""

    def make(
        parameters: Sequence[nn.Parameter], implementation: Implementation
    ) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            parameters, lr=learning_rate, weight_decay=weight_decay,
            foreach=implementation == "foreach", fused=implementation == "fused",
        )  # fmt: skip

    return make


class ModelLoss(nn.Module):
    """Model and objective in one: inputs, labels and mask of a batch to its mean loss."""

    def __init__(self, module: nn.Module, input_names: Sequence[str], objective: Objective):
        super().__init__()
        self.main = MainOutput(module, input_names)
        self.objective = objective

    def forward(
        self, inputs: tuple[Tensor, ...], labels: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Mean over samples n of the loss per sample, in float32 at least."""
        output = self.main(*inputs)
        if output.dtype in (torch.float16, torch.bfloat16):
            output = output.float()  # a loss of half precision numbers is mostly rounding
        batch = Batch(inputs=inputs, labels=labels, mask=mask)
        return loss(self.objective, readout(self.objective, output, batch), batch).mean()


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingSetup:
    """How a model is trained, with the speed-ups that were carried out on it so far.

    A whole step is `step(batch)`. A loop of one's own uses the parts: the loss of `loss_of(batch)`,
    or `with setup.forward_context(): setup.module(...)` where it computes another one;
    `setup.scaler` around `backward`, and `setup.update()`.
    """

    module: nn.Module
    """A copy of the model in train mode, its parameters under the model's own names; trained in
    place. The user's is never in it."""
    input_names: tuple[str, ...]
    objective: Objective
    device: torch.device
    recipe: OptimizerRecipe
    """Makes the optimizer of a list of parameters."""
    implementation: Implementation = "loop"
    around: tuple[Around, ...] = ()
    """Contexts entered, in order, around every forward pass: autocast, checkpointed blocks."""
    compiler: Callable[[nn.Module], LossFunction] | None = None
    """Compiles model and loss as one; None runs them as they are."""
    micro_batches: int = 1
    """Parts that each step's batch is cut into; their gradients are added up before the update."""
    scaled: bool = False
    """Whether the loss is scaled against the underflow of float16 gradients."""

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over all parameters that are trained; made when it is first asked for."""
        return self.recipe(self.parameters, self.implementation)

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        """Scales the loss; does nothing unless `scaled`."""
        return torch.amp.GradScaler(self.device.type, enabled=self.scaled)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]

    @cached_property
    def _loss(self) -> LossFunction:
        whole = ModelLoss(self.module, self.input_names, self.objective)
        return whole if self.compiler is None else self.compiler(whole)

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """All that holds around a forward pass."""
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            for enter in self.around:
                stack.enter_context(enter())
            yield

    def loss_of(self, batch: Batch) -> Tensor:
        """Mean loss of a batch, with its graph: a number []."""
        with self.forward_context():
            return self._loss(batch.inputs, batch.labels, batch.mask)

    @torch.enable_grad()
    def gradients(self, batch: Batch) -> Tensor:
        """Put the gradients of a batch's mean loss into the parameters; the loss [], without graph.

        Every micro-batch weighs as many samples as it holds, so that gradients are the whole
        batch's whether or not k divides n.
        """
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for part, share in self.parts(batch):
            value = self.loss_of(part) * share
            self.scaler.scale(value).backward()
            total = total + value.detach()
        if self.scaled:
            self.scaler.unscale_(self.optimizer)
        return total

    def update(self) -> None:
        """Change the parameters by the gradients they hold."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def step(self, batch: Batch) -> float:
        """One step of training on a batch, and its loss before it."""
        found = self.gradients(batch)
        self.update()
        return float(found)

    def standing_bytes(self) -> int:
        """Bytes that stay from step to step: parameters, buffers, the optimizer's state."""
        state = [
            value for held in self.optimizer.state.values() for value in held.values()
            if isinstance(value, Tensor)
        ]  # fmt: skip
        tensors = [*self.module.parameters(), *self.module.buffers(), *state]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def with_around(self, enter: Around) -> "TrainingSetup":
        """With one more context around the forward pass, inside the others."""
        return replace(self, around=(*self.around, enter))

    def parts(self, batch: Batch) -> Iterator[tuple[Batch, float]]:
        """The micro-batches of a step, each with its share of the samples."""
        if self.micro_batches == 1:
            yield batch, 1.0
            return
        stride = 2 if self.objective.name == "similarity" else 1  # rows 2i and 2i + 1 are a pair
        for part in cut_batch(batch, self.micro_batches, stride):
            yield part, part.size / batch.size


def cut_batch(batch: Batch, parts: int, stride: int = 1) -> Iterator[Batch]:
    """A batch in parts whose sizes differ by one at most; fewer where it has fewer samples.

    Args:
        batch: n samples.
        parts: How many.
        stride: Rows of one independent sample, never separated.
    """
    units = batch.size // stride
    edges = [units * i // parts * stride for i in range(parts + 1)]
    for first, end in pairwise(edges):
        if first == end:
            continue
        rows = slice(first, end)
        yield Batch(
            inputs=tuple(tensor[rows] for tensor in batch.inputs),
            labels=None if batch.labels is None else batch.labels[rows],
            mask=None if batch.mask is None else batch.mask[rows],
            groups=batch.groups[rows],
        )


def bare_training(
    workload: Workload, recipe: OptimizerRecipe | None = None, *, model: nn.Module | None = None
) -> TrainingSetup:
    """Training as it is without any speed-up: eager, float32, the optimizer in a Python loop.

    Args:
        workload: Objective, device, and the model unless another is given.
        recipe: Makes the optimizer; None takes `adamw()`.
        model: A model of the same class and inputs whose weights are copied; those of its
            parameters that are not trained stay so. None copies the workload's and trains all.

    Raises:
        ObjectiveError: The objective has no labels, hence no loss to train by.
    """
    objective = workload.objective
    batches = (*workload.calibration, *workload.held_out)
    if not objective.supervised or any(batch.labels is None for batch in batches):
        raise ObjectiveError(
            f"Training needs labels; the objective is {objective.name}, which has none. Give data "
            f"with labels and choose an objective that compares with them, such as --objective "
            f"classification, regression, similarity, causal-lm or masked-lm."
        )
    source = workload.model if model is None else model
    module = copy.deepcopy(source).to(workload.device.torch).train()
    for old, parameter in zip(source.parameters(), module.parameters(), strict=True):
        trained = model is None or old.requires_grad
        parameter.requires_grad_(trained and parameter.is_floating_point())
    return TrainingSetup(
        module=module, input_names=workload.input_names, objective=objective,
        device=workload.device.torch, recipe=recipe or adamw(),
    )  # fmt: skip


def batch_norms(module: nn.Module) -> list[BatchNorm]:
    """The batch norms in a module: they mix the samples of a batch in train mode."""
    return [found for found in module.modules() if isinstance(found, BatchNorm)]


def without_dropout(setup: TrainingSetup) -> TrainingSetup:
    """The same setup with no dropout: all but batch norms and recurrent layers in eval mode.

    Micro-batches, kernels of another precision and compilers draw other random numbers, so that
    steps can only be compared without any.
    """
    setup.module.eval()
    for module in setup.module.modules():
        if isinstance(module, nn.RNNBase):
            module.dropout = 0.0
            module.train()  # cuDNN has no backward pass of recurrent layers in eval mode
    for norm in batch_norms(setup.module):
        norm.train()
    return setup
