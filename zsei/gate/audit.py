"""The audit log: one line of JSON per verdict, appended, never changed.

A verdict is filed under `{epoch}:{model_hash}:{decision_id}:{level}`. Asking again with a key that
is there gives the first verdict, so a decision replayed after a crash is not made twice.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from zsei.errors import MemoryDamaged, OutputError
from zsei.records import Record, Verdict
from zsei.settings import SafetyLevel

_CROSSED_OUT = "\x18"
"""Ends a line that was cut short while it was written (the control character for "cancel")."""


class AuditEntry(Record):
    """One line of the log."""

    key: str
    verdict: Verdict
    note: str = ""
    """What the caller wants to be remembered with it, such as when and by whom."""


def audit_key(*, epoch: int, model_hash: str, decision_id: str, level: SafetyLevel) -> str:
    """The idempotency key of a decision."""
    return f"{epoch}:{model_hash}:{decision_id}:{level}"


def audited(path: Path, key: str, decide: Callable[[], Verdict], note: str = "") -> Verdict:
    """The verdict filed under `key`; when there is none, `decide` makes one and it is filed.

    The line is on the disk (fsync) before the verdict is returned. Two processes may decide at
    once; the first to file wins and both return its verdict.

    Raises:
        MemoryDamaged: When a line of the log cannot be read.
        OutputError: When the log cannot be written.
    """
    first = find_verdict(path, key)
    if first is not None:
        return first
    verdict = decide()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            first = find_verdict(path, key)
            if first is not None:
                return first
            _append(path, AuditEntry(key=key, verdict=verdict, note=note))
    except OSError as error:
        raise OutputError(
            f"Every verdict must be in the audit log before it counts; `{path.name}` cannot be "
            f"written ({error.strerror or error}). Free the disk or grant the permission."
        ) from error
    return verdict


def read_audit(path: Path) -> Iterator[AuditEntry]:
    """All entries, oldest first; none when there is no log.

    A last line without an end is a write that was cut short: it never counted and is left out.
    """
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    for number, line in enumerate(text.split("\n")[:-1], 1):
        if line.endswith(_CROSSED_OUT):
            continue
        try:
            yield AuditEntry.model_validate_json(line)
        except ValidationError as error:
            raise MemoryDamaged(
                f"Every line of the audit log is one entry; line {number} of `{path.name}` is not "
                f"({error.error_count()} errors). Restore the file from a copy or move it away."
            ) from error


def find_verdict(path: Path, key: str) -> Verdict | None:
    """The verdict filed under `key`; None when there is none.

    Raises:
        MemoryDamaged: When a line of the log before it cannot be read.
    """
    return next((entry.verdict for entry in read_audit(path) if entry.key == key), None)


def _append(path: Path, entry: AuditEntry) -> None:
    line = json.dumps(entry.model_dump(mode="json"), sort_keys=True, allow_nan=False) + "\n"
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            if file.read(1) != b"\n":
                # A write was cut short here. Nothing is erased: the stump is crossed out.
                line = f"{_CROSSED_OUT}\n{line}"
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())
