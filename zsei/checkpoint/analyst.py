"""The analysis of a training run's checkpoints: from a request to a decision.

`Analyst.answer` is the table of contents of this stage: each step is a file.
"""

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.decide.deciding import decided, stage_of
from zsei.checkpoint.decide.filing import filed, not_approved
from zsei.checkpoint.decide.numbering import Cut
from zsei.checkpoint.decide.standing import standing_of
from zsei.checkpoint.history.observing import Observed, as_it_began, observed
from zsei.checkpoint.history.trends import trends
from zsei.checkpoint.job import Job
from zsei.checkpoint.ledger import (
    Ledger,
    check_order,
    successes,
    with_decision,
    with_report,
    with_standing,
)
from zsei.checkpoint.measure.accuracy import ranking_accuracy
from zsei.checkpoint.measure.measuring import Measured, carried, measure_checkpoint, not_measured
from zsei.checkpoint.measure.window import Window
from zsei.checkpoint.record import checkpoint_record
from zsei.checkpoint.reporting import kept_in_memory, record_before, report_of
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.state import (
    KeptAnswer,
    State,
    kept_answer,
    load_state,
    save_ledger,
    save_state,
)
from zsei.checkpoint.tasks import Snapshot
from zsei.engines.engine import Engine
from zsei.errors import OutputError, UsageError, ZseiError
from zsei.gate.breaker import note_failure, note_success
from zsei.records import AnalysisRecord, Finding, Measurement

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What comes of a request."""

    decision: StructuralPruningDecision
    report: AnalysisReport
    record: AnalysisRecord | None = None
    """None where nothing was measured, or for an answer that was given before."""


@dataclass(eq=False)
class Analyst:
    """Answers the requests of one training run, one after the other.

    All it knows is in the run's folder, so another one that is opened there goes on where this one
    was ended, in whatever way.

    Raises:
        UsageError: The folder is that of another run.
    """

    folder: RunFolder
    job: Job
    engine: Engine
    _state: State = field(init=False)
    _last: KeptAnswer | None = field(default=None, init=False)
    _unsaid: list[str] = field(default_factory=list, init=False)
    """What went wrong between two checkpoints; the next answer says it."""
    _uncounted: list[str] = field(default_factory=list, init=False)
    """Failures that could not be written into the breaker's file yet."""

    def __post_init__(self) -> None:
        self._state, notes = load_state(self.folder.state, self.job.run, self.job.config.elesh)
        self._unsaid += notes

    def answer(self, request: StructuralAnalysisRequest, snapshot: Snapshot) -> Answered:
        """Analyse a checkpoint and decide what is cut.

        A request that was answered before gets the same answer, and nothing is done for it.
        Whatever is wrong with the checkpoint, the workers or the disk is in the answer, which then
        approves nothing.

        Raises:
            UsageError: The request is of another run, or of an epoch that is not later than all
                before it.
        """
        self._check_run(request.checkpoint.run)
        known = self._answered_before(request)
        if known is not None:
            return Answered(decision=known.decision, report=known.report)
        check_order(self._state.ledger, request.checkpoint.epoch)
        self._count_failures()
        window = Window(engine=self.engine, wanted=request.requirements, config=self.job.config)
        measured, seen, snapshot = self._looked_at(window, request, snapshot)
        decision, asked = self._decided(window, request, snapshot, measured, seen)
        accuracy = _accuracy(measured)
        record = self._guarded(
            lambda: self._recorded(window, request, decision, measured, seen, accuracy), None
        )
        ledger = self._after(seen, measured, request, decision, record, asked=asked)
        report = report_of(
            request, decision, measured, window, ledger, self.job.config, record=record,
            accuracy=accuracy, fallbacks=tuple(dict.fromkeys((*decision.fallbacks, *self._unsaid))),
        )  # fmt: skip
        answer = KeptAnswer(request_key=request.idempotency_key, decision=decision, report=report)
        return self._kept(answer, replace(seen.state, ledger=ledger), record)

    def heard(self, report: ApplicationReport) -> None:
        """Take note of what the run did with a decision. Told twice, nothing changes.

        A cut that was put back is forgotten, counts as a failure of the circuit breaker and puts
        the schedule back to where it was decided.

        Raises:
            UsageError: The report is of another run, or of a decision that was never approved.
        """
        self._check_run(report.run)
        ledger, put_back = with_report(self._state.ledger, report)
        if put_back:
            self._uncounted.append(f"rolled back at epoch {report.epoch}: {report.reason}")
        self._count_failures()
        self._state = replace(self._state, ledger=ledger)
        try:
            save_ledger(self.folder.state, ledger)
        except OutputError as error:
            self._unsaid.append(str(error))

    def close(self) -> None:
        """Stop the engine's workers."""
        self.engine.close()

    def _check_run(self, run: str) -> None:
        if run != self.job.run:
            raise UsageError(
                f"This analysis is of the run `{self.job.run}`, and what arrived is of `{run}`. "
                "Start one for that run, with a folder of its own."
            )

    def _answered_before(self, request: StructuralAnalysisRequest) -> KeptAnswer | None:
        kept = kept_answer(self.folder.state, request.checkpoint.epoch)
        for known in (self._last, kept):  # the last may not have come to the disk
            if known is not None and known.request_key == request.idempotency_key:
                return known
        return None

    def _looked_at(
        self, window: Window, request: StructuralAnalysisRequest, snapshot: Snapshot
    ) -> tuple[Measured, Observed, Snapshot]:
        """What was measured, what it says beside the checkpoints before, and of which weights."""
        ledger = with_standing(self._state.ledger, request.architecture.applied)
        try:
            standing = standing_of(self.folder, ledger, request, snapshot)
            snapshot = carried(standing.snapshot, shares_disk=self.engine.shares_disk)
            original = {"original": request.architecture.original_parameters}
            ledger = ledger.model_copy(update=original)
            levels = request.parameters.levels
            measured = measure_checkpoint(window, snapshot, ledger, levels, self.job.config)
            return measured, self._observed(measured, standing.cuts, request), snapshot
        except Exception as error:
            # Whatever it was: a run that goes on without an analysis beats one that lost its own.
            measured = not_measured(ledger, _said(error))
            return measured, self._observed(measured, (), request), snapshot

    def _observed(
        self, measured: Measured, cuts: tuple[Cut, ...], request: StructuralAnalysisRequest
    ) -> Observed:
        wanted = stage_of(measured.ledger, request.checkpoint.epoch, self.job.config).wanted
        return observed(self._state, measured, cuts, request, wanted, self.job.config)

    def _decided(
        self,
        window: Window,
        request: StructuralAnalysisRequest,
        snapshot: Snapshot,
        measured: Measured,
        seen: Observed,
    ) -> tuple[StructuralPruningDecision, bool]:
        """The decision, filed; and whether a cut was chosen for it."""
        stage = stage_of(measured.ledger, request.checkpoint.epoch, self.job.config)
        seen = replace(seen, notes=(*self._unsaid, *seen.notes))
        decision, asked = decided(window, snapshot, request, measured, seen, stage, self.job)
        return filed(self.job.settings.home, decision), asked

    def _recorded(
        self,
        window: Window,
        request: StructuralAnalysisRequest,
        decision: StructuralPruningDecision,
        measured: Measured,
        seen: Observed,
        accuracy: Measurement | None,
    ) -> AnalysisRecord | None:
        """The record of this checkpoint, kept in memory; without one of before, nothing is one."""
        found: tuple[Finding, ...] = ()
        before = None
        if measured.combined is None:
            before = record_before(measured.ledger.record_id, self.job.settings)
        else:
            parts = as_it_began(measured.combined.components, seen)
            state, config = seen.state, self.job.config
            found = trends(state.history, state.series, config, components=parts)
        stage = stage_of(measured.ledger, request.checkpoint.epoch, self.job.config)
        record = checkpoint_record(
            measured.combined, found, request, decision, wanted=stage.wanted, phase=stage.phase,
            ranking_accuracy=accuracy, original=seen.original, before=before,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            seconds={"analysis": window.used},
        )  # fmt: skip
        if record is not None and (why := kept_in_memory(record, self.job.settings)):
            self._unsaid.append(why)
        return record

    def _after(
        self,
        seen: Observed,
        measured: Measured,
        request: StructuralAnalysisRequest,
        decision: StructuralPruningDecision,
        record: AnalysisRecord | None,
        *,
        asked: bool,
    ) -> Ledger:
        """Where the run stands after this answer."""
        ledger = seen.state.ledger
        if asked:
            ledger, stood = successes(ledger, request.architecture.applied)
            if stood:
                self._guarded(lambda: note_success(self.job.settings.home), None)
        if record is not None and measured.combined is not None:
            found = tuple(finding.id for finding in record.findings)
            ledger = ledger.model_copy(update={"record_id": record.id, "finding_ids": found})
        return with_decision(ledger, decision, asked=asked)

    def _kept(self, answer: KeptAnswer, state: State, record: AnalysisRecord | None) -> Answered:
        """The answer, put down together with the state it leaves behind."""
        self._unsaid.clear()
        self._state, self._last = state, answer
        try:
            save_state(self.folder.state, state, answer)
        except OutputError as error:
            self._last = self._forget(answer, str(error))
        return Answered(decision=self._last.decision, report=self._last.report, record=record)

    def _forget(self, answer: KeptAnswer, why: str) -> KeptAnswer:
        """The answer when it cannot be put down: what would not be remembered is not approved."""
        known = self._state.ledger.cuts
        cuts = {name: cut for name, cut in known.items() if name != answer.decision.decision_id}
        ledger = self._state.ledger.model_copy(update={"cuts": cuts})
        self._state = replace(self._state, ledger=ledger)
        said = {"fallbacks": (*answer.report.fallbacks, why)}
        report, decision = answer.report.model_copy(update=said), answer.decision
        if decision.approved_for_application:
            decision = not_approved(decision, why)
        return answer.model_copy(update={"decision": decision, "report": report})

    def _guarded(self, step: Callable[[], T], instead: T) -> T:
        """A step that nothing depends on: where it fails, that is said, and the rest goes on."""
        try:
            return step()
        except Exception as error:
            self._unsaid.append(_said(error))
            return instead

    def _count_failures(self) -> None:
        """Write failures into the breaker's file; those that cannot be are tried again."""
        while self._uncounted:
            try:
                note_failure(self.job.settings.home, self._uncounted[0])
            except OutputError as error:
                self._unsaid.append(str(error))
                return
            del self._uncounted[0]


def _accuracy(measured: Measured) -> Measurement | None:
    """Of the ranking, where some units were ablated."""
    exact = measured.combined.exact if measured.combined else ()
    return ranking_accuracy(exact) if exact else None


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, ZseiError) else f"{type(error).__name__}: {error}"
