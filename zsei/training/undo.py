"""What training needs to go on as if an edit had never been made.

Taken before the edit: copies of every tensor that goes on being trained (weights, buffers,
gradients, the optimizers' memory, averages), and what every dictionary holds. What the edit
replaces is not copied: the old tensors are kept as they are, and nobody trains them any more.
Hyperparameters are not part of it, as an edit changes none: the learning rate goes on by its own
schedule.
"""

from collections.abc import Iterable, Iterator, MutableMapping, MutableSequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import ModelError, OutputError
from zsei.training.changes import Change, Contents, Entries, carry_out

LARGE = 1_000_000_000
"""Bytes of copies from which they go to a file, where there is a folder for one."""


@dataclass(eq=False, kw_only=True)
class Undo:
    """The way back from one edit."""

    structure: tuple[Change, ...]
    tensors: tuple[Tensor, ...]
    """Those that are trained on, as objects."""
    parameters: tuple[nn.Parameter, ...]
    """Those among them."""
    graded: tuple[nn.Parameter, ...]
    """Those that had a gradient."""
    copies: tuple[Tensor, ...] | Path
    """Of `tensors`, then of the gradients of `graded`."""

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back, to the bit.

        Raises:
            ModelError: The file with the copies is gone or damaged; nothing is changed.
        """
        copies = self._copies()
        carry_out(self.structure)
        for tensor, copied in zip(self.tensors, copies, strict=False):
            tensor.copy_(copied)
        for parameter in self.parameters:
            parameter.grad = None
        for parameter, copied in zip(self.graded, copies[len(self.tensors) :], strict=True):
            parameter.grad = copied.to(parameter.device, copy=True)
        self.forget()

    def forget(self) -> None:
        """Let the copies go: the edit stays."""
        if isinstance(self.copies, Path):
            with suppress(OSError):
                self.copies.unlink(missing_ok=True)
        self.structure = self.tensors = self.parameters = self.graded = self.copies = ()

    def _copies(self) -> tuple[Tensor, ...]:
        if not isinstance(self.copies, Path):
            return self.copies
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            found = load_file(self.copies)
            copies = tuple(found[str(number)] for number in range(len(found)))
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(
                f"What was before the edit is read from {self.copies.name}, and it cannot be "
                f"({error}). The model stays as it is."
            ) from error
        wanted = [tensor.shape for tensor in (*self.tensors, *self.graded)]
        if [copied.shape for copied in copies] != wanted:
            raise ModelError(
                f"{self.copies.name} holds other tensors than were put there; the model stays as "
                "it is."
            )
        return copies


def remember(
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    averages: Iterable[Any] = (),
    *,
    replaced: Iterable[int] = (),
    folder: Path | None = None,
) -> Undo:
    """Keep what is there before an edit.

    Args:
        model: The model in training; only read, as all else.
        optimizers: Its optimizers.
        averages: Averages of its weights (`zsei.training.averages.Average`).
        replaced: ids of the parameters and buffers that the edit puts others in the place of.
        folder: Where a file may be written when the copies are `LARGE`; None: they stay in memory.

    Raises:
        OutputError: The file cannot be written.
    """
    optimizers, averages = tuple(optimizers), tuple(averages)
    modules = (model, *(each for each in averages if isinstance(each, nn.Module)))
    structure = [*_of_modules(modules), *_of_optimizers(optimizers), *_of_averages(averages)]
    skipped = set(replaced)
    found: dict[int, Tensor] = {}
    for tensor in (*_in_modules(modules), *_in_optimizers(optimizers, skipped), *_in(averages)):
        if id(tensor) not in skipped:
            found.setdefault(id(tensor), tensor)
    tensors = tuple(found.values())
    parameters = tuple(tensor for tensor in tensors if isinstance(tensor, nn.Parameter))
    graded = tuple(parameter for parameter in parameters if parameter.grad is not None)
    held = (*tensors, *(p.grad for p in graded if p.grad is not None))
    size = sum(tensor.numel() * tensor.element_size() for tensor in held)
    copies = tuple(tensor.detach().to("cpu", copy=True) for tensor in held)
    return Undo(
        structure=tuple(structure),
        tensors=tensors,
        parameters=parameters,
        graded=graded,
        copies=copies if folder is None or size < LARGE else _written(copies, folder),
    )


def _of_modules(modules: Iterable[nn.Module]) -> Iterator[Change]:
    for module in modules:
        for part in module.modules():
            yield Entries(place=part._parameters, values=dict(part._parameters))
            yield Entries(place=part._buffers, values=dict(part._buffers))


def _of_optimizers(optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[Change]:
    for optimizer in optimizers:
        yield Contents(place=optimizer.state, content=dict(optimizer.state))
        for state in optimizer.state.values():
            yield Contents(place=state, content=dict(state))


def _of_averages(averages: Iterable[Any]) -> Iterator[Change]:
    for average in averages:
        if isinstance(average, MutableMapping):
            yield Contents(place=average, content=dict(average))
        elif isinstance(average, MutableSequence):
            yield Contents(place=average, content=list(average))


def _in_modules(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    for module in modules:
        yield from module.parameters()
        yield from module.buffers()


def _in_optimizers(
    optimizers: Iterable[torch.optim.Optimizer], skipped: set[int]
) -> Iterator[Tensor]:
    for optimizer in optimizers:
        for parameter, state in optimizer.state.items():
            if id(parameter) not in skipped:
                yield from (value for value in state.values() if isinstance(value, Tensor))


def _in(averages: Iterable[Any]) -> Iterator[Tensor]:
    for average in averages:
        if isinstance(average, MutableMapping):
            yield from average.values()
        elif isinstance(average, MutableSequence):
            yield from average


def _written(copies: tuple[Tensor, ...], folder: Path) -> Path:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    path = folder / "undo.safetensors"
    draft = path.with_name(".undo.draft")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({str(i): copied.contiguous() for i, copied in enumerate(copies)}, draft)
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise OutputError(
            f"Before an edit what is there is kept, and it cannot be written to {folder} "
            f"({error}); nothing was cut. Free the disk."
        ) from error
    return path
