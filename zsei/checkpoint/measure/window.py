"""The time and memory that one checkpoint may take of an engine, and what it took."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import PerformanceRequirements
from zsei.engines.engine import Done, Engine, Limits


@dataclass(eq=False, kw_only=True)
class Window:
    """Opens when it is made, and counts what runs in it."""

    engine: Engine
    wanted: PerformanceRequirements
    config: CheckpointConfig
    _begin: float = field(default_factory=time.monotonic, init=False)
    _done: list[Done] = field(default_factory=list, init=False)

    @property
    def seconds(self) -> float:
        """How long it stays open: what the request and the configuration both grant."""
        return min(self.wanted.timeout_seconds, self.config.run.checkpoint_window)

    @property
    def used(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._begin

    @property
    def left(self) -> float:
        """Seconds until it closes; below 0 once it is closed."""
        return self.seconds - self.used

    @property
    def retries(self) -> int:
        """Tries of tasks beyond the first."""
        return sum(max(0, done.attempts - 1) for done in self._done)

    @property
    def peak_memory_bytes(self) -> int:
        """Largest resident memory of a worker."""
        return max((done.peak_memory_bytes for done in self._done), default=0)

    def run(self, tasks: Sequence[Any], *, until: float = 1.0, least: float = 0.0) -> list[Done]:
        """Do tasks, each with so much time that all of them fit in.

        Args:
            tasks: What to do.
            until: Share of the window that must not be passed.
            least: Seconds each task gets at least, be the window closed or not.

        Returns:
            One result per task. An engine that is gone gives a "crash" for each.
        """
        if not tasks:
            return []
        turns = math.ceil(len(tasks) / max(1, self.engine.workers))
        share = (until * self.seconds - self.used) / turns
        seconds = max(least, min(self.config.elesh.analysis_timeout, share))
        if seconds <= 0:
            return [Done(task=task, status="timeout", why="the window is over") for task in tasks]
        memory = min(self.wanted.memory_gigabytes, self.config.run.memory_gigabytes)
        limits = Limits(
            seconds=seconds, memory_bytes=int(memory * 1e9), retries=self.config.run.retries
        )
        try:
            done = self.engine.run(tasks, limits)
        except Exception as error:  # an engine promises not to; a run must not end because one did
            why = f"the engine is gone ({type(error).__name__}: {error})"
            done = [Done(task=task, status="crash", why=why) for task in tasks]
        self._done += done
        return done
