"""Watches over the workers while they do tasks, from one thread that sleeps in between."""

import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import cloudpickle

from zsei.engines.child import in_words
from zsei.engines.crew import Crew, Worker
from zsei.engines.engine import Done, Limits, Status
from zsei.engines.messages import DONE, MEMORY, READY, TASK, Message

TICK = 0.25
"""Seconds between two looks at workers that are at work."""


class Supervisor:
    """Which tasks wait, which are being done, what came of the others."""

    def __init__(
        self,
        crew: Crew,
        tasks: Sequence[Any],
        limits: Limits,
        pack: Callable[[Any], bytes] = cloudpickle.dumps,
        unpack: Callable[[bytes | bytearray], Any] = cloudpickle.loads,
    ):
        self._crew = crew
        self._pack = pack
        self._unpack = unpack
        self._tasks = list(tasks)
        self._limits = limits
        self._waiting = deque(range(len(self._tasks)))
        self._attempts = [0] * len(self._tasks)
        self._done: dict[int, Done] = {}
        self._deaths_at_start = 0
        self._places = crew.slots
        """How many workers there may be; one less after each that could not be started."""
        self._reason = ""

    def results(self) -> list[Done]:
        """Work until there is a result for every task."""
        while len(self._done) < len(self._tasks):
            if self._crew.closed:
                self._give_up("The engine was closed before the task was done.")
            elif not self._places and not self._crew.workers:
                self._give_up(f"No worker could be started: {self._reason}")
            else:
                self._start_workers(len(self._waiting))
                self._give_tasks()
                self._wait()
                self._look_after()
        return [self._done[number] for number in range(len(self._tasks))]

    def make_ready(self) -> str:
        """Have a worker that waits for a task; or why there can be none."""
        while not any(worker.state == "idle" for worker in self._crew.workers):
            if not self._places and not self._crew.workers:
                return self._reason
            self._start_workers(1)
            self._wait()
            self._look_after()
        return ""

    def _give_up(self, why: str) -> None:
        self._crew.end_all()
        for number in range(len(self._tasks)):
            if number not in self._done:
                self._finish(number, "error", why=why)

    def _finish(self, number: int, status: Status, worker: Worker | None = None, **rest: Any):
        known = {}
        if worker is not None:
            known = {
                "seconds": time.monotonic() - worker.began,
                "peak_memory_bytes": worker.peak,
                "worker": worker.name,
            }
        self._done[number] = Done(
            task=self._tasks[number],
            status=status,
            attempts=self._attempts[number],
            **known,
            **rest,
        )

    def _start_workers(self, wanted: int) -> None:
        workers = self._crew.workers
        free = sum(worker.state != "busy" for worker in workers)
        while free < wanted and len(workers) < self._places:
            try:
                self._crew.start(self._limits.memory_bytes)
            except OSError as error:
                self._could_not_start(in_words(error), final=True)
            else:
                free += 1

    def _could_not_start(self, reason: str, *, final: bool) -> None:
        """What `make` raises it will raise again; a death may have been an accident."""
        self._reason = reason
        self._deaths_at_start += not final
        if final or self._deaths_at_start > self._limits.retries:
            self._places -= 1

    def _give_tasks(self) -> None:
        for worker in list(self._crew.workers):
            if worker.state == "idle" and self._waiting and worker.process.has_ended():
                self._crew.remove(worker)  # before it had this task, which need not know
                continue
            while worker.state == "idle" and self._waiting:
                number = self._waiting.popleft()
                self._attempts[number] += 1
                try:
                    payload = self._pack(self._tasks[number])
                except Exception as error:
                    why = f"The task cannot be sent to a worker ({in_words(error)})."
                    self._finish(number, "error", why=why)
                    continue
                worker.state, worker.task, worker.peak = "busy", number, 0
                worker.began = time.monotonic()
                message = Message(kind=TASK, number=self._limits.memory_bytes, payload=payload)
                worker.process.put(message)

    def _wait(self) -> None:
        """Until a worker says something, or it is time to look after them."""
        workers = self._crew.workers
        if not workers:
            return
        with selectors.PollSelector() as selector:
            for worker in workers:
                channel = worker.process.channel
                events = selectors.EVENT_READ | (selectors.EVENT_WRITE if channel.unsent else 0)
                selector.register(channel.socket, events, worker)
                if worker.process.output is not None:
                    selector.register(worker.process.output, selectors.EVENT_READ, worker)
            heard = {key.data: None for key, _ in selector.select(TICK)}
        for worker in heard:
            self._serve(worker)

    def _serve(self, worker: Worker) -> None:
        worker.process.listen()
        try:
            for message in worker.process.channel.receive():
                self._hear(worker, message)
            worker.process.channel.send()
        except OSError:
            self._bury(worker)

    def _hear(self, worker: Worker, message: Message) -> None:
        worker.peak = max(worker.peak, message.number)
        if worker.state == "starting":
            if message.kind == READY:
                worker.state = "idle"
                return
            self._crew.remove(worker)
            self._could_not_start(str(message.payload, errors="replace"), final=True)
            return
        value, why, status = None, "", "done"
        if message.kind == DONE:
            try:
                value = self._unpack(message.payload)
            except Exception as error:
                status, why = "error", f"What the work returned cannot be read ({in_words(error)})."
        else:
            status = "memory" if message.kind == MEMORY else "error"
            why = str(message.payload, errors="replace")
        if status == "memory":
            self._crew.remove(worker)  # it may hold much still
            self._too_large(worker, why)
            return
        self._finish(worker.task, status, worker, value=value, why=why)
        worker.state, worker.done = "idle", worker.done + 1

    def _look_after(self) -> None:
        """End workers that take too long or are too large; notice those that died unheard."""
        for worker in list(self._crew.workers):
            if worker.state == "idle":
                continue
            worker.peak = max(worker.peak, worker.process.memory())
            if worker.peak > self._limits.memory_bytes:
                self._crew.remove(worker)
                self._too_large(worker, self._limit_of_memory)
            elif worker.process.has_ended():
                self._bury(worker)
            elif time.monotonic() - worker.began > self._time_of(worker):
                self._crew.remove(worker)
                why = f"It took longer than {self._time_of(worker):g} s."
                if worker.state == "starting":
                    self._could_not_start(why, final=False)
                else:
                    self._finish(worker.task, "timeout", worker, why=why)

    def _time_of(self, worker: Worker) -> float:
        starting = worker.state == "starting"
        return self._crew.start_seconds if starting else self._limits.seconds

    @property
    def _limit_of_memory(self) -> str:
        return f"It took more than {self._limits.memory_bytes / 1e9:g} GB of memory."

    def _bury(self, worker: Worker) -> None:
        """What follows from a worker's death."""
        self._crew.remove(worker)
        if worker.process.had_grown_too_large():
            # It ended itself, with nothing more said: it was beyond the limit.
            worker.peak = max(worker.peak, self._limits.memory_bytes + 1)
            self._too_large(worker, self._limit_of_memory)
        elif worker.state == "starting":
            how = worker.process.how_it_ended()
            self._could_not_start(f"it {how}", final=False)
        elif worker.state == "busy":
            if self._attempts[worker.task] <= self._limits.retries:
                self._waiting.appendleft(worker.task)
            else:
                why = f"The worker {worker.process.how_it_ended()}."
                self._finish(worker.task, "crash", worker, why=why)

    def _too_large(self, worker: Worker, why: str) -> None:
        """A worker that had done tasks before may have kept something of them: a fresh one says
        whether it is this task that is too large.
        """
        if worker.state == "starting":
            self._could_not_start(why, final=True)
        elif worker.done and self._attempts[worker.task] <= self._limits.retries:
            self._waiting.appendleft(worker.task)
        else:
            self._finish(worker.task, "memory", worker, why=why)
