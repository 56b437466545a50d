"""Asks for a decision about a checkpoint, or says why none is asked for."""

from dataclasses import dataclass

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import (
    Mode,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.decide.filing import not_approved
from zsei.checkpoint.history.observing import Observed
from zsei.checkpoint.job import Job
from zsei.checkpoint.ledger import Ledger, next_due, waiting_cut
from zsei.checkpoint.measure.measuring import Measured
from zsei.checkpoint.measure.window import Window
from zsei.checkpoint.schedule import phase_of, sparsity_of_epoch
from zsei.checkpoint.tasks import DecideTask, Snapshot, Unreadable
from zsei.engines.engine import Done
from zsei.gate.audit import audit_key
from zsei.gate.breaker import read_breaker
from zsei.gate.judge import refused
from zsei.gate.phases import ALLOWED, Phase, TrainingRun
from zsei.records import digest

_MODES: tuple[Mode, ...] = ("observe", "mask", "remove")
"""From the least that may be done to the most."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What the schedule says of an epoch."""

    phase: Phase
    wanted: float
    """Share of the original parameters that should be gone."""


def stage_of(ledger: Ledger, epoch: int, config: CheckpointConfig) -> Stage:
    """Where the schedule stands at an epoch; rollbacks have put it behind."""
    epochs = config.elesh.structured_pruning.safety_schedule.epochs
    position = ledger.position(epoch)
    return Stage(
        phase=phase_of(position, epochs),
        wanted=sparsity_of_epoch(config.run.schedule, position, epochs),
    )


def decided(
    window: Window,
    snapshot: Snapshot,
    request: StructuralAnalysisRequest,
    measured: Measured,
    seen: Observed,
    stage: Stage,
    job: Job,
) -> tuple[StructuralPruningDecision, bool]:
    """The decision about a checkpoint, before it is filed; and whether a cut was chosen for it.

    Whatever kept the gate from judging is a reason against it.
    """
    draft = _draft(request, measured, seen, stage, job)
    ledger = measured.ledger
    reason = measured.why or _not_now(ledger, request, draft.mode, stage, job)
    if reason or measured.combined is None:
        return _named(not_approved(draft, reason), request, measured), False
    combined = measured.combined
    small = measured.depth != "full" or measured.confidence < 1 or ledger.careful
    task = DecideTask(
        id=f"{request.checkpoint.epoch}/decide",
        snapshot=snapshot,
        importance=seen.importance,
        pairs=combined.pairs,
        target=stage.wanted,
        training=TrainingRun(
            phase=stage.phase, parameters=request.architecture.original_parameters
        ),
        levels=request.parameters.levels,
        conservative=small,
        decision=draft,
        parts={site.key: site.parts for site in combined.sites},
    )
    (done,) = window.run([task])
    if isinstance(done.value, StructuralPruningDecision):
        found = done.value
        masks = found.masks.model_copy(update={"dead": seen.dead, "confidence": _sure(job)})
        return found.model_copy(update={"masks": masks}), True
    return _named(_not_judged(draft, done), request, measured), True


def _draft(
    request: StructuralAnalysisRequest,
    measured: Measured,
    seen: Observed,
    stage: Stage,
    job: Job,
) -> StructuralPruningDecision:
    checkpoint = request.checkpoint
    masks = StructuralPruningDecision.model_fields["masks"].default
    return StructuralPruningDecision(
        decision_id="",
        idempotency_key="",
        request_id=request.request_id,
        run=checkpoint.run,
        epoch=checkpoint.epoch,
        level=job.settings.safety,
        mode=_MODES[min(map(_MODES.index, (request.parameters.mode, job.config.run.mode)))],
        safety=SafetyValidation(phase=stage.phase, breaker=read_breaker(job.settings.home).text()),
        masks=masks.model_copy(update={"dead": seen.dead, "confidence": _sure(job)}),
        depth=measured.depth,
        confidence=measured.confidence,
        fallbacks=(*measured.notes, *seen.notes),
    )


def _not_now(
    ledger: Ledger, request: StructuralAnalysisRequest, mode: Mode, stage: Stage, job: Job
) -> str:
    """Why nothing is put before the gate at this epoch; "" when something is."""
    epoch, run = request.checkpoint.epoch, job.config.run
    if not ALLOWED[stage.phase]:
        return f"in the phase {stage.phase!r} nothing is cut"
    if mode != "observe" and read_breaker(job.settings.home).open:
        return read_breaker(job.settings.home).text()
    if waiting := waiting_cut(ledger, epoch, run.expire_after):
        return f"the decision {waiting} of epoch {ledger.cuts[waiting].epoch} was not answered yet"
    due = next_due(ledger, epoch, run.decide_every)
    if due > epoch:
        return f"the next cut is chosen at epoch {due}"
    return ""


def _not_judged(draft: StructuralPruningDecision, done: Done) -> StructuralPruningDecision:
    """Without a verdict of the gate, and why. Only what broke counts as a failure."""
    if isinstance(done.value, Unreadable):
        return not_approved(draft, done.value.why)
    if done.status == "error":
        verdict = refused("failed", "", f"deciding broke ({done.why})")
        safety = draft.safety.model_copy(update={"verdict": verdict})
        return not_approved(draft.model_copy(update={"safety": safety}), verdict.reason)
    return not_approved(draft, f"it was not judged in time ({done.why or done.status})")


def _named(
    decision: StructuralPruningDecision, request: StructuralAnalysisRequest, measured: Measured
) -> StructuralPruningDecision:
    """A decision that nothing was chosen for, under the id of what was asked and answered."""
    name = digest([decision.run, request.idempotency_key, decision.rejection_reason])
    found = measured.combined.provenance if measured.combined else None
    hashed = found.model_hash if found else request.checkpoint.sha256 or "unread"
    key = audit_key(epoch=decision.epoch, model_hash=hashed, decision_id=name, level=decision.level)
    return decision.model_copy(update={"decision_id": name, "idempotency_key": key})


def _sure(job: Job) -> float:
    return job.config.elesh.confidence_threshold
