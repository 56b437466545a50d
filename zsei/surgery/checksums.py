"""Size and SHA-256 of every file of a saved model, checked before any of them is read.

They find what went wrong on the way (a copy cut short, a file edited or forgotten). They are no
signature: who can change a file can change its sum as well.
"""

import hashlib
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from zsei.errors import ModelError
from zsei.records import Record

FILES = "zsei-files.json"
FIX = "Copy the folder again from where it was saved, or save the model again."


class FileSum(Record):
    """What one file of a folder holds."""

    path: str
    """Relative to the folder, with `/`."""
    bytes: int
    sha256: str


class FileSums(Record):
    """What all files of a folder hold, this list itself excepted."""

    schema_version: int = 1
    files: tuple[FileSum, ...]


def file_sum(path: Path, name: str) -> FileSum:
    """Size and SHA-256 of a file, read in pieces."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    return FileSum(path=name, bytes=path.stat().st_size, sha256=found)


def files_in(folder: Path) -> list[str]:
    """Names of all files below a folder, relative to it, in order."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in paths)


def write_sums(folder: Path) -> FileSums:
    """Write the list of a folder's files as they are now."""
    names = [name for name in files_in(folder) if name != FILES]
    sums = FileSums(files=tuple(file_sum(folder / name, name) for name in names))
    (folder / FILES).write_text(sums.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return sums


def check_sums(folder: Path) -> None:
    """Compare a folder's files with its list. Files that are not on the list are let be.

    Raises:
        ModelError: A file is missing, cut short or altered, or there is no list.
    """
    sums = _read(folder / FILES)
    for wanted in sums.files:
        if not inside(wanted.path):
            raise ModelError(
                f"{FILES} in {folder} may name files of that folder only; it names "
                f"{wanted.path!r}. Save the model again."
            )
        path = folder / wanted.path
        if not path.is_file():
            raise ModelError(
                f"A saved model needs all its files; {wanted.path} ({wanted.bytes:,} bytes) is "
                f"missing from {folder}. {FIX}"
            )
        size = path.stat().st_size
        if size != wanted.bytes:
            raise ModelError(
                f"A saved model's files must be as they were written; {wanted.path} in {folder} "
                f"had {wanted.bytes:,} bytes and now has {size:,}. {FIX}"
            )
    # Only then the content, which takes long for a large model.
    for wanted in sums.files:
        found = file_sum(folder / wanted.path, wanted.path)
        if found != wanted:
            raise ModelError(
                f"A saved model's files must be as they were written; {wanted.path} in {folder} "
                f"was altered (SHA-256 {wanted.sha256[:12]} when saved, {found.sha256[:12]} now). "
                f"{FIX}"
            )


def _read(path: Path) -> FileSums:
    if not path.is_file():
        raise ModelError(
            f"A saved model needs all its files; {FILES} is missing from {path.parent}. {FIX}"
        )
    try:
        return FileSums.model_validate_json(path.read_bytes())
    except (ValidationError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"{FILES} in {path.parent} is not what zsei writes ({reason}). {FIX}"
        ) from error


def inside(name: str) -> bool:
    """Whether a name stays inside its folder."""
    path = PurePosixPath(name)
    return bool(name) and not path.is_absolute() and not {"..", ""} & set(name.split("/"))
