"""The circuit breaker: after three failures in a row nothing is decided until a person says so.

It guards decisions that change something (a prune, an edit during training); an analysis that only
looks is not stopped. Its state is one small file in the user's memory folder, shared by all
processes that decide there.

What counts: a verdict *failed* (something broke), an exception while deciding, and a rollback are
failures. *Accepted* is a success and begins the count anew. *Rejected*, *inapplicable* and
*inconclusive* are the gate doing its work: they neither count nor begin anew.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import Field, ValidationError

from zsei.errors import OutputError
from zsei.gate.audit import audited, find_verdict
from zsei.gate.judge import refused
from zsei.records import Record, Verdict

FAILURES = 3
"""Failures in a row that open the breaker."""
_FILE, _DAMAGED = "breaker.json", "breaker.damaged.json"


class Breaker(Record):
    """The state of the breaker, as it stands in its file."""

    failures: int = Field(default=0, ge=0)
    """Failures since the last success, or since it was closed."""
    open: bool = False
    """Whether every decision is refused."""
    reasons: tuple[str, ...] = ()
    """What failed, oldest first."""

    def text(self) -> str:
        """The state as a sentence."""
        if self.open:
            told = "; ".join(self.reasons) or "no reason was kept"
            return f"the circuit breaker is open: {told}. `zsei breaker close` closes it"
        return f"the circuit breaker is closed, {self.failures} of {FAILURES} failures in a row"


def read_breaker(home: Path) -> Breaker:
    """The state now. No file is a closed breaker; a file that cannot be read is an open one."""
    path = home / _FILE
    try:
        return Breaker.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Breaker()
    except (OSError, ValidationError) as error:
        why = error.strerror or str(error) if isinstance(error, OSError) else "it is damaged"
        reason = f"its file `{path.name}` cannot be read ({why}), so nothing says that it is closed"
        return Breaker(failures=FAILURES, open=True, reasons=(reason,))


def note_failure(home: Path, reason: str) -> Breaker:
    """Count one failure; the third in a row opens the breaker. Gives the state after it.

    Raises:
        OutputError: When it cannot be written down.
    """
    with _locked(home):
        now = read_breaker(home)
        if now.open:
            return now
        failures = now.failures + 1
        return _write(
            home,
            Breaker(
                failures=failures, open=failures >= FAILURES, reasons=(*now.reasons, reason[:300])
            ),
        )


def note_success(home: Path) -> Breaker:
    """Begin the count anew. An open breaker stays open. Gives the state after it.

    Raises:
        OutputError: When it cannot be written down.
    """
    with _locked(home):
        now = read_breaker(home)
        return now if now.open or not now.failures else _write(home, Breaker())


def close_breaker(home: Path) -> Breaker:
    """Close the breaker; only the command `zsei breaker close` calls this. Gives the state before.

    A damaged file is kept beside the new one.

    Raises:
        OutputError: When it cannot be written down.
    """
    with _locked(home):
        before = read_breaker(home)
        path = home / _FILE
        try:
            Breaker.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            pass
        except ValidationError:
            path.replace(home / _DAMAGED)
        _write(home, Breaker())
        return before


def note_verdict(home: Path, verdict: Verdict) -> Breaker:
    """Count a verdict that was made: *failed* as a failure, *accepted* as a success."""
    if verdict.outcome == "failed":
        return note_failure(home, verdict.reason)
    return note_success(home) if verdict.outcome == "accepted" else read_breaker(home)


def decide_once(
    home: Path, key: str, proposal_id: str, decide: Callable[[], Verdict], note: str = ""
) -> Verdict:
    """One decision behind breaker and audit log.

    A key that is in the log gives its first verdict, also while the breaker is open, and counts no
    second time. Otherwise an open breaker refuses (*inapplicable*, and not filed, so that the same
    decision can be asked again once it is closed); else `decide` makes the verdict, which is filed
    and counted.

    Args:
        home: The memory folder; the log is `audit.jsonl` in it.
        key: The decision's idempotency key (`zsei.gate.audit.audit_key`).
        proposal_id: What is decided about.
        decide: Makes the verdict.
        note: What the log is to remember with it.

    Raises:
        MemoryDamaged: When a line of the log cannot be read.
        OutputError: When log or breaker cannot be written.
    """
    log = home / "audit.jsonl"
    first = find_verdict(log, key)
    if first is not None:
        return first
    now = read_breaker(home)
    if now.open:
        return refused("inapplicable", proposal_id, now.text())
    made: list[Verdict] = []

    def make() -> Verdict:
        try:
            made.append(decide())
        except Exception as error:
            note_failure(home, f"{type(error).__name__}: {error}")
            raise
        return made[0]

    verdict = audited(log, key, make, note)
    if made and verdict is made[0]:  # else another process filed its own first, and counted it
        note_verdict(home, verdict)
    return verdict


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    try:
        home.mkdir(parents=True, exist_ok=True)
        with FileLock(home / f"{_FILE}.lock"):
            yield
    except OSError as error:
        raise OutputError(
            f"The circuit breaker must be written down before anything else is decided; `{_FILE}` "
            f"cannot be written ({error.strerror or error}). Free the disk or grant the permission."
        ) from error


def _write(home: Path, state: Breaker) -> Breaker:
    draft = home / f".{_FILE}.{secrets.token_hex(4)}"
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(state.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        draft.replace(home / _FILE)
    finally:
        draft.unlink(missing_ok=True)
    return state
