"""Tries an edit on a copy and has the judge decide. The original is proven untouched each time."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.errors import ModelError, SurgeryRefused
from zsei.gate.artefact import RoundTrip, pt2_round_trip
from zsei.gate.baseline import Baseline
from zsei.gate.cost import constant
from zsei.gate.evidence import Evidence, limits_for, measure_size
from zsei.gate.judge import SKIPPED, judge, missing_stage, refused
from zsei.gate.latency import measure_latency
from zsei.gate.phases import TrainingRun
from zsei.gate.trial import MEASURES, Copy, EditProgram
from zsei.records import Proposal, Verdict
from zsei.settings import EditKind, Settings
from zsei.subject.program import model_hash, strip_prefix
from zsei.subject.reading import parameter_names
from zsei.subject.types import Subject
from zsei.surgery.edits import Edit
from zsei.surgery.program_form import edit_program


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """What came of trying one proposal."""

    verdict: Verdict
    evidence: Evidence | None = None
    """What the judge saw; None when it came to no judgement."""
    latency: tuple[float, float, float] | None = None
    """Median latency ratio after / before and its 90 % interval, for `timings` only; None unless
    it was asked for and the edit was accepted, or the user's limit in time decided."""


def try_edits(
    subject: Subject,
    proposal: Proposal,
    edit_kind: EditKind,
    edits: Sequence[Edit],
    baseline: Baseline,
    settings: Settings,
    *,
    latency_pairs: int = 0,
    run: TrainingRun | None = None,
    round_trip: RoundTrip = pt2_round_trip,
    edit: EditProgram = edit_program,
) -> Trial:
    """Try one proposal's edits on a copy of the program and judge them.

    Whatever happens, a verdict comes back and the original is as it was: a refused edit is
    *inapplicable*, an exception *failed*. Only an interrupt passes through.

    Args:
        subject: The model, its data and objective.
        proposal: Only its id is used; its words decide nothing.
        edit_kind: Row of limits; it may narrow but not widen what the edits themselves are.
        edits: What the proposal's strategy made of it.
        baseline: The original, measured (`measure_baseline`).
        settings: Safety level, seed, confidence and the sizes that must be left.
        latency_pairs: Timed pairs for an accepted edit; 0 leaves the clock alone, unless the
            setting `latency_limit` asks it.
        run: Where the training run stands that this is part of; its phase caps the cut.
        round_trip: Saves a program and loads it back.
        edit: Makes the edited copy.
    """
    if subject.program is None:
        reason = "edits need the exported program, and this model is known by its modules only"
        return Trial(verdict=refused("inapplicable", proposal.id, reason))
    copy = Copy(
        subject=subject,
        original=subject.program,
        edits=tuple(edits),
        baseline=baseline,
        settings=settings,
        edit=edit,
        round_trip=round_trip,
    )
    before = _seal(copy)
    try:
        limits = limits_for(edit_kind, edits, settings.safety)
        trial = _try(copy, limits, proposal.id, latency_pairs, run)
    except SurgeryRefused as error:
        trial = Trial(verdict=refused("inapplicable", proposal.id, str(error)))
    except Exception as error:
        trial = Trial(verdict=refused("failed", proposal.id, _sentence(error)))
    if _seal(copy) != before:
        reason = "the original's parameters changed while it was tried; load the model again"
        return Trial(verdict=refused("failed", proposal.id, reason))
    return trial


def verify_unchanged(subject: Subject) -> None:
    """Hash the whole model once more and compare with the hash it came with.

    Raises:
        ModelError: When a parameter or buffer is not what it was.
    """
    if model_hash(subject.model) != subject.model_hash:
        raise ModelError(
            "The user's model is never changed, but its parameters are not what they were when "
            "the analysis started. Discard this analysis and load the model again."
        )


@torch.no_grad()
def _try(
    copy: Copy,
    limits: tuple[float, float],
    proposal_id: str,
    latency_pairs: int,
    run: TrainingRun | None,
) -> Trial:
    baseline, settings = copy.baseline, copy.settings
    evidence = Evidence(
        size=measure_size(copy.edits, copy.subject.anatomy),
        before=baseline.cost,
        run=run,
        groups=len(baseline.groups),
        other_length=baseline.shorter is not None,
    )
    notes = dict(baseline.notes)
    tried: set[str] = set()
    while stage := missing_stage(evidence, limits, settings):
        if stage in tried:
            break  # it cannot be measured, which is for the judge to weigh
        tried.add(stage)
        evidence, words = MEASURES[stage](copy, evidence)
        notes[stage] = words or notes.get(stage, "")
    verdict = judge(evidence, limits, settings)
    latency = evidence.latency
    if latency is None and verdict.outcome == "accepted" and latency_pairs:
        inputs = copy.subject.held_out[0].inputs
        latency = measure_latency(copy.original, copy.edited, inputs, pairs=latency_pairs)
    return Trial(verdict=_in_words(verdict, proposal_id, notes), evidence=evidence, latency=latency)


def _in_words(verdict: Verdict, proposal_id: str, notes: Mapping[str, str]) -> Verdict:
    """The verdict with its proposal's id, and names beside the numbers of its stages."""
    stages = []
    reason = verdict.reason
    for stage in verdict.stages:
        words = notes.get(stage.stage, "")
        told = bool(words) and stage.detail != SKIPPED
        if told and stage.outcome in ("failed", "inconclusive"):
            reason = f"{reason} ({words})"
        stages.append(
            stage.model_copy(update={"detail": f"{stage.detail} ({words})"}) if told else stage
        )
    update = {"proposal_id": proposal_id, "stages": tuple(stages), "reason": reason}
    return verdict.model_copy(update=update)


def _sentence(error: Exception) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _seal(copy: Copy) -> tuple[str, tuple[tuple[int, int], ...]]:
    """What would change if the original did.

    The SHA-256 of every parameter the edited components read; and of every parameter, of the model
    and of its program, its address and torch's count of in-place writes. Hashing a large model
    whole for each proposal would cost more than the trial; `verify_unchanged` does it at the end.
    """
    nodes = list(copy.original.graph_module.graph.nodes)
    inside = {
        name for edit in copy.edits for name in copy.subject.anatomy.nodes[edit.site.component]
    }
    read = {name for n in nodes if n.name in inside for name in parameter_names(n)}
    constants = {
        str(node.target): tensor
        for node in nodes
        if node.op == "get_attr"
        and isinstance(tensor := constant(copy.original, str(node.target)), Tensor)
    }
    hasher = hashlib.sha256()
    for name, tensor in sorted(constants.items()):
        if strip_prefix(name) in read:
            value = tensor.detach().cpu().contiguous()
            hasher.update(f"{name}:{tuple(value.shape)}:{value.dtype}".encode())
            hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
    model = copy.subject.model
    everything = [*model.parameters(), *model.buffers(), *constants.values()]
    return hasher.hexdigest(), tuple((t.data_ptr(), t._version) for t in everything)
