"""The folder of checkpoints: found by name, and filled by uploads that arrive whole or not at all.

Uploads lie in `uploads/` below it; what else is in the folder is the user's own and is only read.
"""

import hashlib
import os
import re
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from safetensors import SafetensorError, safe_open

from zsei.errors import OutputError
from zsei.records import Record
from zsei.service.problems import Refused

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,119}\.safetensors$"
UPLOADS = "uploads"
_DRAFT = ".upload-"


class Uploaded(Record):
    """A checkpoint that lies on the service's side."""

    weights: str
    """What a request calls it (`checkpoint.weights`)."""
    sha256: str
    """Of its bytes, for `checkpoint.sha256`."""
    bytes: int


@dataclass(eq=False, kw_only=True)
class Checkpoints:
    """The folder that is served."""

    folder: Path
    largest: int = 32 * 1024**3
    """Bytes of one upload."""
    _keeping: threading.Lock = field(default_factory=threading.Lock, init=False)

    def find(self, weights: str) -> Path:
        """The file or folder that a request means.

        Raises:
            Refused: There is none inside of the folder; links that lead out of it do not count.
        """
        gone = Refused(
            404,
            f"A request names weights inside the folder of checkpoints, and {weights[:200]!r} is "
            "not there; upload it first (PUT /v1/checkpoints/NAME) or mend its name.",
        )
        parts = weights.split("/")
        if "\0" in weights or "\\" in weights or any(part in ("", ".", "..") for part in parts):
            raise gone
        try:
            path = (self.folder / weights).resolve(strict=True)
            inside = path.is_relative_to(self.folder.resolve(strict=True))
        except (OSError, RuntimeError, ValueError):
            raise gone from None
        if not inside or any(part.startswith(".") for part in parts):
            raise gone
        return path

    def draft(self, name: str) -> "Draft":
        """Begin an upload.

        Raises:
            Refused: The name is not one an upload may have.
            OutputError: The folder cannot be written.
        """
        target = self._upload(name)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            path = target.with_name(f"{_DRAFT}{secrets.token_hex(8)}")
            return Draft(path=path, target=target, file=path.open("xb"), checkpoints=self)
        except OSError as error:
            raise _full(error) from error

    def keep(self, draft: "Draft") -> tuple[Uploaded, bool]:
        """Make a whole upload visible; and whether it is new.

        Raises:
            Refused: It is no whole safetensors file (422), or the name has other bytes (409).
            OutputError: The disk does not take it.
        """
        try:
            draft.finish()
            with safe_open(draft.path, framework="numpy"):
                pass
        except SafetensorError as error:
            raise Refused(
                422, f"An upload must be one whole safetensors file, and this is not ({error})."
            ) from None
        except OSError as error:
            raise _full(error) from error
        found = Uploaded(
            weights=f"{UPLOADS}/{draft.target.name}", sha256=draft.sha.hexdigest(), bytes=draft.size
        )
        with self._keeping:
            if not draft.target.exists():
                draft.path.replace(draft.target)
                return found, True
        with draft.target.open("rb") as file:
            known = hashlib.file_digest(file, "sha256").hexdigest()
        if known != found.sha256:
            raise Refused(
                409,
                f"The name of a checkpoint stands for its bytes, and {draft.target.name!r} has "
                "others already; take another name, or delete that one first.",
            )
        return found, False

    def delete(self, name: str) -> None:
        """Forget an upload.

        Raises:
            Refused: There is none of that name.
        """
        try:
            self._upload(name).unlink()
        except OSError:
            raise Refused(404, f"There is no upload {name[:200]!r} to delete.") from None

    def clear_drafts(self) -> None:
        """Take away what a killed service left of uploads."""
        for path in (self.folder / UPLOADS).glob(f"{_DRAFT}*"):
            path.unlink(missing_ok=True)

    def _upload(self, name: str) -> Path:
        if re.fullmatch(NAME.strip("^$"), name) is None:
            raise Refused(
                422,
                "An upload is named by letters, digits, `.`, `_` and `-`, up to 120 of them, and "
                f"`.safetensors`; {name[:200]!r} is not.",
            )
        return self.folder / UPLOADS / name


@dataclass(eq=False, kw_only=True)
class Draft:
    """An upload that is not whole yet."""

    path: Path
    target: Path
    file: IO[bytes]
    checkpoints: Checkpoints
    size: int = 0
    sha: "hashlib._Hash" = field(default_factory=hashlib.sha256)

    def write(self, chunk: bytes) -> None:
        """Add bytes.

        Raises:
            Refused: There are too many.
            OutputError: The disk does not take them.
        """
        self.size += len(chunk)
        if self.size > self.checkpoints.largest:
            raise too_large(self.checkpoints.largest)
        try:
            self.file.write(chunk)
        except OSError as error:
            raise _full(error) from error
        self.sha.update(chunk)

    def finish(self) -> None:
        """Bring all bytes onto the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()

    def discard(self) -> None:
        """Take away what did not become a checkpoint."""
        self.file.close()
        self.path.unlink(missing_ok=True)


def too_large(limit: int) -> Refused:
    """More bytes than may come."""
    return Refused(413, f"At most {limit} bytes may come in one piece here, and these are more.")


def _full(error: OSError) -> OutputError:
    return OutputError(
        f"An upload must fit on the disk, and it cannot be written ({error.strerror or error}). "
        "Free the disk or grant the permission."
    )
