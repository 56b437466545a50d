"""The mail in a run's folder that nobody has seen to yet.

What is newer is told by when it was written, not by its epoch: a run that was started again from an
earlier checkpoint sends lower epochs later. Only one side writes each kind of letter, so its times
compare.
"""

import json
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from zsei.checkpoint.contracts import (
    ApplicationReport,
    RequestName,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.job import Job
from zsei.checkpoint.run_folder import Box, RunFolder
from zsei.checkpoint.schedule import phase_of
from zsei.errors import UsageError, ZseiError
from zsei.records import digest

_ID: TypeAdapter[str] = TypeAdapter(RequestName)
HEARD = "heard.json"
"""Which reports of a run were heard: an epoch and an idempotency key each."""


@dataclass(frozen=True, kw_only=True)
class Letter:
    """A request as a file, before anybody has read it."""

    epoch: int
    place: tuple[int, int]
    """When it was written (ns) and its epoch: its place among all."""


@dataclass(eq=False, kw_only=True)
class Letters:
    """What was seen to of a run's mail; a new one finds it out from the folder."""

    folder: RunFolder
    _last: tuple[int, int] = field(default=(-1, -1), init=False)
    _heard: set[tuple[int, str]] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        for letter in letters(self.folder, "requests"):
            if letter.place > self._last and _is_answered(self.folder, letter.epoch):
                self._last = letter.place
        try:
            heard = json.loads((self.folder.state / HEARD).read_text(encoding="utf-8"))
            self._heard = {(int(epoch), str(key)) for epoch, key in heard}
        except (OSError, ValueError, TypeError):
            pass  # none was heard, or the file is damaged: hearing one again changes nothing

    def waiting(self) -> list[Letter]:
        """Requests since the one that was answered last, oldest first."""
        return [a for a in letters(self.folder, "requests") if a.place > self._last]

    def answered(self, letter: Letter) -> None:
        """Take note that this one, and all before it, need no answer any more."""
        self._last = max(self._last, letter.place)

    def unheard(self) -> list[tuple[int, ApplicationReport]]:
        """What was done with decisions and was not told yet, in the order it was written; each is
        told once, over restarts too. One that cannot be read is left out.
        """
        found: list[tuple[int, ApplicationReport]] = []
        for letter in letters(self.folder, "applied"):
            try:
                report = self.folder.read("applied", letter.epoch, ApplicationReport)
            except (ZseiError, OSError):
                continue
            if report is not None and (letter.epoch, report.idempotency_key) not in self._heard:
                self._heard.add((letter.epoch, report.idempotency_key))
                found.append((letter.epoch, report))
        if found:
            self._keep()
        return found

    def _keep(self) -> None:
        path = self.folder.state / HEARD
        draft = path.with_name(f".{HEARD}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(sorted(self._heard)), encoding="utf-8")
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)  # a full disk: it will be heard again after a restart


def letters(folder: RunFolder, box: Box) -> list[Letter]:
    """All letters of a box, by when they were written."""
    found = []
    for epoch in folder.epochs(box):
        try:
            written = folder.file(box, epoch).stat().st_mtime_ns
        except OSError:
            continue  # taken away meanwhile
        found.append(Letter(epoch=epoch, place=(written, epoch)))
    return sorted(found, key=lambda letter: letter.place)


def choose(waiting: Sequence[Letter], every: int, there: Collection[int] = ()) -> Letter:
    """Which of several requests is answered: the newest one at whose epoch something may be cut
    (each `every` epochs), where its weights are still there; else the newest of all.

    So an analysis that is slower than training skips epochs, but not those that decide.

    Args:
        waiting: Requests, oldest first; at least one.
        every: Epochs from one decision to the next.
        there: Epochs whose weights are still there.
    """
    deciding = [a for a in waiting if a.epoch % every == 0 and a.epoch in there]
    return deciding[-1] if deciding else waiting[-1]


def receive(folder: RunFolder, letter: Letter) -> StructuralAnalysisRequest:
    """Read a request.

    Raises:
        UsageError: It is none, of another version, or of another epoch than its name says.
    """
    request = folder.read("requests", letter.epoch, StructuralAnalysisRequest)
    name = folder.file("requests", letter.epoch).name
    if request is None:
        raise UsageError(f"A request must stay until it is answered, and {name} is gone.")
    if request.checkpoint.epoch != letter.epoch:
        raise UsageError(
            f"A request lies under its epoch, and {name} is about epoch "
            f"{request.checkpoint.epoch}. Send it again under its own."
        )
    return request


def refusal(folder: RunFolder, letter: Letter, job: Job, why: str) -> StructuralPruningDecision:
    """The answer to a request that no analysis could be made for: nothing may be done."""
    request_id = _request_id(folder.file("requests", letter.epoch))
    name = digest(["refused", job.run, letter.epoch, request_id, why])
    epochs = job.config.elesh.structured_pruning.safety_schedule.epochs
    return StructuralPruningDecision(
        decision_id=f"d-{name}",
        idempotency_key=f"{letter.epoch}::d-{name}:conservative",
        request_id=request_id,
        run=job.run,
        epoch=letter.epoch,
        safety=SafetyValidation(phase=phase_of(letter.epoch, epochs)),
        depth="none",
        confidence=0.0,
        fallbacks=(why,),
        rejection_reason=why,
    )


def _request_id(path: Path) -> str:
    """The id in what may be no request; "unknown" when there is none that could be answered."""
    try:
        return _ID.validate_python(json.loads(path.read_bytes())["request_id"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "unknown"


def _is_answered(folder: RunFolder, epoch: int) -> bool:
    """Whether the decision of an epoch is about the request that lies there now."""
    try:
        decision = folder.read("decisions", epoch, StructuralPruningDecision)
    except (ZseiError, OSError):
        return False
    return decision is not None and decision.request_id == _request_id(
        folder.file("requests", epoch)
    )
