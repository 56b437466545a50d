"""Weight files looked at from outside: sizes, damage, and a float32 copy made tensor by tensor."""

import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from zsei.errors import ModelError

INDEX = "model.safetensors.index.json"
_LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit."""
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U8": 8,
    "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "U32": 32, "U64": 64,
}  # fmt: skip
_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor of a weight file, from its header alone."""

    name: str
    dtype: str
    """The format's own name: F32, BF16 ..."""
    shape: tuple[int, ...]
    file: Path

    @property
    def float_bytes(self) -> int:
        """Bytes it takes once loaded: floating point numbers are loaded as float32."""
        bits = 32 if self.dtype in _FLOATS else _BITS.get(self.dtype, 32)
        return math.prod(self.shape) * bits // 8


def read_headers(folder: Path) -> tuple[Stored, ...]:
    """Every tensor of a folder's safetensors files, in name order; no weight is read.

    Raises:
        ModelError: A file the index names is missing, or a file is cut off or damaged.
    """
    found: dict[str, Stored] = {}
    for file in _files(folder):
        for name, entry in _header(file).items():
            found[name] = Stored(
                name=name, dtype=str(entry["dtype"]), shape=tuple(entry["shape"]), file=file
            )
    return tuple(found[name] for name in sorted(found))


def _files(folder: Path) -> list[Path]:
    """The shards an index names, or every safetensors file where there is no index."""
    index, single = folder / INDEX, folder / "model.safetensors"
    if single.is_file() or not index.is_file():
        return [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{INDEX} must map weight names to files; the one in {folder} does not ({error}). "
            f"Download it again, or save the model again with save_pretrained."
        ) from error
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise ModelError(
            f"A model folder must hold every file its index names; {folder} lacks "
            f"{', '.join(missing[:3])} ({len(missing)} of {len(shards)}). Download the folder "
            f"again, or copy the missing files into it."
        )
    return [folder / name for name in shards]


def _header(file: Path) -> Mapping[str, Any]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if 0 < length <= min(size, _LARGEST_HEADER) else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        end = 8 + length + max((e["data_offsets"][1] for e in entries.values()), default=0)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"A weight file must start with a safetensors header; {file.name} does not, or it is "
            f"cut off ({size:,} bytes). Download it again."
        ) from error
    if end > size:
        raise ModelError(
            f"A weight file must be as long as its header says; {file.name} holds {size:,} of "
            f"{end:,} bytes. Download it again: the copy was cut off."
        )
    return entries


def widen(folder: Path, stored: tuple[Stored, ...], target: Path) -> None:
    """Write the folder's weights as float32, one tensor at a time, with everything else linked.

    Args:
        folder: A folder in Hugging Face layout.
        stored: Its tensors (`read_headers`).
        target: An empty folder.

    Raises:
        ModelError: The disk has no room for it.
    """
    needed = sum(tensor.float_bytes for tensor in stored)
    free = shutil.disk_usage(target).free
    if needed * 1.05 > free:
        raise ModelError(
            f"Half-precision weights are streamed from a float32 copy, which takes "
            f"{needed / 1e9:.1f} GB until the analysis ends; {target.parent} has {free / 1e9:.1f} "
            f"GB free. Make room, point the setting home to another disk, or set stream=never."
        )
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name != INDEX:
            (target / path.name).symlink_to(path.resolve())
    _write(stored, target / "model.safetensors")


def _write(stored: tuple[Stored, ...], file: Path) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in stored:
        end = offset + tensor.float_bytes
        dtype = "F32" if tensor.dtype in _FLOATS else tensor.dtype
        header[tensor.name] = {
            "dtype": dtype, "shape": list(tensor.shape), "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    # Tensors must lie at addresses that are whole numbers of theirs.
    text += b" " * (-len(text) % 64)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in stored:
            # Opened anew for each: what is mapped of a file stays resident while it is open.
            with safe_open(tensor.file, framework="pt") as opened:
                value = opened.get_tensor(tensor.name)
                if tensor.dtype in _FLOATS:
                    value = value.float()
                stream.write(value.contiguous().numpy().data)
        stream.flush()
        os.fsync(stream.fileno())
