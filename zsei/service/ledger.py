"""What was asked and answered in all runs: the runs' folders, and an index of them in memory.

A request lies in its run's folder before anybody is told that it was taken, and its decision before
anybody can read it; so a service that was killed finds every request that has no decision.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    Message,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.letters import letters
from zsei.checkpoint.run_folder import Box, RunFolder
from zsei.errors import OutputError, ZseiError
from zsei.service.problems import Refused

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the letters about a request lie."""

    run: str
    epoch: int
    weights: str


@dataclass(eq=False, kw_only=True)
class Ledger:
    """All requests, by their ids. Safe to use from several threads."""

    runs: Path
    """Holds a folder for each run."""
    _places: dict[str, Place] = field(default_factory=dict, init=False)
    _keys: dict[str, str] = field(default_factory=dict, init=False)
    _last: dict[str, int] = field(default_factory=dict, init=False)
    _unsaved: dict[tuple[Box, str], Message] = field(default_factory=dict, init=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False)

    def __post_init__(self) -> None:
        for _, request in self._all("requests", StructuralAnalysisRequest):
            self._note(request)

    def folder(self, run: str) -> RunFolder:
        """The folder of a run."""
        return RunFolder(path=self.runs / run)

    def place(self, request_id: str) -> Place:
        """Where a request lies.

        Raises:
            Refused: Nobody sent it.
        """
        with self._lock:
            place = self._places.get(request_id)
        if place is None:
            raise Refused(
                404, f"No request {request_id[:200]!r} was sent here; POST it to /v1/requests."
            )
        return place

    def is_known(self, request: StructuralAnalysisRequest) -> bool:
        """Whether this very request was taken before.

        Raises:
            Refused: 409, it contradicts one that was.
        """
        with self._lock:
            place = self._places.get(request.request_id)
            owner = self._keys.get(request.idempotency_key)
            last = self._last.get(request.checkpoint.run, 0)
        if place is not None:
            if self.read("requests", request.request_id, StructuralAnalysisRequest) == request:
                return True
            why = f"a request {request.request_id!r} was sent already, and it says something else"
        elif owner is not None:
            why = f"its idempotency key is that of the request {owner!r}"
        elif request.checkpoint.epoch <= last:
            why = (
                f"epochs of a run only go up: {request.checkpoint.run!r} is at {last} and this is "
                f"{request.checkpoint.epoch}"
            )
        else:
            return False
        raise Refused(
            409,
            f"A request is about a checkpoint of its own, but {why}. Send what was sent to have "
            "its answer again; a run that begins anew takes a new name.",
        )

    def take(self, request: StructuralAnalysisRequest) -> None:
        """Keep a request that is not known yet.

        Raises:
            Refused: 409, another one came in between.
            OutputError: It cannot be written.
        """
        with self._lock:
            if self.is_known(request):
                return
            self.folder(request.checkpoint.run).send("requests", request.checkpoint.epoch, request)
            self._note(request)

    def read(self, box: Box, request_id: str, kind: type[M]) -> M | None:
        """A letter about a request; None where there is none yet.

        Raises:
            Refused: Nobody sent that request.
        """
        place = self.place(request_id)
        with self._lock:
            unsaved = self._unsaved.get((box, request_id))
        if isinstance(unsaved, kind):
            return unsaved
        return self.folder(place.run).read(box, place.epoch, kind)

    def finish(self, decision: StructuralPruningDecision, report: AnalysisReport | None) -> None:
        """Keep an answer; what the disk does not take now is kept in memory and tried again."""
        with self._lock:
            if report is not None:
                self._unsaved["reports", report.request_id] = report
            self._unsaved["decisions", decision.request_id] = decision
            for (box, request_id), message in list(self._unsaved.items()):
                place = self._places[request_id]
                try:
                    self.folder(place.run).send(box, place.epoch, message)
                except OutputError:
                    continue
                del self._unsaved[box, request_id]

    def apply(self, report: ApplicationReport) -> bool:
        """Keep what was done with a decision; whether it says something new.

        Raises:
            Refused: 404, the run has no such decision; 409, it was never approved, or the report
                contradicts one before.
            OutputError: It cannot be written.
        """
        with self._lock:
            folder = self.folder(report.run)
            epoch = self._decided(folder, report)
            known = folder.read("applied", epoch, ApplicationReport)
            if known == report:
                return False
            back = known is not None and (known.outcome, report.outcome) == (
                "applied", "rolled back",
            )  # fmt: skip
            if known is not None and not back:
                raise Refused(
                    409,
                    f"What was done is reported once, and {report.decision_id!r} was reported "
                    f"{known.outcome!r} already; only what was applied can be rolled back.",
                )
            folder.send("applied", epoch, report)
            return True

    def unanswered(self) -> list[str]:
        """Requests without a decision, in the order in which they came."""
        found = []
        for run in self._runs():
            folder = self.folder(run)
            for letter in letters(folder, "requests"):
                request = _read(folder, "requests", letter.epoch, StructuralAnalysisRequest)
                decision = _read(folder, "decisions", letter.epoch, StructuralPruningDecision)
                if request and (decision is None or decision.request_id != request.request_id):
                    found.append((letter.place, request.request_id))
        return [request_id for _, request_id in sorted(found)]

    def reports(self) -> Iterator[AnalysisReport]:
        """How all analyses went, run by run."""
        return (report for _, report in self._all("reports", AnalysisReport))

    def decisions(self) -> Iterator[StructuralPruningDecision]:
        """All decisions, run by run."""
        return (decision for _, decision in self._all("decisions", StructuralPruningDecision))

    def needed(self, request_ids: set[str]) -> set[str]:
        """Weights that some requests are about."""
        with self._lock:
            return {self._places[name].weights for name in request_ids}

    def _decided(self, folder: RunFolder, report: ApplicationReport) -> int:
        """Epoch of the decision that is reported about."""
        for epoch in reversed(folder.epochs("decisions")):
            decision = _read(folder, "decisions", epoch, StructuralPruningDecision)
            if decision is None or decision.decision_id != report.decision_id:
                continue
            if report.outcome == "applied" and not decision.approved_for_application:
                raise Refused(
                    409,
                    f"Only what was approved is carried out, and {report.decision_id!r} was not "
                    f"({decision.rejection_reason}); undo it, and report what was approved.",
                )
            return epoch
        raise Refused(
            404,
            f"What was done is reported about a decision of the run, and {report.run!r} has none "
            f"called {report.decision_id[:200]!r}; send the id and the run that it came with.",
        )

    def _note(self, request: StructuralAnalysisRequest) -> None:
        run, epoch = request.checkpoint.run, request.checkpoint.epoch
        self._places[request.request_id] = Place(
            run=run, epoch=epoch, weights=request.checkpoint.weights
        )
        self._keys[request.idempotency_key] = request.request_id
        self._last[run] = max(epoch, self._last.get(run, 0))

    def _runs(self) -> list[str]:
        return sorted(p.name for p in self.runs.glob("*") if (p / "requests").is_dir())

    def _all(self, box: Box, kind: type[M]) -> Iterator[tuple[str, M]]:
        for run in self._runs():
            folder = self.folder(run)
            for epoch in folder.epochs(box):
                message = _read(folder, box, epoch, kind)
                if message is not None:
                    yield run, message


def _read(folder: RunFolder, box: Box, epoch: int, kind: type[M]) -> M | None:
    """A letter, or None where there is none or it is damaged."""
    try:
        return folder.read(box, epoch, kind)
    except (ZseiError, OSError):
        return None
