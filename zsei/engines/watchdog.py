"""Inside a worker: ends it when it grows too large, and when nobody waits for it any more."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MEMORY_EXIT = 86
"""Exit code of a worker that ended itself because it had grown too large."""
INTERVAL = 0.05
"""Seconds between two looks; at some GB/s a worker grows by a few hundred MB meanwhile."""


class Watchdog:
    """A thread that looks at its own process while something is being done, and sleeps otherwise.

    Where native code holds the interpreter's lock it cannot look; the parent's own look at the
    worker, and `die_with`, still work then.
    """

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._parent = os.getppid()
        self._busy = threading.Event()
        self._limit = sys.maxsize
        self.peak = 0
        """Largest resident memory seen since the last begin, in bytes."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextmanager
    def over(self, memory_bytes: int) -> Iterator[None]:
        """End the process with `MEMORY_EXIT` if it passes a resident memory meanwhile."""
        self._limit = memory_bytes or sys.maxsize
        self.peak = 0
        self.look()
        self._busy.set()
        try:
            yield
        finally:
            self._busy.clear()
        self.look()

    def look(self) -> None:
        """One look, and what follows from it."""
        resident = self._process.memory_info().rss
        self.peak = max(self.peak, resident)
        if resident > self._limit:
            os._exit(MEMORY_EXIT)
        if os.getppid() != self._parent:
            os.killpg(0, signal.SIGKILL)  # what the work itself has started goes too

    def _watch(self) -> None:
        while True:
            self._busy.wait()
            self.look()
            time.sleep(INTERVAL)


def die_with(lifeline: int) -> None:
    """Have the kernel kill this process's group when the other end of a pipe is closed.

    The parent holds the other end and never writes, so it closes when the parent is gone, however
    it went; no thread of ours need run for it, so a worker that hangs in native code dies as well.
    Linux alone can do this. Elsewhere a worker notices at its next message, or by its watchdog.
    `PR_SET_PDEATHSIG` would not do: it is sent when the *thread* that started the worker ends.
    """
    if not sys.platform.startswith("linux"):
        return
    import fcntl

    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


def stand_back() -> None:
    """Run only when nothing else wants the processor or the disk: training has the right of way."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        os.nice(19)
    with suppress(AttributeError, psutil.Error, OSError):  # not every system orders its disk
        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)
