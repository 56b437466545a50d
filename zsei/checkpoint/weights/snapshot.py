"""The weights of a checkpoint, read without running anything that came with them."""

import hashlib
import io
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.converted import is_converted, read_converted
from zsei.checkpoint.weights.weight_files import format_of, weight_files
from zsei.errors import DataError, ModelError, UnsafeModelError

NESTS = ("state_dict", "model_state_dict", "model", "module")
"""Where trainers put the weights among other things, in the order they are looked for."""
_COMPILED = "._orig_mod."
_REFUSED = re.compile(
    r"(?:GLOBAL|unrecognized function|unsupported class) (\S+)|Unsupported (operand \d+)"
)
"""What torch says about a pickle that asks for more than it allows."""


def read_weights(snapshot: Snapshot) -> dict[str, Tensor]:
    """Parameter or buffer -> value, on the CPU; from a file memory-mapped where that can be.

    A file is safetensors or what `torch.save` writes: a state dict, or one in a dictionary under
    one of `NESTS`, as Lightning and most loops write it; what else is in there (optimizers,
    counters) is left alone. A folder is one as `save_pretrained` writes it, sharded or not.

    Raises:
        ModelError: There is no such file, it is not whole, or there are no weights in it.
        UnsafeModelError: It is a pickle that asks for more than tensors and plain containers.
        DataError: It is not the file that was announced.
    """
    if snapshot.data is not None:
        if snapshot.sha256:
            _check(hashlib.sha256(snapshot.data).hexdigest(), snapshot, "The weights")
        try:
            return _named(load(snapshot.data), snapshot.prefix)
        except (SafetensorError, ValueError) as error:
            raise ModelError(
                f"Weights that are sent must be a whole safetensors file; these are not ({error}). "
                "Send them again."
            ) from error
    path = snapshot.path
    if path is None:
        raise ModelError("A snapshot has a file or bytes, and this one has neither; give one.")
    try:
        files = weight_files(path)
        if snapshot.sha256:
            _check(sha256_of(files), snapshot, path.name)
        weights: dict[str, Tensor] = {}
        for file in files:
            weights.update(read_file(file))
    except OSError as error:
        raise ModelError(
            f"A checkpoint must stay until it has been read; `{path.name}` cannot be "
            f"({error.strerror or error}). Keep more checkpoints, or grant the permission."
        ) from error
    if not weights:
        raise ModelError(
            f"A checkpoint's folder holds weights; `{path.name}` has none that are known "
            "(safetensors, pytorch_model.bin, or one .pt, .pth or .ckpt file)."
        )
    if path.is_dir() and is_converted(path, weights):
        weights = read_converted(path) or weights
    return _named(weights, snapshot.prefix)


def read_file(file: Path) -> dict[str, Tensor]:
    """The weights in one file, under the names that stand in it.

    Raises:
        ModelError: It is not whole, or has no weights.
        UnsafeModelError: It is a pickle that asks for more than tensors and plain containers.
        OSError: It is gone, or cannot be read.
    """
    kind = format_of(file)
    if kind is None:
        raise ModelError(
            f"A checkpoint is a safetensors file or one that torch.save wrote; `{file.name}` "
            "begins as neither. It is damaged, or something else."
        )
    if kind == "safetensors":
        try:
            return load_file(file)
        except (SafetensorError, ValueError) as error:
            raise _damaged(file, error) from error
    return _state_dict(_unpickled(file, mapped=kind == "torch"), file.name)


def prefix_of(names: Collection[str], known: Collection[str]) -> str:
    """What stands before each name of a checkpoint and is none of the model's own.

    The one that lets most of the names fit the model's; none where names fit as they are. Lightning
    writes `model.`, DDP `module.`, torch.compile `_orig_mod.`.
    """
    fits: Counter[str] = Counter()
    own = frozenset(known)
    for name in names:
        parts = _plain(name).split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in own:
                fits["".join(f"{part}." for part in parts[:cut])] += 1
    return min(fits, key=lambda prefix: (-fits[prefix], len(prefix)), default="")


def sha256_of(files: Collection[Path]) -> str:
    """Of the contents of all files, one after the other.

    Raises:
        OSError: One cannot be read.
    """
    found = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                found.update(block)
    return found.hexdigest()


def _check(found: str, snapshot: Snapshot, name: str) -> None:
    if found != snapshot.sha256.lower():
        raise DataError(
            f"The weights must be those that were announced; {name} of epoch {snapshot.epoch} has "
            f"the checksum {found[:12]}..., and {snapshot.sha256[:12]}... was said. The file was "
            "replaced or damaged on its way; send the request again."
        )


def _named(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    plain = {_plain(name): tensor for name, tensor in weights.items()}
    return {n[len(prefix) :]: tensor for n, tensor in plain.items() if n.startswith(prefix)}


def _plain(name: str) -> str:
    """A name without the marks of compiled submodules; one at its very beginning is a prefix."""
    return name.replace(_COMPILED, ".")


def _unpickled(file: Path, *, mapped: bool) -> Any:
    try:
        # Old files cannot be mapped; they are read whole, so that the file can go meanwhile.
        source: Any = file if mapped else io.BytesIO(file.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols: it reads them or not
            return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped or None)
    except OSError:
        raise
    except pickle.UnpicklingError as error:
        asked = _REFUSED.search(str(error))
        if asked is None:
            raise _damaged(file, error) from error
        raise UnsafeModelError(
            f"Weights are loaded without running code, and `{file.name}` is a pickle that asks for "
            f"{asked[1] or asked[2]}. Save the weights alone, with "
            "torch.save(model.state_dict(), ...) or safetensors.torch.save_model(model, ...)."
        ) from error
    except Exception as error:  # damaged pickles end in errors of any kind
        raise _damaged(file, error) from error


def _state_dict(content: Any, name: str, depth: int = 0) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and depth <= 3:
        nested = [content[key] for key in NESTS if isinstance(content.get(key), Mapping)]
        if nested:
            return _state_dict(nested[0], name, depth + 1)
        found = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if found:
            return found
    what = (
        f"has {', '.join(map(repr, list(content)[:5])) or 'nothing'}"
        if isinstance(content, Mapping)
        else f"is a {type(content).__name__}"
    )
    raise ModelError(
        f"A checkpoint is a state dict, or has one under {', '.join(NESTS)}; `{name}` {what}. Save "
        "it with torch.save(model.state_dict(), ...)."
    )


def _damaged(file: Path, error: Exception) -> ModelError:
    said = str(error).rpartition("WeightsUnpickler error:")[2]  # before it stands torch's advice
    reason = next(iter(said.strip().splitlines()), type(error).__name__)
    return ModelError(
        f"A checkpoint is a whole file; `{file.name}` cannot be read ({reason[:200]}). It is "
        "damaged or still being written: wait, or save it again."
    )
