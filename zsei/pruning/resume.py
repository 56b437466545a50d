"""What a search has found so far, on the disk: an interrupted prune goes on from there."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from zsei.errors import OutputError
from zsei.pruning.records import Point
from zsei.records import Record


class Steps(Record):
    """The file: every step's point in the order in which they were found, also those the walk then
    went back from. The walk is the same given its steps, so that it takes them as it did before.
    """

    key: str
    points: tuple[Point, ...] = ()
    refused: dict[str, str] = Field(default_factory=dict)


class Kept:
    """The points of one search, kept until it ends.

    Args:
        home: The memory folder.
        key: Hash of all that the search depends on: another question has another file.
    """

    def __init__(self, home: Path, key: str):
        self.key = key
        self.path = home / "prunes" / f"{key}.json"

    def read(self) -> Steps:
        """Steps found before; none when there is no file, or one that cannot be read."""
        try:
            found = Steps.model_validate_json(self.path.read_bytes())
        except (OSError, ValidationError):
            return Steps(key=self.key)
        return found if found.key == self.key else Steps(key=self.key)

    def write(self, points: Sequence[Point], refused: Mapping[str, str]) -> None:
        """Put the steps in the file's place, whole or not at all.

        Raises:
            OutputError: The disk is full, or the folder cannot be written.
        """
        steps = Steps(key=self.key, points=tuple(points), refused=dict(refused))
        draft = self.path.with_suffix(f".{os.getpid()}.draft")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                file.write(steps.model_dump_json())
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
