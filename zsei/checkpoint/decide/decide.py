"""Decides what may go at a checkpoint: chosen by importance, judged by the gate on its weights.

The cut is judged as it will be carried out: its units simply gone, which is the same as held at
zero. No mean is folded into a bias and no weight makes up for them. Training goes on, so when a
decision is carried out the weights have moved, and values fitted to this checkpoint would be wrong.
Running statistics of batch norms, which training would renew by itself, follow a removal
(`zsei.checkpoint.decide.running_statistics`).
"""

from collections.abc import Collection
from dataclasses import replace
from math import ceil, floor

from zsei.checkpoint.config import StructuredPruning
from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.checkpoint.decide.carried_out import CarriedOut, parameter_count
from zsei.checkpoint.decide.choose import choose, parameters_left
from zsei.checkpoint.decide.cuttable import Cuttable, cuttable
from zsei.checkpoint.decide.decided import Question, Tried, answered, decision_id, nothing_goes
from zsei.checkpoint.decide.targets import targets_of
from zsei.checkpoint.job import Job
from zsei.checkpoint.tasks import DecideTask
from zsei.gate.baseline import measure_baseline
from zsei.gate.phases import ALLOWED, CAPS
from zsei.gate.sandbox import try_edits
from zsei.records import Proposal
from zsei.settings import EditKind, SafetyLevel, Settings
from zsei.subject.types import Subject
from zsei.surgery.apply import example_inputs


def decide(subject: Subject, task: DecideTask, job: Job) -> StructuralPruningDecision:
    """What goes at this checkpoint, and whether it may.

    1. The largest cut that passes neither the target nor the phase's cap, of the kinds that the
       phase and the task allow, the least important for its size first
       (`zsei.checkpoint.decide.choose.choose`). `conservative`: half of that step, channels only.
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
    settings, kinds = _settings(job.settings, limits, level), _kinds(task)
    question = Question(
        subject=subject, task=task, level=level, parameters=parameter_count(subject.model)
    )
    if reason := _nothing_to_do(question, kinds):
        return nothing_goes(question, reason)
    places = cuttable(subject, task, limits, settings, kinds)
    left = parameters_left(places.parts, places.shapes, {})  # without what is held at zero
    question = replace(question, parameters=left)
    if (room := _room(task, left)) <= 0:
        gone = f"{task.training.share(left):.2%} of the original parameters are gone"
        return nothing_goes(question, f"{gone}, and the target is {task.target:.2%}")
    tried = _try(question, places, room, kinds, settings, limits)
    if tried is None:
        return nothing_goes(question, _nothing_fits(places, room))
    return answered(question, tried)


def _level(task: DecideTask) -> SafetyLevel:
    phase = task.training.phase
    if phase in ("preparation", "validation"):
        return task.decision.level
    return "conservative" if task.conservative else phase


def _settings(settings: Settings, limits: StructuredPruning, level: SafetyLevel) -> Settings:
    """The gate's settings, with the level of the phase and the minima of the configuration."""
    return settings.model_copy(
        update={
            "safety": level,
            "min_channels": limits.channel_analysis.min_channels_per_layer,
            "min_heads": limits.attention_analysis.min_heads_per_layer,
            "max_layer_share": limits.layer_analysis.max_layer_removal_ratio,
        }
    )


def _kinds(task: DecideTask) -> tuple[EditKind, ...]:
    allowed = ALLOWED[task.training.phase]
    few: Collection[EditKind] = ("channels",) if task.conservative else allowed
    return tuple(kind for kind in allowed if kind in few and kind in task.levels)


def _nothing_to_do(question: Question, kinds: Collection[EditKind]) -> str:
    """Why nothing need be tried; empty when something must."""
    run, now = question.task.training, question.parameters
    if not ALLOWED[run.phase]:
        return f"in the phase {run.phase!r} nothing is cut"
    if not kinds:
        told = " and ".join(ALLOWED[run.phase])
        return f"in the phase {run.phase!r} only {told} may be cut, and none of that is asked for"
    if question.subject.program is None:
        return "cuts are tried on the exported program, and this model could not be exported"
    if now > run.parameters:
        return (
            f"the model has {now} parameters, more than the {run.parameters} the run is said to "
            "have begun with; count them before the first cut"
        )
    if all(value is None for row in question.task.importance.values() for value in row):
        return "nothing was measured by which something could be chosen"
    return ""


def _nothing_fits(places: Cuttable, room: int) -> str:
    if not places.parts:
        why = next(iter(places.refused.values()), "no place is above the minima and was measured")
        return f"nothing can be cut: {why}"
    return (
        f"nothing fits: {room} parameters may go, and the next unit is larger, or what was "
        "measured is at the minima"
    )


def _room(task: DecideTask, now: int) -> int:
    """Parameters that may go, so that neither target nor cap is passed."""
    run = task.training
    share = min(task.target, CAPS[run.phase])
    # 1e-6: 0.15 of 1000 must not be 149 by rounding.
    room = now - ceil(run.parameters * (1 - share) - 1e-6)
    return room // 2 if task.conservative else room


def _layers(question: Question, limits: StructuredPruning) -> int:
    """How many of the layers that are there now may be gone."""
    now = sum(c.kind == "layer" for c in question.subject.anatomy.components)
    gone = sum(len(edit.dropped) for edit in question.task.snapshot.edits)
    # 1e-9: 0.2 of 5 must not lose a layer to rounding.
    return floor(limits.layer_analysis.max_layer_removal_ratio * (now + gone) + 1e-9) - gone


def _try(
    question: Question,
    places: Cuttable,
    room: int,
    kinds: Collection[EditKind],
    settings: Settings,
    limits: StructuredPruning,
) -> Tried | None:
    """The first cut that the gate accepts, else the last that it did not; None when none fits."""
    subject, task, tried = question.subject, question.task, None
    baseline = None
    for number in range(settings.rounds):
        chosen = choose(
            places.parts, places.shapes, kinds=kinds, room=room >> number,
            layers=_layers(question, limits), alike=number == 0,
        )  # fmt: skip
        if not chosen or (tried is not None and chosen == tried.chosen):
            break
        targets = targets_of(places, chosen, task, limits)
        cut = CarriedOut(
            subject=subject,
            edits=places.edits(chosen, places.held),
            inputs=example_inputs(subject),
            renews=task.decision.mode != "mask",
        )
        proposal = Proposal(
            id=decision_id(question, targets), strategy="checkpoint", components=targets.components
        )
        baseline = baseline or measure_baseline(subject, settings)
        # Parameters that no answer depends on are in the class but not in the program, which the
        # gate counts; they are left out of what the run began with, too.
        unread = parameter_count(subject.model) - baseline.cost.parameters
        run = replace(task.training, parameters=task.training.parameters - unread)
        trial = try_edits(
            subject, proposal, "layers", cut.edits, baseline, settings, run=run,
            round_trip=cut.round_trip, edit=cut.program,
        )  # fmt: skip
        tried = Tried(
            chosen=chosen, targets=targets, cut=cut, verdict=trial.verdict, number=number + 1
        )
        if trial.verdict.outcome != "rejected":
            break
    return tried
