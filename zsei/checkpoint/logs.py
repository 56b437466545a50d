"""The log of a run: one line of JSON per event, appended whole or not at all.

Several processes write to one log (training, the analysis beside it, a service), and none may ever
fail or wait because of it: a line is one `write` to a file opened for appending, and whatever goes
wrong is swallowed. When the file has grown to its limit it is moved to `log.jsonl.1`, in the place
of the one before, so a log never takes more than twice the limit.
"""

import contextlib
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout
from pydantic import Field, ValidationError, field_validator

from zsei.records import Record

LIMIT = 16 * 1024**2
"""Bytes of one log file; there are two at most."""
LONGEST = 8000
"""Characters of a text field; what is longer is cut, so that a line stays one write."""


def now() -> str:
    """The time as ISO 8601, in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class Event(Record):
    """Something that happened to a run."""

    event: str
    """A short name such as "analysed", "skipped", "applied"."""
    run: str = ""
    epoch: int | None = None
    why: str = ""
    """In one sentence."""
    numbers: dict[str, float | int | None] = Field(default_factory=dict)
    """What was counted or timed, the unit in the name: "seconds", "parameters". What is no finite
    number is kept as null."""
    level: Literal["info", "warning", "error"] = "info"
    time: str = Field(default_factory=now)

    @field_validator("event", "run", "why", mode="before")
    @classmethod
    def _bounded(cls, value: Any) -> Any:
        return value[:LONGEST] if isinstance(value, str) else value

    @field_validator("numbers", mode="before")
    @classmethod
    def _finite(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        odd = {n: None for n, v in value.items() if isinstance(v, float) and not math.isfinite(v)}
        return {**value, **odd}


def log_event(path: Path, event: Event, *, limit: int = LIMIT) -> bool:
    """Append an event to a log; whether it was written. Never raises and never waits."""
    try:
        line = f"{event.model_dump_json()}\n".encode("utf-8", "replace")
        path.parent.mkdir(parents=True, exist_ok=True)
        _make_room(path, limit - len(line))
        return _append(path, line)
    except Exception:  # a log must not be able to stop what it tells of
        return False


def read_log(path: Path) -> Iterator[Event]:
    """All events, oldest first, those of the file before included; lines that are none are left
    out.
    """
    for file in (before(path), path):
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
        except OSError:
            continue
        for line in lines:
            with contextlib.suppress(ValidationError):
                yield Event.model_validate_json(line)


def told(event: Event) -> str:
    """An event in one line, for a terminal."""
    from zsei.report.text import number, one_line

    words = [event.event if event.epoch is None else f"epoch {event.epoch}: {event.event}"]
    if event.why:
        words.append(f"- {event.why}")
    if event.numbers:
        words.append(f"({', '.join(f'{n} {number(v)}' for n, v in event.numbers.items())})")
    return one_line(" ".join(words), LONGEST)


def before(path: Path) -> Path:
    """The file that an older part of the log was moved to."""
    return path.with_name(f"{path.name}.1")


def _append(path: Path, line: bytes) -> bool:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        written = os.write(descriptor, line)
        if written == len(line):
            return True
        # The disk is full: half a line would spoil the next one. Unless somebody wrote since.
        end = os.lseek(descriptor, 0, os.SEEK_CUR)
        if os.fstat(descriptor).st_size == end:
            os.ftruncate(descriptor, end - written)
        return False
    finally:
        os.close(descriptor)


def _make_room(path: Path, most: int) -> None:
    """Move the log away when it is larger than `most` bytes; one process does it, the others
    write on meanwhile, and what they write lands in the moved file, whole.
    """
    if not _is_larger(path, most):
        return
    with contextlib.suppress(Timeout), FileLock(f"{path}.lock", timeout=0):
        if _is_larger(path, most):  # another process may just have done it
            path.replace(before(path))


def _is_larger(path: Path, most: int) -> bool:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return False
    return size > 0 and size > most
