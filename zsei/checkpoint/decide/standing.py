"""Which cuts stand at a checkpoint: what was carried out since the run began, oldest first."""

from dataclasses import dataclass, replace

from zsei.checkpoint.contracts import StructuralAnalysisRequest, StructuralPruningDecision
from zsei.checkpoint.decide.numbering import Cut, cut_of
from zsei.checkpoint.ledger import Ledger
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.state import kept_answer
from zsei.checkpoint.tasks import Snapshot
from zsei.errors import UsageError, ZseiError


@dataclass(frozen=True, kw_only=True)
class Standing:
    """The cuts between the model a run began with and one of its checkpoints."""

    cuts: tuple[Cut, ...]
    snapshot: Snapshot
    """With the edits and masks that lead to its shape."""


def standing_of(
    folder: RunFolder, ledger: Ledger, request: StructuralAnalysisRequest, snapshot: Snapshot
) -> Standing:
    """The cuts that a request says were carried out, found among the decisions of its run.

    Raises:
        UsageError: A decision is none of this run or has no cut, or the run is said to have begun
            with another number of parameters than before.
    """
    said = request.architecture
    if ledger.original is not None and ledger.original != said.original_parameters:
        raise UsageError(
            f"A run has one model to begin with; `{ledger.run}` began with {ledger.original} "
            f"parameters and now says {said.original_parameters}. Count them before the first cut, "
            "or give another model a run of its own."
        )
    if unknown := set(said.masked) - set(said.applied):
        raise UsageError(
            f"What is held at zero was carried out first; {', '.join(sorted(unknown))} is among "
            "`masked` and not among `applied`. Name it in both."
        )
    cuts, edits, masks = [], [], []
    for name in said.applied:
        decision = _decision(folder, ledger, name)
        if decision is None or decision.edit is None:
            raise UsageError(
                f"A checkpoint is described by the cuts that led to it; the decision {name} is "
                f"none that `{ledger.run}` got, or it has no cut. Send requests to the analysis "
                "that the decisions came from, with their ids."
            )
        held = name in said.masked
        (masks if held else edits).append(decision.edit)
        cuts.append(cut_of(decision, held=held))
    snapshot = replace(snapshot, edits=tuple(edits), masks=tuple(masks))
    return Standing(cuts=tuple(cuts), snapshot=snapshot)


def _decision(folder: RunFolder, ledger: Ledger, name: str) -> StructuralPruningDecision | None:
    if name in ledger.cuts:
        answer = kept_answer(folder.state, ledger.cuts[name].epoch)
        if answer is not None and answer.decision.decision_id == name:
            return answer.decision
    for epoch in reversed(folder.epochs("decisions")):  # what was kept is damaged
        try:
            decision = folder.read("decisions", epoch, StructuralPruningDecision)
        except (ZseiError, OSError):
            continue
        if decision is not None and decision.decision_id == name:
            return decision
    return None
