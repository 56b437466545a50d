"""A model's parameters and buffers under the user's own names, as they are kept in a history."""

import hashlib
from pathlib import Path

from torch import Tensor, nn, uint8

from zsei.records import Record
from zsei.subject.program import strip_prefix
from zsei.surgery.apply import ProgramModel
from zsei.surgery.objects import Source


class TensorState(Record):
    """One parameter or buffer, by its SHA-256."""

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    tied_to: str | None = None
    """The name under which the same parameter stands first."""


def tensors_by_name(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer; tied names give one and the same tensor.

    The names of a `ProgramModel` are those of the model it was made from.
    """
    found = model.state_dict(keep_vars=True)
    tensors = {name: value for name, value in found.items() if isinstance(value, Tensor)}
    if not isinstance(model, ProgramModel):
        return tensors
    return {strip_prefix(name.removeprefix("program.")): value for name, value in tensors.items()}


def state_of(model: nn.Module) -> dict[str, TensorState]:
    """What every parameter and persistent buffer holds."""
    first: dict[int, str] = {}
    found: dict[str, TensorState] = {}
    for name, tensor in tensors_by_name(model).items():
        own = first.setdefault(id(tensor), name)
        known = found.get(own)
        found[name] = TensorState(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            sha256=known.sha256 if known else hashlib.sha256(_bytes(tensor)).hexdigest(),
            tied_to=own if own != name else None,
        )
    return found


def save_state(model: nn.Module, path: Path) -> None:
    """Write parameters and buffers as safetensors; tied ones once, their other names as metadata.

    `safetensors.torch.load_model` reads it into a model of the same class.
    """
    from safetensors.torch import save_file

    tensors = tensors_by_name(model)
    ties = {name: own.tied_to for name, own in state_of(model).items() if own.tied_to}
    held = {n: t.detach().contiguous().clone() for n, t in tensors.items() if n not in ties}
    save_file(held, path, metadata={"format": "pt"} | ties)


def supply_of(model: nn.Module) -> dict[str, Source]:
    """A model's tensors as pieces of files: SHA-256 -> their bytes."""
    tensors, states = tensors_by_name(model), state_of(model)
    return {
        own.sha256: lambda name=name: _bytes(tensors[name])
        for name, own in states.items()
        if own.tied_to is None
    }


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(uint8).numpy().tobytes()
