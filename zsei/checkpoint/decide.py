"""Decides what may go at a checkpoint: chosen by importance, judged by the gate on its weights.

The cut is judged as it will be carried out: its units simply gone, which is the same as held at
zero. No mean is folded into a bias and no weight makes up for them. Training goes on, so when a
decision is carried out the weights have moved, and values fitted to this checkpoint would be wrong.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from math import ceil, floor

from zsei.checkpoint.carried_out import CarriedOut, parameter_count
from zsei.checkpoint.choose import Chosen, choose, parameters_left
from zsei.checkpoint.config import CheckpointConfig, StructuredPruning
from zsei.checkpoint.contracts import (
    PruningMasks,
    PruningStatistics,
    SafetyValidation,
    StructuralPruningDecision,
)  # fmt: skip
from zsei.checkpoint.cuttable import Cuttable, cuttable
from zsei.checkpoint.job import Job
from zsei.checkpoint.masks_of import masks_of
from zsei.checkpoint.targets import Targets, targets_of
from zsei.checkpoint.tasks import DecideTask
from zsei.errors import SurgeryRefused
from zsei.gate.audit import audit_key
from zsei.gate.baseline import measure_baseline
from zsei.gate.phases import ALLOWED, CAPS
from zsei.gate.sandbox import try_edits
from zsei.records import Proposal, Verdict, digest
from zsei.settings import EditKind, SafetyLevel, Settings
from zsei.subject.types import Subject
from zsei.surgery.apply import example_inputs
from zsei.surgery.module_edit import ModuleEdit


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tried:
    """The last cut that went before the gate."""

    chosen: Chosen
    targets: Targets
    cut: CarriedOut
    verdict: Verdict
    number: int
    """Cuts that went before the gate."""


def decide(subject: Subject, task: DecideTask, job: Job) -> StructuralPruningDecision:
    """What goes at this checkpoint, and whether it may.

    1. The largest cut that passes neither the target nor the phase's cap, of the kinds that the
       phase and the task allow, the least important for its size first
       (`zsei.checkpoint.choose.choose`). `conservative`: half of that step, channels only.
    2. The gate tries it on this checkpoint's weights, by the limits of the safety level that has
       the phase's name (after a fallback: conservative). Rejected, it is tried again with half the
       room, up to `settings.rounds` cuts in all; the smaller ones go by importance alone, since
       being alike may be what misled the first. The first that is accepted stands.
    3. What would be carried out is made: the cut by parameter name in the model's own class, and
       the entries that can be held at zero instead. What is saved and loaded back in the gate's
       stage *artefact* is this form.

    It is approved when the gate accepted it and it can be done in the mode asked for; in mode
    *observe* never, though it is judged all the same. Everything else gives the reason. In mode
    *mask*, counts are what the model would have without all units that are held at zero.

    Args:
        subject: The model with the checkpoint's weights.
        task: Importance by the units of the architecture as it is now, and the target.
        job: Settings and configuration.

    Returns:
        `task.decision` with targets, statistics, safety, edit, masks and approval filled in.

    Misleads when: the units go at weights that moved on since. The gate has judged this checkpoint;
    the rollback watches what becomes of the next.
    """
    limits, level = job.config.elesh.structured_pruning, _level(task)
    settings = _settings(job.settings, limits, level)
    kinds = _kinds(task)
    before = parameter_count(subject.model)
    if reason := _nothing_to_do(subject, task, kinds, before):
        return _finished(subject, task, level, before, reason=reason)
    place = cuttable(subject, task, limits, settings, kinds)
    before = parameters_left(place.parts, place.shapes, {})
    room = _room(subject, task, before)
    if room <= 0:
        gone = task.training.share(before)
        reason = (
            f"{gone:.2%} of the original parameters are gone, and the target is {task.target:.2%}"
        )
        return _finished(subject, task, level, before, reason=reason)
    found = _try(subject, task, place, room, kinds, settings, job.config)
    if isinstance(found, str):
        return _finished(subject, task, level, before, reason=found)
    return _judged(subject, task, level, before, found)


def _level(task: DecideTask) -> SafetyLevel:
    phase = task.training.phase
    if phase in ("preparation", "validation"):
        return task.decision.level
    return "conservative" if task.conservative else phase


def _kinds(task: DecideTask) -> tuple[EditKind, ...]:
    asked: Collection[EditKind] = ("channels",) if task.conservative else task.levels
    allowed = ALLOWED[task.training.phase]
    return tuple(kind for kind in allowed if kind in asked and kind in task.levels)


def _settings(settings: Settings, limits: StructuredPruning, level: SafetyLevel) -> Settings:
    return settings.model_copy(
        update={
            "safety": level,
            "min_channels": limits.channel_analysis.min_channels_per_layer,
            "min_heads": limits.attention_analysis.min_heads_per_layer,
            "max_layer_share": limits.layer_analysis.max_layer_removal_ratio,
        }
    )


def _nothing_to_do(
    subject: Subject, task: DecideTask, kinds: Collection[EditKind], before: int
) -> str:
    run = task.training
    if not ALLOWED[run.phase]:
        return f"in the phase {run.phase!r} nothing is cut"
    if not kinds:
        told = " and ".join(ALLOWED[run.phase])
        return f"in the phase {run.phase!r} only {told} may be cut, and none of that is asked for"
    if subject.program is None:
        return "cuts are tried on the exported program, and this model could not be exported"
    if before > run.parameters:
        return (
            f"the model has {before} parameters, more than the {run.parameters} the run is said "
            "to have begun with; count them before the first cut"
        )
    if not any(value is not None for row in task.importance.values() for value in row):
        return "nothing was measured by which something could be chosen"
    return ""


def _room(subject: Subject, task: DecideTask, before: int) -> int:
    """Parameters that may go now, so that neither target nor cap is passed."""
    run = task.training
    # Whole parameters are compared: 0.15 of 1000 must not be 149 by rounding.
    left = max(
        ceil(run.parameters * (1 - task.target) - 1e-6),
        ceil(run.parameters * (1 - CAPS[run.phase]) - 1e-6),
    )
    return (before - left) // 2 if task.conservative else before - left


def _try(
    subject: Subject,
    task: DecideTask,
    place: Cuttable,
    room: int,
    kinds: Collection[EditKind],
    settings: Settings,
    config: CheckpointConfig,
) -> _Tried | str:
    """The first cut that the gate accepts, else the last that it did not; or why there is none."""
    limits, tried = config.elesh.structured_pruning, None
    baseline = None
    for number in range(settings.rounds):
        chosen = choose(
            place.parts, place.shapes, kinds=kinds, room=room >> number,
            layers=_layers(subject, task, limits), alike=number == 0,
        )  # fmt: skip
        if not chosen or (tried is not None and chosen == tried.chosen):
            break
        targets = targets_of(place, chosen, task, limits)
        cut = CarriedOut(
            subject=subject,
            edits=place.edits(chosen, place.held),
            inputs=example_inputs(subject),
        )
        baseline = baseline or measure_baseline(subject, settings)
        # Parameters that no answer depends on are in the class but not in the program, which the
        # gate counts; they are left out of what the run began with, too.
        unseen = parameter_count(subject.model) - baseline.cost.parameters
        trial = try_edits(
            subject,
            Proposal(
                id=_id(subject, task, targets), strategy="checkpoint",
                components=targets.components,
            ),
            "layers",
            cut.edits,
            baseline,
            settings,
            run=replace(task.training, parameters=task.training.parameters - unseen),
            round_trip=cut.round_trip,
        )  # fmt: skip
        tried = _Tried(
            chosen=chosen, targets=targets, cut=cut, verdict=trial.verdict, number=number + 1
        )
        if trial.verdict.outcome != "rejected":
            break
    if tried is not None:
        return tried
    why = f"; {next(iter(place.refused.values()))}" if place.refused else ""
    return (
        f"nothing fits: {room} parameters may go, and no unit that was measured and may go is as "
        f"small, or none is left above the minima{why}"
    )


def _layers(subject: Subject, task: DecideTask, limits: StructuredPruning) -> int:
    """Layers that may be gone of those that are there now."""
    now = sum(component.kind == "layer" for component in subject.anatomy.components)
    gone = sum(len(edit.dropped) for edit in task.snapshot.edits)
    most = floor(limits.layer_analysis.max_layer_removal_ratio * (now + gone) + 1e-9)
    return max(most - gone, 0)


def _judged(
    subject: Subject, task: DecideTask, level: SafetyLevel, before: int, tried: _Tried
) -> StructuralPruningDecision:
    """The decision about what was tried last."""
    mode, verdict, cut = task.decision.mode, tried.verdict, tried.cut
    edit, masks, unmasked = None, PruningMasks(), ""
    if verdict.outcome == "accepted":
        edit = cut.edit
        try:
            masks = PruningMasks(masks=masks_of(subject, cut.edits, cut.inputs))
        except SurgeryRefused as error:
            unmasked = str(error)
    if verdict.outcome != "accepted":
        reason = verdict.reason
    elif mode == "remove" and edit is None:
        reason = f"the class cannot be cut, zero-mask can still be used: {cut.refusal}"
    elif mode == "mask" and unmasked:
        reason = f"it cannot be held at zero: {unmasked}"
    else:
        reason = "observe only" if mode == "observe" else ""
    return _finished(
        subject, task, level, before, reason=reason, tried=tried, edit=edit, masks=masks
    )


def _finished(
    subject: Subject,
    task: DecideTask,
    level: SafetyLevel,
    before: int,
    *,
    reason: str,
    tried: _Tried | None = None,
    edit: ModuleEdit | None = None,
    masks: PruningMasks | None = None,
) -> StructuralPruningDecision:
    """The decision with all that is known; approved when there is no reason against it."""
    run, targets = task.training, tried.targets if tried else Targets()
    identity = _id(subject, task, targets)
    after = before
    if tried is not None and tried.verdict.outcome == "accepted":
        after = tried.cut.parameters
    statistics = PruningStatistics(
        parameters_before=before,
        parameters_after=after,
        original_parameters=run.parameters,
        sparsity_before=max(run.share(before), 0.0),
        sparsity_after=max(run.share(after), 0.0),
        sparsity_wanted=task.target,
        channels=sum(len(target.channel_indices) for target in targets.channels),
        heads=sum(len(target.head_indices) for target in targets.attention_heads),
        layers=len(targets.layers),
    )
    return task.decision.model_copy(
        update={
            "decision_id": identity,
            "idempotency_key": audit_key(
                epoch=task.decision.epoch, model_hash=subject.model_hash, decision_id=identity,
                level=level,
            ),
            "level": level,
            "channels": targets.channels,
            "attention_heads": targets.attention_heads,
            "layers": targets.layers,
            "statistics": statistics,
            "safety": SafetyValidation(
                phase=run.phase,
                verdict=tried.verdict if tried else None,
                breaker=task.decision.safety.breaker,
                tried=tried.number if tried else 0,
            ),
            "approved_for_application": not reason,
            "rejection_reason": reason,
            "edit": edit,
            "masks": masks or PruningMasks(),
        }
    )  # fmt: skip


def _id(subject: Subject, task: DecideTask, targets: Targets) -> str:
    """What a decision is: which run and epoch, at which architecture, in which mode, and what
    goes.
    """
    shapes = {name: list(p.shape) for name, p in sorted(subject.model.named_parameters())}
    decision = task.decision
    goes = [t.model_dump(mode="json") for t in (*targets.channels, *targets.attention_heads,
                                                *targets.layers)]  # fmt: skip
    return digest([decision.run, decision.epoch, decision.mode, digest(shapes), goes])
