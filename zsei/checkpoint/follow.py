"""The analysis beside a training run: answers the requests in its folder, newest first.

    python -m zsei.checkpoint.follow RUN [--engine local|ray] [--address ...] [--workers N]

reads the `Job` (cloudpickle) from its standard input until that is closed, and then follows RUN.
It gives way to everything else on the machine, and leaves with the process that started it, or once
the run's `end` file is there and nothing waits any more. Whatever goes wrong here is logged and
answered with a decision that approves nothing: training neither waits for it nor fails with it.
"""

import argparse
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    Message,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.heartbeat import Pulse, lower_priority
from zsei.checkpoint.job import Job
from zsei.checkpoint.letters import Letter, Letters, choose, receive, refusal
from zsei.checkpoint.logs import Event, log_event
from zsei.checkpoint.run_folder import Box, RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.locate import snapshot_of
from zsei.checkpoint.words import in_words
from zsei.checkpoint.worker import OpenWorker
from zsei.errors import OutputError, ZseiError
from zsei.records import AnalysisRecord

PAUSE = 0.25
"""Seconds between two looks into the folder."""


class Answered(Protocol):
    """What an analyst makes of a request."""

    @property
    def decision(self) -> StructuralPruningDecision:
        """The answer."""
        ...

    @property
    def report(self) -> AnalysisReport:
        """How the analysis went."""
        ...

    @property
    def record(self) -> AnalysisRecord | None:
        """What was found; None where nothing was measured."""
        ...


class Answers(Protocol):
    """The analyst (`zsei.checkpoint.analyst.Analyst`), as far as it is asked here."""

    def answer(self, request: StructuralAnalysisRequest, snapshot: Snapshot) -> Answered:
        """Analyse a checkpoint and decide."""
        ...

    def heard(self, report: ApplicationReport) -> None:
        """Take note of what was done with a decision."""
        ...


@dataclass(eq=False, kw_only=True)
class Follower:
    """Where the analysis of a run stands with the mail in its folder."""

    folder: RunFolder
    job: Job
    analyst: Answers
    pulse: Pulse
    root: Path | None = None
    """Folder that requests name weights in; None is the run's own."""
    prefix: str = ""
    """As in `Snapshot.prefix`."""
    on_answer: Callable[[StructuralPruningDecision, Answered | None], None] | None = None
    """Told of each answer once it is sent; None in the place of an analysis that failed."""
    _letters: Letters = field(init=False)
    _unsent: dict[tuple[Box, int], Message] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._letters = Letters(folder=self.folder)

    def step(self) -> bool:
        """Hear what was done, and answer one request; whether there was one.

        What was done is listed after the requests: a request may rest on what was done before it,
        never the other way round.
        """
        for (box, epoch), message in list(self._unsent.items()):
            self._send(box, epoch, message)
        waiting = self._letters.waiting()
        self._hear()
        if not waiting:
            return False
        there = {a.epoch for a in waiting if self.folder.snapshot(a.epoch).exists()}
        chosen = choose(waiting, self.job.config.run.decide_every, there)
        for letter in waiting:
            if letter.place < chosen.place:
                self._log("skipped", letter.epoch, f"Epoch {chosen.epoch} is analysed instead.")
                self.pulse.beat(skipped=self.pulse.last.skipped + 1)
        self._answer(chosen)
        self._letters.answered(chosen)
        return True

    def _answer(self, letter: Letter) -> None:
        begin = time.monotonic()
        self.pulse.beat(state="busy", epoch=letter.epoch)
        decision, answered = self._analysed(letter)
        report = None if answered is None else answered.report
        # The report goes first: who has read the decision finds it there.
        if report is not None:
            self._send("reports", letter.epoch, report)
            took = {"seconds": round(time.monotonic() - begin, 3), "confidence": report.confidence}
            self._log("analysed", letter.epoch, in_words(decision), numbers=took)
        self._send("decisions", letter.epoch, decision)
        last = self.pulse.last
        failed = last.failed + (report is None)
        self.pulse.beat(state="idle", answered=last.answered + 1, failed=failed)
        if self.on_answer is not None:
            self.on_answer(decision, answered)

    def _analysed(self, letter: Letter) -> tuple[StructuralPruningDecision, Answered | None]:
        try:
            request = receive(self.folder, letter)
            snapshot = snapshot_of(self.root or self.folder.path, request, prefix=self.prefix)
            answered = self.analyst.answer(request, snapshot)
            return answered.decision, answered
        except Exception as error:
            # Of whatever kind: one checkpoint without an analysis is better than none from now on.
            self._log("failed", letter.epoch, said(error), level="error")
            return refusal(self.folder, letter, self.job, said(error)), None

    def _hear(self) -> None:
        for epoch, report in self._letters.unheard():
            made = {"parameters": report.parameters}
            self._log(report.outcome, epoch, report.reason, numbers=made)
            try:
                self.analyst.heard(report)
            except Exception as error:
                self._log("failed", epoch, said(error), level="error")

    def _send(self, box: Box, epoch: int, message: Message) -> None:
        """Send, or keep what could not be sent for the next time (the disk may be full)."""
        try:
            self.folder.send(box, epoch, message)
            self._unsent.pop((box, epoch), None)
        except OutputError as error:
            if (box, epoch) not in self._unsent:
                self._log("unsent", epoch, str(error), level="error")
            self._unsent[box, epoch] = message

    def _log(
        self,
        event: str,
        epoch: int,
        why: str,
        *,
        level: Literal["info", "error"] = "info",
        numbers: Mapping[str, float | int] | None = None,
    ) -> None:
        log_event(
            self.folder.log,
            Event(
                event=event, run=self.job.run, epoch=epoch, why=why, level=level,
                numbers={**(numbers or {})},
            ),
        )  # fmt: skip


def follow(follower: Follower) -> None:
    """Answer what comes, until the run is over and nothing waits any more."""
    while True:
        over = follower.folder.end.exists()  # before the look: so what was sent before it is seen
        if not follower.step():
            if over:
                return
            time.sleep(PAUSE)


def said(error: BaseException) -> str:
    """What went wrong, in a sentence: of our own errors theirs, of others their kind as well."""
    if isinstance(error, ZseiError):
        return str(error)
    return f"The analysis stopped with {type(error).__name__}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Follow the folder that the command line names, with the job on standard input."""
    given = _arguments(arguments)
    folder = RunFolder(path=given.run.resolve())
    if given.priority == "idle":
        lower_priority()
    # Ctrl-C at a terminal reaches the whole group, and what it means is for training to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Pulse(folder=folder, parent=given.parent or os.getppid()) as pulse:
            job = pickle.loads(sys.stdin.buffer.read())  # from the process that started this one
            _follow(folder, job, pulse, given)
    except KeyboardInterrupt:
        log_event(
            folder.log, Event(event="left", why="The process it served is gone, or told it to.")
        )
    except Exception as error:
        log_event(folder.log, Event(event="stopped", why=said(error), level="error"))
        print(f"zsei: {said(error)}", file=sys.stderr)
        return 1
    return 0


def _follow(folder: RunFolder, job: Job, pulse: Pulse, given: argparse.Namespace) -> None:
    from zsei.checkpoint.analyst import Analyst
    from zsei.engines.open import open_engine

    workers = given.workers or min(job.config.elesh.analysis_workers_per_gpu, os.cpu_count() or 1)
    engine = open_engine(
        given.engine, OpenWorker(job=job), workers=workers, address=given.address,
        priority=given.priority, threads=job.threads,
    )  # fmt: skip
    try:
        follower = Follower(
            folder=folder, job=job, analyst=Analyst(folder, job, engine), pulse=pulse
        )  # fmt: skip
        _note(folder, "started", job.run, f"Analysis in {workers} {engine.name} workers.")
        follow(follower)
        _note(folder, "ended", job.run, "The run is over, and nothing waits any more.")
    finally:
        engine.close()


def _note(folder: RunFolder, event: str, run: str, why: str) -> None:
    log_event(folder.log, Event(event=event, run=run, why=why))


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m zsei.checkpoint.follow")
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--address", help="of the Ray cluster")
    parser.add_argument("--priority", choices=("idle", "normal"), default="idle")
    parser.add_argument("--workers", type=int, help="worker processes")
    parser.add_argument("--parent", type=int, help="process to leave with, if not the one above")
    return parser.parse_args(given)


if __name__ == "__main__":
    sys.exit(main())
