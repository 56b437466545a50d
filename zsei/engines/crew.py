"""The worker processes of this machine's engine: who they are and what each is at."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from zsei.engines.messages import WORK, Message
from zsei.engines.process import WorkerProcess


@dataclass(kw_only=True, eq=False)
class Worker:
    """One worker and what it is at."""

    name: str
    process: WorkerProcess
    state: Literal["starting", "idle", "busy"] = "starting"
    began: float = field(default_factory=time.monotonic)
    """When its start or its task began."""
    task: int = -1
    """Number of the task it is at."""
    done: int = 0
    """Tasks it has done."""
    peak: int = 0
    """Its largest memory seen since its task began, in bytes."""


@dataclass(kw_only=True, eq=False)
class Crew:
    """The workers of one engine."""

    make: bytes
    """What makes the work, pickled."""
    slots: int
    """Workers at most."""
    priority: Literal["idle", "normal"]
    threads: int
    start_seconds: float
    """How long a worker may take until its work is made."""
    path: Sequence[str]
    """Where modules are looked for."""
    folder: str
    """Where workers run, if there is such a folder on their machine."""
    workers: list[Worker] = field(default_factory=list)
    closed: bool = False

    def start(self, memory_bytes: int) -> None:
        """Start one worker more.

        Raises:
            OSError: No process can be started.
        """
        taken = {worker.name for worker in self.workers}
        names = (f"local-{number}" for number in range(1, self.slots + 1))
        name = next(name for name in names if name not in taken)
        process = WorkerProcess(
            priority=self.priority, threads=self.threads, path=self.path, folder=self.folder
        )
        self.workers.append(Worker(name=name, process=process))
        process.put(Message(kind=WORK, number=memory_bytes, payload=self.make))

    def remove(self, worker: Worker) -> None:
        """End a worker."""
        worker.process.end()
        self.workers.remove(worker)

    def kill_all(self) -> None:
        """Have all workers die; `end_all` still has to follow."""
        for worker in list(self.workers):
            worker.process.kill()

    def end_all(self) -> None:
        """End all workers."""
        while self.workers:
            self.remove(self.workers[-1])
