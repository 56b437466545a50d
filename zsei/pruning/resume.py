"""What a search has found so far, on the disk: an interrupted prune goes on from there."""

import os
from pathlib import Path

from pydantic import ValidationError

from zsei.errors import OutputError
from zsei.pruning.records import Point
from zsei.records import Record


class Steps(Record):
    """The file."""

    key: str
    points: tuple[Point, ...] = ()


class Kept:
    """The points of one search, kept until it ends.

    Args:
        home: The memory folder.
        key: Hash of all that the search depends on: another question has another file.
    """

    def __init__(self, home: Path, key: str):
        self.key = key
        self.path = home / "prunes" / f"{key}.json"

    def read(self) -> tuple[Point, ...]:
        """Points found before; none when there is no file, or one that cannot be read."""
        try:
            found = Steps.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return ()
        return found.points if found.key == self.key else ()

    def write(self, points: tuple[Point, ...]) -> None:
        """Put the points in the file's place, whole or not at all.

        Raises:
            OutputError: The disk is full, or the folder cannot be written.
        """
        draft = self.path.with_suffix(f".{os.getpid()}.draft")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                file.write(Steps(key=self.key, points=points).model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise OutputError(
                f"The steps of a prune are kept so that it can go on after an interruption, and "
                f"`{self.path.name}` cannot be written ({error.strerror or error}). Free the disk "
                f"or grant the permission."
            ) from error

    def forget(self) -> None:
        """The search has ended."""
        self.path.unlink(missing_ok=True)
