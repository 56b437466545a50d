"""An output folder that is either written whole or left as it was."""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from zsei.errors import OutputError, UsageError


def check_folder(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that cannot become one, before anybody spends a minute on its content.

    Raises:
        UsageError: A file stands in its place.
        OutputError: It cannot be created or written.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"{option} must name a folder, but {existing} is a file; name another.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"{option} must be writable, but {existing} is not; name another folder.")


@contextlib.contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to write into; its files move to `folder` once all are written.

    Files of the same name are replaced, others in `folder` stay. When the body fails or is
    interrupted, `folder` is what it was before.

    Raises:
        OutputError: The files could not be written, for example because the disk is full.
    """
    # Beside the target or inside it: on one file system a move is a rename, which cannot tear.
    around = folder if folder.exists() else folder.absolute().parent
    draft = around / f".zsei-{secrets.token_hex(4)}"
    try:
        draft.mkdir(parents=True)
        yield draft
        _move(draft, folder)
    except OSError as error:
        raise OutputError(
            f"The results must be written whole to {folder}, but {error.strerror or error}; "
            "free some space or name another folder with --out."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _move(draft: Path, folder: Path) -> None:
    """Move what `draft` holds to `folder`."""
    if not folder.exists():
        draft.rename(folder)
        return
    for source in sorted(draft.rglob("*")):
        target = folder / source.relative_to(draft)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            source.replace(target)
