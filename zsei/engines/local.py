"""The local engine: worker processes on this machine."""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cloudpickle

from zsei.engines.child import in_words
from zsei.engines.crew import Crew
from zsei.engines.engine import Done, Limits, MakeWork
from zsei.engines.supervise import Supervisor
from zsei.errors import UsageError

START_SECONDS = 600.0
"""Seconds a worker has for making its work: loading a model, tracing it."""


class LocalEngine:
    """Worker processes on this machine (`zsei.engines.engine.Engine`).

    Started when there are tasks, as many as there are tasks at most, and kept until `close`. A
    worker that is idle costs no processor time.
    """

    name = "local"
    shares_disk = True

    def __init__(
        self,
        make: MakeWork,
        *,
        workers: int,
        priority: Literal["idle", "normal"] = "idle",
        threads: int = 1,
        start_seconds: float = START_SECONDS,
    ):
        """An engine without a worker yet.

        Args:
            make: Called once in each worker.
            workers: Tasks that may run at once.
            priority: `idle`: workers run when nothing else wants the processor.
            threads: Of the numerical libraries in a worker.
            start_seconds: How long a worker may take until its work is made.

        Raises:
            UsageError: No workers, no processes of this kind on this system, or `make` cannot be
                sent to another process.
        """
        if os.name != "posix":
            raise UsageError(
                "Workers need a POSIX system: Linux, macOS, or WSL on Windows. Start it there."
            )
        self._crew = crew_for(
            make,
            workers,
            slots=workers,
            priority=priority,
            threads=threads,
            start_seconds=start_seconds,
        )
        self._lock = threading.RLock()

    @property
    def workers(self) -> int:
        """How many tasks can run at once."""
        return self._crew.slots

    def run(self, tasks: Sequence[Any], limits: Limits) -> list[Done]:
        """Do all tasks; one result each, in their order. Raises nothing but an interrupt."""
        with self._lock:
            try:
                return Supervisor(self._crew, tasks, limits).results()
            except BaseException:
                self._crew.end_all()  # nobody waits any more for what they are at
                raise

    def close(self) -> None:
        """Stop all workers, also from another thread. Calling it twice does nothing more."""
        self._crew.closed = True
        self._crew.kill_all()
        with self._lock:
            self._crew.end_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def crew_for(
    make: MakeWork,
    workers: int,
    *,
    slots: int,
    priority: Literal["idle", "normal"],
    threads: int,
    start_seconds: float,
) -> Crew:
    """A crew that can stand here or, sent there, on another machine.

    Raises:
        UsageError: `make` cannot be pickled, or there are no workers to send it to.
    """
    if workers < 1:
        raise UsageError(f"An engine needs 1 worker or more; got {workers}.")
    try:
        pickled = cloudpickle.dumps(make)
    except Exception as error:
        raise UsageError(
            f"What workers are made with is sent to other processes, so it must be picklable; got "
            f"one that is not ({in_words(error)}). Leave out open files, locks, threads and live "
            "connections, or give a function that opens them in the worker."
        ) from error
    here = str(Path.cwd())
    return Crew(
        make=pickled,
        slots=slots,
        priority=priority,
        threads=threads,
        start_seconds=start_seconds,
        path=[entry or here for entry in sys.path],
        folder=here,
    )
