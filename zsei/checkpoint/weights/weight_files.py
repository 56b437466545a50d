"""Which files hold the weights of a checkpoint, and of which format they are."""

import json
from pathlib import Path
from typing import Literal

from zsei.errors import ModelError

Format = Literal["safetensors", "torch", "old torch"]
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_LARGEST_HEADER = 100_000_000
"""Bytes of a safetensors header; the format's own limit."""
_NO_WEIGHTS = (
    "optimizer", "optim", "scheduler", "rng_state", "random_states", "training_args", "scaler",
    "trainer_state", "adapter_", "sampler", "dl_state",
)  # fmt: skip
"""How files begin that lie beside weights and hold none, or not all."""


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files with the weights of a checkpoint, in name order; none when it holds none.

    Of a folder: safetensors before pickles, an index with its shards before single files. A file
    the index names belongs to them whether it is there or not.

    Raises:
        ModelError: The index cannot be read, or there are several files and nothing says which.
        OSError: The folder cannot be looked into.
    """
    if not path.is_dir():
        return (path,)
    inside = sorted(child for child in path.iterdir() if holds_weights(child))
    for suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt"):
        indices = sorted(path.glob(f"*{suffix}.index.json"))
        if indices:
            return _shards(indices[0])
        files = [child for child in inside if child.suffix == suffix]
        named = [child for child in files if child.stem in ("model", "pytorch_model")]
        if named or len(files) == 1:
            return tuple(named or files)
        if files:
            raise ModelError(
                f"A checkpoint's folder holds one file of weights, or an index of several; {path} "
                f"has {', '.join(child.name for child in files[:3])}"
                f"{' ...' if len(files) > 3 else ''} and no index. Name the weights model"
                f"{suffix}, or watch the folder itself if each is a checkpoint of its own."
            )
    return ()


def holds_weights(path: Path) -> bool:
    """Whether a file looks as if it were a checkpoint's weights, by its name."""
    return (
        path.suffix in SUFFIXES
        and not path.name.startswith((".", *_NO_WEIGHTS))
        and path.name != "training_args.bin"
    )


def format_of(file: Path) -> Format | None:
    """What a file is, by how it begins; None when it is none of these, or too short to tell.

    Raises:
        OSError: It is gone, or cannot be read.
    """
    with file.open("rb") as opened:
        begin = opened.read(9)
    if begin[:4] == b"PK\x03\x04":
        return "torch"
    if begin[:1] == b"\x80" and begin[1:2] in b"\x02\x03\x04\x05":
        return "old torch"
    if (
        len(begin) == 9
        and begin[8:] == b"{"
        and int.from_bytes(begin[:8], "little") <= (_LARGEST_HEADER)
    ):
        return "safetensors"
    return None


def _shards(index: Path) -> tuple[Path, ...]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        plain = all(isinstance(n, str) and Path(n).name == n and n for n in names)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        names, plain = set(), False
    if not names or not plain:
        raise ModelError(
            f"{index.name} must map names of weights to files beside it; the one in "
            f"{index.parent} does not. Save the checkpoint again."
        )
    return tuple(index.parent / name for name in sorted(names))
