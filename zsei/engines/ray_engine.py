"""The Ray engine: the same workers, on the machines of a Ray cluster.

Each place in the cluster is an actor that holds one worker process and watches over it with the
code of the local engine, so time, memory and death are handled alike there. What is added here is
what only a cluster knows: a machine that goes away, and its task that is done on another.
"""

import shutil
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import cloudpickle

from zsei.engines.child import in_words
from zsei.engines.engine import Done, Limits, MakeWork, Status
from zsei.engines.local import START_SECONDS, crew_for
from zsei.engines.ray_cluster import Post, import_ray, join, start

TICK = 1.0
"""Seconds between two looks at the clock while nothing is heard."""
GRACE = 60.0
"""Seconds a place may take beyond what its own worker may: the network, and starting again."""


@dataclass(kw_only=True, eq=False)
class _Place:
    """An actor and what it is at."""

    name: str
    actor: Any
    answer: Any
    """Reference to what it is asked now; None when it waits for a task."""
    task: int | None = None
    """Number of the task it is at; None while it starts."""
    began: float = field(default_factory=time.monotonic)


class RayEngine:
    """Worker processes in a Ray cluster (`zsei.engines.engine.Engine`)."""

    name = "ray"

    def __init__(
        self,
        make: MakeWork,
        *,
        workers: int,
        address: str | None = None,
        priority: Literal["idle", "normal"] = "idle",
        threads: int = 1,
        start_seconds: float = START_SECONDS,
        shares_disk: bool | None = None,
    ):
        """Connect to a cluster, or start one on this machine.

        Args:
            make: Called once in each worker.
            workers: Tasks that may run at once, where the cluster has the processors.
            address: Of the cluster (`host:port`, `auto`, `ray://...`); None starts one here, or
                uses the one this process is connected to.
            priority: `idle`: workers run when nothing else on their machine wants the processor.
            threads: Of the numerical libraries in a worker; it reserves that many processors.
            start_seconds: How long a worker may take until its work is made, and how long to wait
                for a free processor.
            shares_disk: Whether all machines see the files of this one; None: only where the
                cluster was started here.

        Raises:
            UsageError: Ray is not installed, no cluster answers at the address, no workers, or
                `make` cannot be sent to another process.
            ZseiError: A cluster was to be started here and did not come up.
        """
        self._ray = import_ray()
        crew = crew_for(
            make,
            workers,
            slots=1,
            priority=priority,
            threads=threads,
            start_seconds=start_seconds,
        )
        self._slots = workers
        self._threads = threads
        self.start_seconds = start_seconds
        self._started = not self._ray.is_initialized()
        self._folder: Path | None = None
        if self._started and address is None:
            self._folder = start(self._ray, workers * threads)
        elif self._started:
            assert address is not None
            join(self._ray, address)
        self._shares_disk = shares_disk if shares_disk is not None else address is None
        self._crew = self._ray.put(crew)
        self._places: list[_Place] = []
        self._lock = threading.RLock()
        self._closed = False

    @property
    def workers(self) -> int:
        """How many tasks can run at once."""
        return self._slots

    @property
    def shares_disk(self) -> bool:
        """Whether workers can read the files that the caller can."""
        return self._shares_disk

    def run(self, tasks: Sequence[Any], limits: Limits) -> list[Done]:
        """Do all tasks; one result each, in their order. Raises nothing but an interrupt."""
        with self._lock:
            try:
                return _Round(self, tasks, limits).results()
            except BaseException:
                self._end_all()
                raise

    def close(self) -> None:
        """Stop all workers, and the cluster if it was started here. Twice does nothing more."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._end_all()
            if self._started:
                self._ray.shutdown()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self, limits: Limits) -> None:
        taken = {place.name for place in self._places}
        names = (f"ray-{number}" for number in range(1, self._slots + 1))
        # Never restarted by Ray: a machine that is gone is replaced by whichever has room.
        options = {"num_cpus": self._threads, "max_restarts": 0, "max_task_retries": 0}
        actor = self._ray.remote(**options)(Post).remote(self._crew)
        answer = actor.make_ready.remote(limits)
        name = next(name for name in names if name not in taken)
        self._places.append(_Place(name=name, actor=actor, answer=answer))

    def _remove(self, place: _Place) -> None:
        self._ray.kill(place.actor)
        self._places.remove(place)

    def _end_all(self) -> None:
        while self._places:
            self._remove(self._places[-1])


class _Round:
    """One call of `run`: which tasks wait, which are being done, what came of the others."""

    def __init__(self, engine: RayEngine, tasks: Sequence[Any], limits: Limits):
        self._engine = engine
        self._ray = engine._ray
        self._tasks = list(tasks)
        self._limits = limits
        self._waiting = deque(range(len(self._tasks)))
        self._attempts = [0] * len(self._tasks)
        """Tries whose place was lost."""
        self._done: dict[int, Done] = {}
        self._losses_at_start = 0
        self._slots = engine.workers
        self._reason = ""

    def results(self) -> list[Done]:
        """Work until there is a result for every task."""
        while len(self._done) < len(self._tasks):
            if self._engine._closed:
                self._give_up("The engine was closed before the task was done.")
            elif not self._slots and not self._engine._places:
                self._give_up(f"No worker could be started: {self._reason}")
            else:
                try:
                    self._start_places()
                    self._give_tasks()
                    self._wait()
                except Exception as error:
                    self._give_up(f"The Ray cluster was lost ({in_words(error)}).")
        return [self._done[number] for number in range(len(self._tasks))]

    def _give_up(self, why: str) -> None:
        for number in range(len(self._tasks)):
            if number not in self._done:
                self._finish(number, "error", why)
        self._engine._places.clear()

    def _finish(self, number: int, status: Status, why: str) -> None:
        task, attempts = self._tasks[number], self._attempts[number]
        self._done[number] = Done(task=task, status=status, why=why, attempts=attempts)

    def _start_places(self) -> None:
        places = self._engine._places
        free = sum(place.task is None for place in places)
        while free < len(self._waiting) and len(places) < self._slots:
            self._engine._start(self._limits)
            free += 1

    def _give_tasks(self) -> None:
        for place in self._engine._places:
            while place.answer is None and self._waiting:
                number = self._waiting.popleft()
                try:
                    payload = cloudpickle.dumps(self._tasks[number])
                except Exception as error:
                    self._attempts[number] += 1
                    why = f"The task cannot be sent to a worker ({in_words(error)})."
                    self._finish(number, "error", why)
                    continue
                left = replace(self._limits, retries=self._limits.retries - self._attempts[number])
                place.task, place.began = number, time.monotonic()
                place.answer = place.actor.run.remote(payload, left)

    def _wait(self) -> None:
        """Until a place answers, or it is time to look at the clock."""
        asked = {place.answer: place for place in self._engine._places if place.answer is not None}
        if not asked:
            return
        answered, _ = self._ray.wait(list(asked), timeout=TICK)
        for answer in answered:
            place = asked.pop(answer)
            try:
                said = self._ray.get(answer)
            except Exception as error:
                self._lost(place, in_words(error))
            else:
                self._hear(place, said)
        for place in asked.values():
            if time.monotonic() - place.began > self._time_of(place):
                self._lost(place, f"nothing was heard of it for {self._time_of(place):g} s")

    def _time_of(self, place: _Place) -> float:
        tries = self._limits.retries + 1
        start = self._engine.start_seconds * tries
        return start + GRACE + (0 if place.task is None else self._limits.seconds * tries)

    def _hear(self, place: _Place, said: Any) -> None:
        place.answer = None
        if place.task is None:
            if said:
                self._engine._remove(place)
                self._could_not_start(said, final=True)
            return
        number, place.task = place.task, None
        done = replace(
            said,
            task=self._tasks[number],
            attempts=self._attempts[number] + said.attempts,
            worker=place.name,
        )
        if done.status == "done":
            try:
                done = replace(done, value=cloudpickle.loads(done.value))
            except Exception as error:
                why = f"What the work returned cannot be read ({in_words(error)})."
                done = replace(done, status="error", value=None, why=why)
        self._done[number] = done

    def _lost(self, place: _Place, why: str) -> None:
        """A place that is gone, with its machine or alone."""
        self._engine._remove(place)
        if place.task is None:
            self._could_not_start(why, final=False)
            return
        self._attempts[place.task] += 1
        if self._attempts[place.task] <= self._limits.retries:
            self._waiting.appendleft(place.task)
        else:
            self._finish(place.task, "crash", f"Its place in the cluster was lost ({why}).")

    def _could_not_start(self, reason: str, *, final: bool) -> None:
        self._reason = reason
        self._losses_at_start += not final
        if final or self._losses_at_start > self._limits.retries:
            self._slots -= 1
