"""Files and folders that are there whole or not at all, at whatever moment the process is killed.

What is written stands under another name until all of it is on the disk; then it is renamed, which
a file system does in one step. A killed process leaves at most a folder named `.zsei-...` behind.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zsei.errors import OutputError

DRAFT = ".zsei-"
"""How the name of everything unfinished begins."""


@contextmanager
def new_folder(folder: Path | str) -> Iterator[Path]:
    """Yield an empty folder to write into; it becomes `folder` when the body ends without error.

    Raises:
        OutputError: `folder` exists and is not empty, or cannot be written; it is then as it was.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(
            f"An edited model is saved into a new folder; {folder} exists and is not empty. Name "
            f"another, or empty it."
        )
    with drafts_beside(folder) as drafts:
        draft = drafts / "model"
        draft.mkdir()
        yield draft
        for path in (path for path in draft.rglob("*") if path.is_file()):
            sync(path)
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)


@contextmanager
def new_file(path: Path | str) -> Iterator[Path]:
    """Yield the path of a file to write, which becomes `path` when the body ends without error.

    Files that the body writes beside it (an ONNX model's weights) move with it, before it.

    Raises:
        OutputError: A file of one of these names exists, or none can be written.
    """
    path = Path(path)
    with drafts_beside(path) as drafts:
        draft = drafts / path.name
        refuse_existing(path)
        yield draft
        beside = [found for found in sorted(drafts.iterdir()) if found != draft]
        for found in (*beside, draft):
            refuse_existing(path.with_name(found.name))
            sync(found)
        for found in (*beside, draft):
            found.rename(path.with_name(found.name))


def replace_file(path: Path, content: bytes) -> None:
    """Replace a file's content in one step: afterwards it is the old or the new, never between."""
    draft = path.with_name(f"{DRAFT}{path.name}")
    draft.write_bytes(content)
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the disk hold what was written to a file, or to a folder's list of names."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders, and needs none synced
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def drafts_beside(target: Path) -> Iterator[Path]:
    """Yield a folder beside a target for what is not finished; it is gone afterwards.

    Raises:
        OutputError: In place of any error of the disk.
    """
    around = target.absolute().parent
    try:
        around.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=around, prefix=DRAFT) as drafts:
            yield Path(drafts)
        sync(around)
    except OSError as error:
        raise OutputError(
            f"The model could not be written to {target}: {error.strerror or error}. Free some "
            f"space or name another folder."
        ) from error


def refuse_existing(path: Path) -> None:
    """Raise OutputError where a file or folder of this name exists."""
    if path.exists():
        raise OutputError(f"A model is exported to a new file; {path} exists. Name another.")
