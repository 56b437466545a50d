"""Whether a checkpoint is whole, told from its files and not from their names.

- safetensors: the header says how long the file is.
- torch (a zip archive): its directory stands at the end and lists `data.pkl`.
- torch before 1.6 (plain pickles): it can be read to its end.
- a folder: an index and all its shards, or one file of weights.

Misleads when: a writer sets the size of its file before it fills it. So who follows a folder also
waits until nothing has changed between two looks.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from zsei.checkpoint.weights.snapshot import read_file
from zsei.checkpoint.weights.weight_files import format_of, weight_files
from zsei.errors import ModelError


def why_not_whole(path: Path) -> str:
    """What is missing in a checkpoint, in one sentence; empty when it is whole.

    Raises:
        OSError: It is gone, or cannot be read.
    """
    try:
        files = weight_files(path)
    except ModelError as error:
        return str(error)
    if not files:
        return f"{path.name} holds no weights."
    for file in files:
        if not file.exists() and path.exists() and path.is_dir():
            return f"{file.name} is not there yet."
        why = _why_not(file)
        if why:
            return why
    return ""


def _why_not(file: Path) -> str:
    kind = format_of(file)
    if kind == "safetensors":
        return _why_not_safetensors(file)
    if kind == "torch":
        return _why_not_zip(file)
    if kind == "old torch":
        return _why_not_pickles(file)
    return f"{file.name} does not begin as safetensors or torch files do."


def _why_not_safetensors(file: Path) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        text = opened.read(length)
    if len(text) < length:
        return f"{file.name} ends in its header."
    try:
        header: dict[str, Any] = json.loads(text)
        ends = [int(e["data_offsets"][1]) for name, e in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return f"{file.name} has a damaged header."
    wanted = 8 + length + max(ends, default=0)
    return "" if size == wanted else f"{file.name} has {size:,} bytes of {wanted:,}."


def _why_not_zip(file: Path) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError):
        return f"{file.name} has no directory at its end."
    if not any(name.endswith("/data.pkl") or name == "data.pkl" for name in names):
        return f"{file.name} is an archive, but none of torch.save."
    return ""


def _why_not_pickles(file: Path) -> str:
    try:
        read_file(file)
    except ModelError as error:
        return str(error)
    return ""
