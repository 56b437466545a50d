"""What a modification log's store should hold, from whole files, with everything in memory."""

import hashlib
from pathlib import Path

from safetensors.torch import load_file


def large_tensors(paths: list[Path], small: int) -> dict[str, int]:
    """SHA-256 -> bytes of every different tensor of at least `small` bytes in safetensors files."""
    found: dict[str, int] = {}
    for path in paths:
        for tensor in load_file(path).values():
            content = bytes(tensor.contiguous().view(-1).untyped_storage().tolist())
            if len(content) >= small:
                found[hashlib.sha256(content).hexdigest()] = len(content)
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, whole."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
