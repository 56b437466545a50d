"""The folder of one training run: the mail between training and analysis, as files.

    requests/000031.json        what the run asks (`StructuralAnalysisRequest`)
    snapshots/000031.safetensors   the weights it is about; written before the request
    decisions/000031.json       the answer (`StructuralPruningDecision`)
    applied/000031.json         what the run did with it (`ApplicationReport`)
    reports/000031.json         how the analysis went (`AnalysisReport`)
    state/                      what the analysis keeps between checkpoints
    end                         put there by a run that is over: answer what waits, then leave
    log.jsonl                   what happened, a line of JSON each

Each file appears whole, in one move, so neither side ever reads half of one, a killed side finds
its place again, and both may stand on different machines that share a disk. Numbers are epochs.
"""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from zsei.checkpoint.contracts import Message
from zsei.errors import OutputError, UsageError

Box = Literal["requests", "decisions", "applied", "reports"]
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths of a run, and its mail."""

    path: Path

    @property
    def state(self) -> Path:
        """What the analysis keeps between checkpoints."""
        return self.path / "state"

    @property
    def end(self) -> Path:
        """A file that says the run is over: what waits is answered, then the analysis leaves."""
        return self.path / "end"

    @property
    def log(self) -> Path:
        """What happened, a line of JSON each."""
        return self.path / "log.jsonl"

    def snapshot(self, epoch: int) -> Path:
        """The weights of an epoch."""
        return self.path / "snapshots" / f"{epoch:06d}.safetensors"

    def file(self, box: Box, epoch: int) -> Path:
        """A message of an epoch."""
        return self.path / box / f"{epoch:06d}.json"

    def epochs(self, box: Box) -> list[int]:
        """Epochs that have a message in a box, rising."""
        return sorted(
            int(path.stem) for path in (self.path / box).glob("*.json") if path.stem.isdigit()
        )

    def send(self, box: Box, epoch: int, message: Message) -> Path:
        """Put a message into a box, whole; one that is there already is replaced.

        Raises:
            OutputError: The folder cannot be written.
        """
        path = self.file(box, epoch)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with draft.open("w", encoding="utf-8") as file:
                file.write(message.model_dump_json())
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError as error:
            raise OutputError(
                f"A message must be written whole, and `{path.name}` in {path.parent} cannot be "
                f"({error.strerror or error}). Free the disk or grant the permission."
            ) from error
        finally:
            draft.unlink(missing_ok=True)
        return path

    def read(self, box: Box, epoch: int, kind: type[M]) -> M | None:
        """The message of an epoch; None when there is none.

        Raises:
            UsageError: It is no such message, or of a version that is not known.
        """
        path = self.file(box, epoch)
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (ValidationError, UnicodeDecodeError) as error:
            raise UsageError(
                f"`{path.name}` in {path.parent} must be a {kind.__name__}; "
                f"{said_of(error)}. Write it again, or take it away."
            ) from error


def said_of(error: Exception) -> str:
    """What is wrong with a message, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the whole"
    rest = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {first['msg']}{rest}"
