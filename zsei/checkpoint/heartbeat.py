"""A sign of life of the analysis beside a run: a small file that is written anew all the time."""

import _thread
import contextlib
import os
import platform
import signal
import threading
import time
from dataclasses import dataclass, field
from typing import Literal

import psutil
from pydantic import Field, ValidationError

from zsei.checkpoint.logs import now
from zsei.checkpoint.run_folder import RunFolder
from zsei.records import Record

FILE = "worker.json"
SECONDS = 5.0
"""Between two signs of life; who has heard nothing for several times as long, thinks it gone."""
GRACE = 20.0
"""Seconds in which it may leave by itself after it was told to."""


class Heartbeat(Record):
    """What the analysis beside a run is doing."""

    pid: int
    host: str
    state: Literal["idle", "busy", "gone"] = "idle"
    started: str
    """When, ISO 8601 in UTC."""
    at: str
    """When this was written."""
    epoch: int | None = None
    """The one it is at, or was at last."""
    answered: int = Field(default=0, ge=0)
    skipped: int = Field(default=0, ge=0)
    """Requests that a newer one made needless."""
    failed: int = Field(default=0, ge=0)
    """Requests among the answered ones that no analysis could be made for."""


def read_heartbeat(folder: RunFolder) -> Heartbeat | None:
    """The last sign of life; None when there is none."""
    try:
        return Heartbeat.model_validate_json((folder.state / FILE).read_bytes())
    except (OSError, ValidationError):
        return None


@dataclass(eq=False, kw_only=True)
class Pulse:
    """Writes the signs of life while it is open, and looks whether whom it serves still lives.

    When that process is gone, the main thread gets SIGTERM; unless the run has said that it is
    over, for then what waits is still answered.
    """

    folder: RunFolder
    parent: int | None = None
    """Process id; None: nobody is served in particular."""
    last: Heartbeat = field(init=False)
    _left: threading.Event = field(default_factory=threading.Event, init=False)

    def __post_init__(self) -> None:
        self.last = Heartbeat(pid=os.getpid(), host=platform.node(), started=now(), at=now())

    def __enter__(self) -> "Pulse":
        self.beat()
        threading.Thread(target=self._watch, name="pulse", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self.beat(state="gone")

    def beat(self, **changed: object) -> None:
        """Write a sign of life, with what has changed. Never raises: it must not stop the work."""
        self.last = self.last.model_copy(update={**changed, "at": now()})
        path = self.folder.state / FILE
        draft = path.with_name(f".{FILE}.{os.getpid()}.{threading.get_ident()}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(self.last.model_dump_json(), encoding="utf-8")
            draft.replace(path)

    def _watch(self) -> None:
        parent, beaten = _process(self.parent), time.monotonic()
        while not self._left.wait(min(1.0, SECONDS)):
            if time.monotonic() - beaten >= SECONDS:
                self.beat()
                beaten = time.monotonic()
            if self.parent is None or _lives(parent) or self.folder.end.exists():
                continue
            _thread.interrupt_main(signal.SIGTERM)
            if not self._left.wait(GRACE):
                os._exit(1)  # whatever holds the main thread up, nobody waits for it any more


def _process(pid: int | None) -> psutil.Process | None:
    try:
        return None if pid is None else psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _lives(process: psutil.Process | None) -> bool:
    try:
        return (
            process is not None
            and process.is_running()
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except psutil.Error:
        return False


def lower_priority() -> None:
    """Run only when nobody else wants to: training goes first. Where that cannot be, go on."""
    with contextlib.suppress(OSError, AttributeError):
        os.nice(19)
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
