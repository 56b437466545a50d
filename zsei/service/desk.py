"""Answers requests one at a time, in a thread of its own: whoever asks never waits for it."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.follow import Answers, said
from zsei.checkpoint.letters import Letters
from zsei.checkpoint.logs import Event
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.words import in_words
from zsei.service.ledger import Ledger
from zsei.service.problems import Refused
from zsei.service.tally import Tally

State = Literal["waiting", "running"]


class Analyst(Answers, Protocol):
    """Who analyses the checkpoints of one run."""

    def close(self) -> None:
        """Put away what is open."""
        ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a desk needs to know of the work itself."""

    open_analyst: Callable[[RunFolder], Analyst]
    """Called in the thread that analyses. One analyst is open at a time: of the run that asked
    last."""
    snapshot: Callable[[StructuralAnalysisRequest], Snapshot]
    """The checkpoint of a request. Raises `ZseiError` or `Refused` where there is none."""
    refuse: Callable[[StructuralAnalysisRequest, str], StructuralPruningDecision]
    """The answer where none could be made: nothing may be done, and why."""
    log: Callable[[RunFolder, Event], None]


@dataclass(eq=False, kw_only=True)
class Desk:
    """The requests that wait, and the thread that answers them."""

    ledger: Ledger
    parts: Parts
    most: int = 64
    """Requests that may wait."""
    tally: Tally = field(default_factory=Tally, init=False)
    _waiting: deque[str] = field(default_factory=deque, init=False)
    _running: str | None = field(default=None, init=False)
    _told: deque[str] = field(default_factory=deque, init=False)
    """Runs that reported something."""
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False)
    _leaving: bool = field(default=False, init=False)
    _open: tuple[str, Analyst] | None = field(default=None, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        reports = {report.request_id: report for report in self.ledger.reports()}
        for decision in self.ledger.decisions():
            self.tally.count(decision, reports.get(decision.request_id))
        self._waiting.extend(self.ledger.unanswered())

    def start(self) -> None:
        """Begin to answer, first of all what waits since the service was here last."""
        # A daemon: a process that is told to leave does not wait minutes for an analysis, which is
        # done again by the next one.
        self._thread = threading.Thread(target=self._work, name="desk", daemon=True)
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        """Take nothing more, finish what is running if that takes no longer; whether it did."""
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        if self._thread is None:
            return True
        self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def is_running(self) -> bool:
        """Whether requests are answered."""
        return self._thread is not None and self._thread.is_alive() and not self._leaving

    def ask(self, request: StructuralAnalysisRequest) -> StructuralPruningDecision | None:
        """Take a request; its decision, where it was asked before and is answered.

        Raises:
            Refused: 404, 409, 429 or 503, with the reason.
            OutputError: It cannot be written.
        """
        if not self.ledger.is_known(request):
            with self._changed:  # so that no more are taken than may wait
                if not self.ledger.is_known(request):
                    self._check_room()
                    self.parts.snapshot(request)
                    self.ledger.take(request)
                    self._waiting.append(request.request_id)
                    self._changed.notify_all()
        return self.ledger.read("decisions", request.request_id, StructuralPruningDecision)

    def report(self, report: ApplicationReport) -> bool:
        """Take what was done with a decision; whether it says something new.

        Raises:
            Refused: 404 or 409, with the reason.
            OutputError: It cannot be written.
        """
        new = self.ledger.apply(report)
        if new:
            with self._changed:
                self._told.append(report.run)
                self._changed.notify_all()
        return new

    def report_of(self, request_id: str) -> AnalysisReport | None:
        """How the analysis for a request went; None while it has no decision.

        Raises:
            Refused: 404, nobody sent it, or no analysis could be made.
        """
        report = self.ledger.read("reports", request_id, AnalysisReport)
        decision = self.ledger.read("decisions", request_id, StructuralPruningDecision)
        if report is None and decision is not None:
            raise Refused(404, f"No analysis could be made: {decision.rejection_reason}")
        return report

    def standing(self, request_id: str) -> tuple[State, int]:
        """How it stands with a request that has no decision, and how many come before it."""
        with self._changed:
            if request_id == self._running:
                return "running", 0
            ahead = self._waiting.index(request_id) if request_id in self._waiting else 0
            return "waiting", ahead + (self._running is not None)

    @property
    def waiting(self) -> int:
        """Requests that wait, the one that is analysed not counted."""
        return len(self._waiting)

    @property
    def running(self) -> str | None:
        """The request that is analysed."""
        return self._running

    def needed(self) -> set[str]:
        """Weights that requests without a decision are about."""
        with self._changed:
            names = {*self._waiting, *([self._running] if self._running else [])}
        return self.ledger.needed(names)

    def _check_room(self) -> None:
        if self._leaving:
            raise Refused(
                503,
                "The service is being stopped and takes no more; ask the one that follows.",
                headers={"Retry-After": "10"},
            )
        if len(self._waiting) >= self.most:
            raise Refused(
                429,
                f"At most {self.most} requests wait at a time, and as many do; ask again later.",
                headers={"Retry-After": "10"},
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._leaving or self._told or self._waiting)
                if self._leaving:
                    break
                run = self._told.popleft() if self._told else None
                if run is None:
                    self._running = self._waiting.popleft()
            if run is not None:
                self._hear(run)
            elif self._running is not None:
                try:
                    self._answer(self._running)
                except Exception as error:  # its file is damaged: it stays for who mends it
                    self._log(self._folder(self._running), "failed", "", why=said(error))
                with self._changed:
                    self._running = None
        self._close()

    def _answer(self, request_id: str) -> None:
        folder = self._folder(request_id)
        request = self.ledger.read("requests", request_id, StructuralAnalysisRequest)
        assert request is not None
        self._log(folder, "began", request_id)
        decision, report = self._analysed(folder, request)
        self.ledger.finish(decision, report)
        self.tally.count(decision, report)
        numbers = {} if report is None else {"seconds": report.seconds}
        self._log(folder, "answered", request_id, why=in_words(decision), numbers=numbers)

    def _analysed(
        self, folder: RunFolder, request: StructuralAnalysisRequest
    ) -> tuple[StructuralPruningDecision, AnalysisReport | None]:
        try:
            snapshot = self.parts.snapshot(request)
            answered = self._analyst(folder).answer(request, snapshot)
            return answered.decision, answered.report
        except Exception as error:
            # Of whatever kind: one checkpoint without an analysis is better than none from now on.
            self._log(folder, "failed", request.request_id, why=said(error), level="error")
            return self.parts.refuse(request, said(error)), None

    def _hear(self, run: str) -> None:
        folder = self.ledger.folder(run)
        try:
            self._analyst(folder)
            self._catch_up(folder)
        except Exception as error:
            self._log(folder, "failed", "", why=said(error), level="error")

    def _analyst(self, folder: RunFolder) -> Analyst:
        """The analyst of a run, who knows all that was reported."""
        run = folder.path.name
        if self._open is None or self._open[0] != run:
            self._close()
            self._open = run, self.parts.open_analyst(folder)
        self._catch_up(folder)
        return self._open[1]

    def _catch_up(self, folder: RunFolder) -> None:
        assert self._open is not None
        for epoch, report in Letters(folder=folder).unheard():
            self.parts.log(
                folder,
                Event(event=report.outcome, run=report.run, epoch=epoch, why=report.reason),
            )
            try:
                self._open[1].heard(report)
            except Exception as error:
                self._log(folder, "failed", "", why=said(error), level="error")

    def _folder(self, request_id: str) -> RunFolder:
        return self.ledger.folder(self.ledger.place(request_id).run)

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _log(
        self,
        folder: RunFolder,
        event: str,
        request_id: str,
        *,
        why: str = "",
        level: Literal["info", "error"] = "info",
        numbers: Mapping[str, float] | None = None,
    ) -> None:
        place = self.ledger.place(request_id) if request_id else None
        self.parts.log(
            folder,
            Event(
                event=event, run=folder.path.name, epoch=place.epoch if place else None,
                why=why or request_id, level=level, numbers={**(numbers or {})},
            ),
        )  # fmt: skip
