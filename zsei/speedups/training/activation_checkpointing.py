"""Blocks whose inner values are not kept for the backward pass but computed again there."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, final

from pydantic import Field
from torch import nn
from torch.utils.checkpoint import checkpoint

from zsei.errors import SpeedUpRefused
from zsei.speedups.speedup import Params
from zsei.speedups.training.protocol import Gain
from zsei.speedups.training.setup import BatchNorm, TrainingSetup, batch_norms
from zsei.speedups.workload import Workload


class CheckpointingParams(Params):
    """Which blocks."""

    every: int = Field(default=1, ge=1)
    """1: every block; 2: every second one, which saves and costs half."""


@final
@dataclass(frozen=True, kw_only=True)
class ActivationCheckpointing:
    """Of every block only the input is kept; the backward pass runs the block again.

    Blocks are the anatomy's layers, of any model: their `forward` is wrapped in
    `torch.utils.checkpoint` for the time of a forward pass. Random numbers are drawn again as they
    were, and batch norms do not count a batch twice.

    Exact: yes, to the bit.
    Memory: of L blocks one block's inner values and L inputs, instead of all inner values. Time
    goes up by one forward pass of the blocks: it is judged by memory.
    Misleads when: the embedding or the output takes most of the memory, as with large vocabularies.
    Sources: Chen et al., "Training deep nets with sublinear memory cost", 2016.
    """

    name: ClassVar[str] = "activation-checkpointing"
    title: ClassVar[str] = "Activation checkpointing"
    order: ClassVar[int] = 10
    exact: ClassVar[bool] = True
    gain: ClassVar[Gain] = "memory"
    params: ClassVar[type[Params]] = CheckpointingParams

    def variants(self, workload: Workload) -> tuple[CheckpointingParams, ...]:
        """Every block, and every second one where there are at least four."""
        paths = block_paths(workload, workload.model)
        every = (CheckpointingParams(),)
        return every if len(paths) < 4 else (*every, CheckpointingParams(every=2))

    def apply(
        self, setup: TrainingSetup, params: CheckpointingParams, workload: Workload
    ) -> TrainingSetup:
        """The blocks of the copy, wrapped around every forward pass."""
        if any(isinstance(enter, _Enter) for enter in setup.around):
            raise SpeedUpRefused("Blocks are checkpointed once; they are already.")
        paths = block_paths(workload, setup.module)[:: params.every]
        blocks = tuple(setup.module.get_submodule(path) for path in paths)
        return setup.with_around(_Enter(blocks))


def block_paths(workload: Workload, module: nn.Module) -> list[str]:
    """Module paths of the outermost layers, in the order of the anatomy.

    Raises:
        SpeedUpRefused: The anatomy has none that is a module of its own.
    """
    inside = {name for name, _ in module.named_modules() if name}
    layers = [c.path for c in workload.subject.anatomy.components if c.kind == "layer"]
    known = list(dict.fromkeys(path for path in layers if path in inside))
    found = [p for p in known if not any(p.startswith(f"{other}.") for other in known)]
    if not found:
        raise SpeedUpRefused(
            "Checkpointing needs repeated blocks, each a module of its own; the anatomy of this "
            f"model has {'none' if not layers else 'none that is a module'}. `zsei analyze` lists "
            "its components."
        )
    return found


class _Enter:
    """Makes the context in which the blocks are wrapped.

    The wrappers are made once, since a compiler takes new ones for another model.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self.wrapped = tuple((block, _wrapped(block)) for block in blocks)

    def __call__(self) -> AbstractContextManager[None]:
        return self._enter()

    @contextmanager
    def _enter(self) -> Iterator[None]:
        before = [vars(block).get("forward") for block, _ in self.wrapped]
        for block, forward in self.wrapped:
            vars(block)["forward"] = forward
        try:
            yield
        finally:
            for (block, _), own in zip(self.wrapped, before, strict=True):
                del vars(block)["forward"]
                if own is not None:  # set on this very module, by a library that wraps it too
                    vars(block)["forward"] = own


def _wrapped(block: nn.Module) -> Callable[..., Any]:
    norms = [norm for norm in batch_norms(block) if norm.track_running_stats]
    if not norms:
        return partial(checkpoint, block.forward, use_reentrant=False)
    return partial(
        checkpoint, block.forward, use_reentrant=False,
        context_fn=lambda: (nullcontext(), _uncounted(norms)),
    )  # fmt: skip


@contextmanager
def _uncounted(norms: Sequence[BatchNorm]) -> Iterator[None]:
    """Running statistics stay as they are: a momentum of 0 adds nothing to them."""
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, counted) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counted
