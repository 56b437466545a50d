"""Copies the weights of a model in training out to a file, and says what the model looks like."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from zsei.checkpoint.contracts import PrunedArchitecture
from zsei.checkpoint.run_folder import RunFolder
from zsei.errors import OutputError
from zsei.records import digest
from zsei.subject.program import parameter_count


def write_weights(model: nn.Module, path: Path) -> None:
    """Write a model's state dict as safetensors, in one move; tied weights once.

    Raises:
        OutputError: The file cannot be written whole; there is none then.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights_of(model), draft, metadata={"format": "pt"})
        draft.replace(path)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"The copy of the weights is written whole, and {path.name} in {path.parent} cannot "
            f"be ({error}). Free the disk; this checkpoint is not analysed."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameter or buffer -> value in main memory, the first of several tied names only."""
    found: dict[str, Tensor] = {}
    first: set[tuple[object, ...]] = set()
    storages: set[int] = set()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if not isinstance(value, Tensor):
                continue  # what a module keeps beside its tensors is not analysed
            tensor = value.detach()
            same = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
            if tensor.numel() and same in first:
                continue
            first.add(same)
            tensor = tensor.to("cpu").contiguous()
            storage = tensor.untyped_storage().data_ptr()
            # A file has each byte once: what overlaps another tensor is written as its own.
            found[name] = tensor.clone() if storage in storages else tensor
            storages.add(storage)
    return found


def room_for_snapshot(folder: RunFolder, keep: int) -> bool:
    """Whether another copy may be written: fewer than `keep` wait for their analysis.

    The analysis takes the newest, so all before the last answer count as seen.
    """
    answered = max(folder.epochs("decisions"), default=0)
    return sum(epoch > answered for epoch in folder.epochs("requests")) < keep


def tidy_snapshots(folder: RunFolder, keep: int) -> None:
    """Remove the oldest copies that nobody asks about any more, until `keep` are left."""
    answered = max(folder.epochs("decisions"), default=0)
    waiting = {epoch for epoch in folder.epochs("requests") if epoch > answered}
    paths = (folder.path / "snapshots").glob("*.safetensors")
    there = sorted(int(path.stem) for path in paths if path.stem.isdigit())
    for epoch in there[:-keep]:
        if epoch not in waiting:
            with suppress(OSError):
                folder.snapshot(epoch).unlink()


def architecture_of(
    model: nn.Module, original: int, applied: Collection[str], masked: Collection[str]
) -> PrunedArchitecture:
    """What a model looks like now, and how it came to."""
    return PrunedArchitecture(
        model_class=type(model).__name__,
        parameters=parameter_count(model),
        original_parameters=original,
        shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        applied=tuple(applied),
        masked=tuple(masked),
    )


def architecture_hash(architecture: PrunedArchitecture) -> str:
    """The same for two models of one class whose parameters and cuts are the same."""
    return digest(architecture)
