"""Follows a folder of checkpoints that somebody else writes, and has each analysed in turn.

Each checkpoint becomes a request in a run's folder, which is then answered as those of a training
run are (`zsei.checkpoint.follow`). The folder itself is only read.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from torch import Tensor

from zsei.checkpoint.contracts import (
    AnalysisParameters,
    ApplicationReport,
    CheckpointMetadata,
    PerformanceRequirements,
    PrunedArchitecture,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
    request_key,
)
from zsei.checkpoint.follow import Answered, Answers, Follower
from zsei.checkpoint.heartbeat import Pulse
from zsei.checkpoint.job import Job
from zsei.checkpoint.letters import letters
from zsei.checkpoint.logs import Event, log_event
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.weights.count import (
    Counted,
    begin,
    epoch_of,
    in_order,
    in_words,
    load_counted,
    save_counted,
    seen,
)
from zsei.checkpoint.weights.find import Found, find_checkpoints
from zsei.checkpoint.weights.fit import Frame, why_not_fit
from zsei.checkpoint.weights.settle import Settling
from zsei.checkpoint.weights.snapshot import prefix_of, read_weights
from zsei.errors import ZseiError
from zsei.records import digest


class Listener(Protocol):
    """Whom a watch tells what happens."""

    def answered(
        self, found: Found, decision: StructuralPruningDecision, answer: Answered | None
    ) -> None:
        """A checkpoint was analysed; no answer where no analysis could be made."""
        ...

    def skipped(self, found: Found, why: str) -> None:
        """A checkpoint is not analysed."""
        ...

    def noted(self, what: str) -> None:
        """Something to know about the whole folder."""
        ...


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a watch goes on, and how often it looks."""

    once: bool = False
    """Only what lies there now."""
    until_idle: float | None = None
    """Seconds without anything new after which it ends; None: never."""
    every: float = 2.0
    """Seconds between two looks."""


@dataclass(eq=False, kw_only=True)
class Watch:
    """A folder of checkpoints, and how far its analysis has come."""

    folder: Path
    run: RunFolder
    job: Job
    analyst: Answers
    frame: Frame
    listener: Listener
    settling: Settling = field(default_factory=Settling)
    analysed: int = field(default=0, init=False)
    skipped: int = field(default=0, init=False)
    counted: Counted = field(init=False)

    def __post_init__(self) -> None:
        self.counted = load_counted(self.run, self.folder)

    def look(self, pulse: Pulse) -> tuple[bool, bool]:
        """Look once; (whether anything new was seen, whether something is still waited for)."""
        found = find_checkpoints(self.folder)
        if self.counted.by is None and found:
            self.counted = begin(self.counted, found)
            if words := in_words(self.counted):
                self.listener.noted(words)
        ready, news, waits = self._ready(found)
        if self.job.config.run.mode != "observe":
            # A decision about a model as it was some time ago would come too late.
            self._pass_over(ready[:-1])
            ready = ready[-1:]
        for at in ready:
            self._take(at, pulse)
        return news, waits

    def _ready(self, found: tuple[Found, ...]) -> tuple[list[Found], bool, bool]:
        """(new checkpoints that are whole, in order; whether any is new; whether one is waited
        for). What comes after that one waits too: taken first, it would make the other too late.
        """
        ready: list[Found] = []
        new, waits = in_order(self.counted, found), False
        for at in new:
            state = self.settling.look(at)
            if state == "damaged":
                self._skip(at, f"it is damaged, or not written to its end: {self.settling.why(at)}")
            elif state == "waiting":
                waits = True
            elif state == "ready" and not waits:
                ready.append(at)
        return ready, bool(new), waits

    def _take(self, at: Found, pulse: Pulse) -> None:
        epoch = epoch_of(self.counted, at)
        if isinstance(epoch, str):
            self._skip(at, epoch)
            return
        every = self.job.config.run.every
        if epoch % every and epoch != 1:
            self._set(seen(self.counted, at, epoch))
            return
        try:
            weights = read_weights(Snapshot(epoch=epoch, path=at.path))
        except ZseiError as error:
            gone = not at.path.exists()
            self._skip(at, "it was taken away before it could be read." if gone else str(error))
            return
        prefix = prefix_of(weights, self.frame.shapes)
        request = self._request(at, epoch)
        cut = bool(set(request.architecture.applied) - set(request.architecture.masked))
        why = "" if cut else why_not_fit(self.frame, _without(weights, prefix))
        del weights
        if why:
            self._skip(at, f"it is of another architecture: {why}")
            return
        self._answer(at, epoch, request, prefix, pulse)

    def _answer(
        self, at: Found, epoch: int, request: StructuralAnalysisRequest, prefix: str, pulse: Pulse
    ) -> None:
        told: list[tuple[StructuralPruningDecision, Answered | None]] = []
        follower = Follower(
            folder=self.run, job=self.job, analyst=self.analyst, pulse=pulse, root=self.folder,
            prefix=prefix, on_answer=lambda decision, answer: told.append((decision, answer)),
        )  # fmt: skip
        self.run.send("requests", epoch, request)
        follower.step()
        self._set(seen(self.counted, at, epoch))
        for decision, answer in told:
            self.analysed += answer is not None
            self.listener.answered(at, decision, answer)

    def _request(self, at: Found, epoch: int) -> StructuralAnalysisRequest:
        applied, masked, parameters = standing(self.run)
        architecture = PrunedArchitecture(
            model_class=self.frame.model_class,
            parameters=parameters or self.frame.parameters,
            original_parameters=self.frame.parameters,
            shapes=self.frame.shapes if not applied else {},
            applied=applied,
            masked=masked,
        )
        name = f"{epoch}-{digest([at.name, [list(part) for part in at.stamp]])}"
        config = self.job.config.run
        return StructuralAnalysisRequest(
            request_id=name,
            idempotency_key=request_key(
                epoch=epoch, architecture_hash=digest(architecture), request_id=name
            ),
            checkpoint=CheckpointMetadata(
                run=self.job.run, epoch=epoch, step=at.step, weights=at.name
            ),
            architecture=architecture,
            parameters=AnalysisParameters(mode=config.mode),
            requirements=PerformanceRequirements(
                timeout_seconds=config.checkpoint_window, memory_gigabytes=config.memory_gigabytes
            ),
        )

    def _skip(self, at: Found, why: str) -> None:
        self.skipped += 1
        self._set(seen(self.counted, at, None))
        log_event(self.run.log, Event(event="skipped", run=self.job.run, why=f"{at.name}: {why}"))
        self.listener.skipped(at, why)

    def _pass_over(self, older: list[Found]) -> None:
        if not older:
            return
        counted = self.counted
        for at in older:
            counted = seen(counted, at, None)
        self._set(counted)
        self.skipped += len(older)
        why = f"{len(older)} older checkpoints are left out: decisions are about the newest."
        log_event(self.run.log, Event(event="skipped", run=self.job.run, why=why))
        self.listener.noted(why)

    def _set(self, counted: Counted) -> None:
        self.counted = counted
        save_counted(self.run, counted)


def watch(
    watched: Watch,
    pace: Pace,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Have each checkpoint of a folder analysed as it comes, in order.

    One that is half written is waited for. One that is damaged, of another architecture, or of an
    epoch that is not later than the last is told once and left out.

    Raises:
        UsageError: The folder is gone.
        OutputError: The run's folder cannot be written.
    """
    with Pulse(folder=watched.run) as pulse:
        last = clock()
        while True:
            news, waits = watched.look(pulse)
            if news or waits:
                last = clock()
            if pace.once and not waits:
                return
            if pace.until_idle is not None and clock() - last >= pace.until_idle:
                return
            sleep(min(pace.every, 0.5) if waits else pace.every)


def standing(run: RunFolder) -> tuple[tuple[str, ...], tuple[str, ...], int | None]:
    """(decisions that were carried out and stand, those of them whose units are held at zero,
    parameters afterwards or None), as the run's reports say.
    """
    applied: list[str] = []
    masked: set[str] = set()
    parameters = None
    for letter in letters(run, "applied"):
        try:
            report = run.read("applied", letter.epoch, ApplicationReport)
        except (ZseiError, OSError):
            continue
        if report is None or report.outcome not in ("applied", "rolled back"):
            continue
        parameters = report.parameters
        if report.outcome == "rolled back":
            applied = [name for name in applied if name != report.decision_id]
        elif report.decision_id not in applied:
            applied.append(report.decision_id)
            if _mode(run, report.decision_id) == "mask":
                masked.add(report.decision_id)
    return tuple(applied), tuple(name for name in applied if name in masked), parameters


def _mode(run: RunFolder, decision_id: str) -> str:
    for epoch in run.epochs("decisions"):
        try:
            decision = run.read("decisions", epoch, StructuralPruningDecision)
        except (ZseiError, OSError):
            continue
        if decision is not None and decision.decision_id == decision_id:
            return decision.mode
    return "remove"


def _without(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
