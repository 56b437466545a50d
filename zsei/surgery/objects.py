"""Files kept once by what they hold: cut at their tensors, each piece under its own SHA-256.

Versions of one model share most of their bytes, but no two of their files are equal. So a file is
cut where a large tensor begins or ends (safetensors and `.pt2` store tensors as they are), and
every piece is kept under the SHA-256 of its bytes: what two versions share is on the disk once.
Put together again, a file is what it was to the byte.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from zsei.errors import ModelError
from zsei.records import Record
from zsei.surgery.whole import DRAFT, sync

SMALL = 4096
"""Bytes; a tensor below this size is kept with its neighbours."""
BLOCK = 1 << 20
"""Bytes read at a time."""
Source = Callable[[], bytes]
Supply = Mapping[str, Source]
"""SHA-256 -> where a piece that was not kept can be had."""


class KeptFile(Record):
    """One file, as the pieces it is put together from."""

    path: str
    """Relative to its folder, with `/`."""
    bytes: int
    sha256: str
    pieces: tuple[str, ...]
    """SHA-256 of each piece, in order."""


def keep_file(store: Path, path: Path, name: str, *, tensors: bool = True) -> KeptFile:
    """Put a file's pieces into a store; those that are there already cost nothing.

    Args:
        store: The folder of pieces.
        path: The file.
        name: What it is called in its own folder.
        tensors: False keeps all but the large tensors, which must then be supplied.
    """
    whole, pieces = hashlib.sha256(), []
    with path.open("rb") as file:
        for start, end, is_tensor in cuts(path):
            digest, content = hashlib.sha256(), []
            file.seek(start)
            wanted = tensors or not is_tensor
            for block in _blocks(file.read, end - start):
                digest.update(block)
                whole.update(block)
                if wanted:
                    content.append(block)
            pieces.append(digest.hexdigest())
            if wanted:
                _keep(store, pieces[-1], content)
    return KeptFile(
        path=name, bytes=path.stat().st_size, sha256=whole.hexdigest(), pieces=tuple(pieces)
    )


def restore_file(store: Path, kept: KeptFile, target: Path, supply: Supply | None = None) -> None:
    """Put a file together again.

    Raises:
        ModelError: A piece is missing or damaged. `target` is then not whole.
    """
    whole, size = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        for piece in kept.pieces:
            content = _piece(store, piece, kept.path, supply or {})
            whole.update(content)
            size += file.write(content)
    if (size, whole.hexdigest()) != (kept.bytes, kept.sha256):
        raise ModelError(
            f"A restored file must be what it was; {kept.path} had {kept.bytes:,} bytes with "
            f"SHA-256 {kept.sha256[:12]}, its pieces give {size:,} with {whole.hexdigest()[:12]}. "
            f"The log was altered; use a copy of it."
        )


def sweep(store: Path, wanted: Iterable[str]) -> None:
    """Remove what a killed process left behind: pieces that no version needs."""
    known = set(wanted)
    for path in store.glob("*/*"):
        if path.name not in known:
            path.unlink()


def pieces_of_file(path: Path) -> dict[str, Source]:
    """Every piece of a file by its SHA-256, to be read when it is needed."""
    found: dict[str, Source] = {}
    for start, end, _ in cuts(path):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            file.seek(start)
            for block in _blocks(file.read, end - start):
                digest.update(block)
        found[digest.hexdigest()] = lambda start=start, end=end: _read(path, start, end)
    return found


def cuts(path: Path) -> list[tuple[int, int, bool]]:
    """Where a file is cut: (start, end, whether it is one large tensor), gapless and in order."""
    size = path.stat().st_size
    tensors = {".safetensors": _in_safetensors, ".pt2": _in_zip}.get(path.suffix, lambda _: [])
    found, place = [], 0
    for start, end in sorted(set(tensors(path))):
        if end - start < SMALL or start < place:
            continue
        if start > place:
            found.append((place, start, False))
        found.append((start, end, True))
        place = end
    if place < size or not found:
        found.append((place, size, False))
    return found


def _in_safetensors(path: Path) -> list[tuple[int, int]]:
    """Where the tensors lie: 8 bytes of length n, n bytes of JSON, then the tensors."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    offsets = (own["data_offsets"] for name, own in header.items() if name != "__metadata__")
    return [(8 + length + start, 8 + length + end) for start, end in offsets]


def _in_zip(path: Path) -> list[tuple[int, int]]:
    """Where the stored (not compressed) members of an archive lie."""
    found = []
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for member in archive.infolist():
            if member.compress_type == zipfile.ZIP_STORED:
                # 30 bytes of header, then the name and extra field, whose lengths it says.
                file.seek(member.header_offset + 26)
                lengths = file.read(4)
                before = int.from_bytes(lengths[:2], "little") + int.from_bytes(
                    lengths[2:], "little"
                )
                start = member.header_offset + 30 + before
                found.append((start, start + member.file_size))
    return found


def _blocks(read: Callable[[int], bytes], length: int) -> Iterator[bytes]:
    while length > 0:
        block = read(min(BLOCK, length))
        if not block:
            return
        length -= len(block)
        yield block


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _place(store: Path, piece: str) -> Path:
    return store / piece[:2] / piece


def _keep(store: Path, piece: str, content: Iterable[bytes]) -> None:
    path = _place(store, piece)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{DRAFT}{piece}")
    with draft.open("wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync(path.parent)


def _piece(store: Path, piece: str, name: str, supply: Supply) -> bytes:
    path = _place(store, piece)
    if path.is_file():
        content = path.read_bytes()
    elif piece in supply:
        content = supply[piece]()
    else:
        raise ModelError(
            f"Every piece of a file must be in the log; one of {name} ({piece[:12]}) is missing "
            f"from {store}. Use a copy of the log, or, where the original was left out of it, "
            f"name the original model (--model)."
        )
    found = hashlib.sha256(content).hexdigest()
    if found != piece:
        raise ModelError(
            f"A piece of the log must be what was kept; {piece[:12]} of {name} in {store} now has "
            f"SHA-256 {found[:12]}. Use a copy of the log."
        )
    return content
