"""The one interface between the analysis of checkpoints and whatever runs its workers.

An engine holds workers, gives each task to one of them, and watches over them: a task that takes
too long or a worker that grows too large is stopped, a worker that died is started again and its
task tried once more. It knows nothing of what tasks mean, and decides nothing about what stands in
for a task that could not be done. What comes back is in the order of the tasks, whoever did them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

Work = Callable[[Any], Any]
"""What a worker does with a task: lives in the worker, made there once by `MakeWork`."""
MakeWork = Callable[[], Work]
"""Makes a worker's `Work` in the worker's own process; picklable with cloudpickle."""
Status = Literal["done", "error", "timeout", "memory", "crash"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one try of one task may take."""

    seconds: float = 300.0
    memory_bytes: int = 4_000_000_000
    """Resident memory of a worker."""
    retries: int = 1
    """How often a task is tried again whose worker died."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What became of one task."""

    task: Any
    status: Status
    value: Any = None
    """What the work returned; None unless `status` is "done"."""
    why: str = ""
    """What went wrong, in one line; of "error" the exception raised, as "Type: message"."""
    attempts: int = 1
    seconds: float = 0.0
    """Of the last try. A clock's word: only for timings."""
    peak_memory_bytes: int = 0
    """Of the worker, as far as seen. Only for timings."""
    worker: str = ""
    """Name of the worker; no part of any record."""


class Engine(Protocol):
    """Runs tasks in workers."""

    @property
    def name(self) -> str:
        """`local` or `ray`."""
        ...

    @property
    def workers(self) -> int:
        """How many tasks can run at once."""
        ...

    @property
    def shares_disk(self) -> bool:
        """Whether workers can read the files that the caller can. Where they cannot, what they need
        of a file goes into the task.
        """
        ...

    def run(self, tasks: Sequence[Any], limits: Limits) -> list[Done]:
        """Do all tasks; one result each, in their order. Raises nothing but an interrupt."""
        ...

    def close(self) -> None:
        """Stop all workers. Calling it twice does nothing more."""
        ...
