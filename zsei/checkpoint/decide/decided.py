"""A decision with what was chosen, what the gate said of it, and why it may or may not go."""

from collections.abc import Mapping
from dataclasses import dataclass

from zsei.checkpoint.contracts import (
    PruningMasks,
    PruningStatistics,
    SafetyValidation,
    StructuralPruningDecision,
)  # fmt: skip
from zsei.checkpoint.decide.carried_out import CarriedOut
from zsei.checkpoint.decide.choose import Chosen
from zsei.checkpoint.decide.masks_of import masks_of
from zsei.checkpoint.decide.targets import Targets
from zsei.checkpoint.tasks import DecideTask
from zsei.errors import SurgeryRefused
from zsei.gate.audit import audit_key
from zsei.records import Verdict, digest
from zsei.settings import SafetyLevel
from zsei.subject.types import Subject


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """What is to be decided."""

    subject: Subject
    """The model with the checkpoint's weights."""
    task: DecideTask
    level: SafetyLevel
    """Whose limits the gate takes."""
    parameters: int
    """Of the model as it is, without those that are held at zero."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """A cut that went before the gate."""

    chosen: Chosen
    targets: Targets
    cut: CarriedOut
    verdict: Verdict
    number: int
    """Cuts that went before the gate so far."""

    @property
    def accepted(self) -> bool:
        """Whether the gate let it pass."""
        return self.verdict.outcome == "accepted"


def answered(question: Question, tried: Tried) -> StructuralPruningDecision:
    """The decision about what was tried last."""
    mode, cut = question.task.decision.mode, tried.cut
    masks, unmasked = PruningMasks(), ""
    if not tried.accepted:
        return _filled(question, tried.verdict.reason, tried)
    try:
        masks = PruningMasks(masks=masks_of(question.subject, cut.edits, cut.inputs))
    except SurgeryRefused as error:
        unmasked = str(error)
    reason = ""
    if mode == "remove" and cut.edit is None:
        reason = f"the class cannot be cut, zero-mask can still be used: {cut.refusal}"
    elif mode == "mask" and unmasked:
        reason = f"it cannot be held at zero: {unmasked}"
    elif mode == "observe":
        reason = "observe only"
    buffers = {name: tuple(value.tolist()) for name, value in cut.buffers.items()}
    made = {"edit": cut.edit, "masks": masks, "buffers": buffers}
    return _filled(question, reason, tried, made)


def nothing_goes(question: Question, reason: str) -> StructuralPruningDecision:
    """The decision where nothing was put before the gate."""
    return _filled(question, reason)


def decision_id(question: Question, targets: Targets) -> str:
    """Which run and epoch, at which architecture, in which mode, and what goes."""
    parameters = question.subject.model.named_parameters()
    shapes = {name: list(parameter.shape) for name, parameter in parameters}
    decision = question.task.decision
    every = (*targets.channels, *targets.attention_heads, *targets.layers)
    goes = [target.model_dump(mode="json") for target in every]
    return digest([decision.run, decision.epoch, decision.mode, digest(shapes), goes])


def _filled(
    question: Question,
    reason: str,
    tried: Tried | None = None,
    made: Mapping[str, object] | None = None,
) -> StructuralPruningDecision:
    """The decision with all that is known; approved when there is no reason against it."""
    task, targets = question.task, tried.targets if tried else Targets()
    identity = decision_id(question, targets)
    safety = SafetyValidation(
        phase=task.training.phase,
        verdict=tried.verdict if tried else None,
        breaker=task.decision.safety.breaker,
        tried=tried.number if tried else 0,
    )
    update = {
        "decision_id": identity,
        "idempotency_key": audit_key(
            epoch=task.decision.epoch,
            model_hash=question.subject.model_hash,
            decision_id=identity,
            level=question.level,
        ),
        "level": question.level,
        "channels": targets.channels,
        "attention_heads": targets.attention_heads,
        "layers": targets.layers,
        "statistics": _statistics(question, targets, tried),
        "safety": safety,
        "approved_for_application": not reason,
        "rejection_reason": reason,
    }
    return task.decision.model_copy(update=update | dict(made or {}))


def _statistics(question: Question, targets: Targets, tried: Tried | None) -> PruningStatistics:
    """How much goes; what was not accepted leaves the model as large as it is."""
    run, before = question.task.training, question.parameters
    after = tried.cut.parameters if tried is not None and tried.accepted else before
    return PruningStatistics(
        parameters_before=before,
        parameters_after=after,
        original_parameters=run.parameters,
        sparsity_before=max(run.share(before), 0.0),
        sparsity_after=max(run.share(after), 0.0),
        sparsity_wanted=question.task.target,
        channels=sum(len(target.channel_indices) for target in targets.channels),
        heads=sum(len(target.head_indices) for target in targets.attention_heads),
        layers=len(targets.layers),
    )
