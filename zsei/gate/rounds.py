"""Tries proposals in order, gives rejected ones a smaller second chance, then all together."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from zsei.errors import SurgeryRefused, UsageError
from zsei.gate.baseline import Baseline
from zsei.gate.judge import refused
from zsei.gate.latency import measure_latency
from zsei.gate.phases import TrainingRun
from zsei.gate.sandbox import Trial, try_edits
from zsei.records import Proposal, Verdict
from zsei.settings import EditKind, Settings
from zsei.strategies import find_strategy
from zsei.strategies.candidates import shrink
from zsei.strategies.fitted import fitted, together
from zsei.subject.program import Program
from zsei.subject.types import Subject
from zsei.surgery.edits import (
    BypassLayer,
    Edit,
    FactoriseLinear,
    RemoveUnits,
    ReplaceLayer,
    stands_inside,
)
from zsei.surgery.fold import Means, bias_shifts, shift_program
from zsei.surgery.program_form import edit_program
from zsei.surgery.weights import Weights, put_in_program

Scores = Mapping[tuple[str, str], tuple[float, ...]]
COMBINATIONS = 4
"""Combinations tried at most: all accepted, then without the last one, and so on."""


@dataclass
class Outcome:
    """All proposals that were tried, in order, and what became of them."""

    proposals: list[Proposal] = field(default_factory=list)
    trials: dict[str, Trial] = field(default_factory=dict)
    combined: Trial | None = None
    fitted: dict[str, Weights] = field(default_factory=dict)
    """The values that proposals brought along which the gate accepted: by the proposal's id."""
    latency: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Latency ratio, with its interval, of what would be applied: by the id of its verdict."""

    def accepted(self) -> list[Proposal]:
        """Accepted proposals, in the order they were tried."""
        return [p for p in self.proposals if self.trials[p.id].verdict.outcome == "accepted"]


def try_all(
    subject: Subject,
    baseline: Baseline,
    proposals: Sequence[Proposal],
    scores: Scores,
    means: Means,
    settings: Settings,
    *,
    latency_pairs: int,
    out_of_time: Callable[[], bool],
    progress: Callable[[float], None],
    run: TrainingRun | None = None,
) -> Outcome:
    """Judge each proposal; a rejected one comes back at half its size, `settings.rounds` times.

    Args:
        subject: The model, its data and objective.
        baseline: The original, measured.
        proposals: In the order to try them.
        scores: Estimated divergence per unit; chooses the half that stays proposed.
        means: Mean value per site, folded into the biases behind removed units.
        settings: Limits, minima, rounds.
        latency_pairs: Timed pairs for what is accepted in the end.
        out_of_time: Asked before each proposal; the rest is then inconclusive.
        progress: Called with the share done.
        run: Where the training run stands that this is part of; its phase caps each cut, and all
            of them together.
    """
    outcome = Outcome()
    waiting = list(proposals)
    budget = len(waiting)
    for number in range(settings.rounds):
        smaller: list[Proposal] = []
        for proposal in waiting:
            if proposal.id in outcome.trials:
                continue
            if out_of_time():
                trial = Trial(verdict=_left_out(proposal))
            else:
                trial, brought = try_proposal(
                    subject, baseline, proposal, scores, means, settings, run
                )
                if brought and trial.verdict.outcome == "accepted":
                    outcome.fitted[proposal.id] = brought
            outcome.proposals.append(proposal)
            outcome.trials[proposal.id] = trial
            progress(min(0.9, 0.9 * len(outcome.trials) / max(budget, 1)))
            if trial.verdict.outcome == "rejected" and number + 1 < settings.rounds:
                half = shrink(subject, scores, proposal)
                if half is not None:
                    smaller.append(half)
        waiting = smaller
        budget += len(smaller)
    outcome.combined = _combine(subject, baseline, outcome, scores, means, settings, run)
    outcome.latency = {
        name: trial.latency for name, trial in outcome.trials.items() if trial.latency is not None
    } | _latency(subject, outcome, scores, means, settings, latency_pairs)
    progress(1.0)
    return outcome


def unjudged(proposals: Sequence[Proposal], reason: str) -> Outcome:
    """Every proposal inconclusive, because nothing could be tried."""
    return Outcome(
        proposals=list(proposals),
        trials={
            p.id: Trial(
                verdict=Verdict(
                    proposal_id=p.id, outcome="inconclusive", reason=f"inconclusive: {reason}"
                )
            )
            for p in proposals
        },
    )


def try_proposal(
    subject: Subject,
    baseline: Baseline,
    proposal: Proposal,
    scores: Scores,
    means: Means,
    settings: Settings,
    run: TrainingRun | None = None,
) -> tuple[Trial, Weights]:
    """One proposal through its strategy and the gate; what its strategy refuses is inapplicable.

    Also gives the values that the proposal brought along, if any.
    """
    brought: Weights = {}
    try:
        strategy = find_strategy(proposal.strategy)
        edits = strategy.edits(subject.anatomy, scores, proposal, settings)
        if subject.program is not None:
            brought = fitted(subject, proposal, edits)
        folding = _folding(subject, edits, means, [brought])
    except (SurgeryRefused, UsageError) as error:
        return Trial(verdict=refused("inapplicable", proposal.id, str(error))), {}
    trial = try_edits(
        subject, proposal, strategy.edit_kind, edits, baseline, settings, edit=folding, run=run
    )
    return trial, brought


def _folding(
    subject: Subject, edits: Sequence[Edit], means: Means, parts: Sequence[Weights]
) -> Callable[[Program, Sequence[Edit]], Program]:
    """Surgery that folds means into biases and puts in the values that proposals bring, for any
    export of the subject's model.
    """
    shifts = {} if subject.program is None else bias_shifts(subject.program, edits, means)
    values = {} if subject.program is None else together(subject.program, edits, parts, means)

    def edit(program: Program, here: Sequence[Edit]) -> Program:
        return put_in_program(shift_program(edit_program(program, here), shifts), values)

    return edit


def edits_of(
    subject: Subject, proposals: Sequence[Proposal], scores: Scores, settings: Settings
) -> tuple[tuple[Edit, ...], EditKind]:
    """The edits of several proposals as one set, and the widest kind among them."""
    order: tuple[EditKind, ...] = ("channels", "heads", "layers")
    edits: list[Edit] = []
    kind: EditKind = "channels"
    for proposal in proposals:
        strategy = find_strategy(proposal.strategy)
        edits += strategy.edits(subject.anatomy, scores, proposal, settings)
        if order.index(strategy.edit_kind) > order.index(kind):
            kind = strategy.edit_kind
    return merge(edits), kind


def merge(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """One edit per site: units named by several proposals go once; what is inside a layer that goes
    needs no edit any more.
    """  # fmt: skip
    whole = [edit for edit in edits if isinstance(edit, BypassLayer | ReplaceLayer)]
    # A layer that one would remove and another replace is replaced.
    whole.sort(key=lambda edit: isinstance(edit, ReplaceLayer))
    layers = {edit.site.component: edit for edit in whole}
    units: dict[tuple[str, str, bool], set[int]] = {}
    sites = {}
    for edit in edits:
        if isinstance(edit, RemoveUnits):
            key = (edit.site.component, edit.site.kind, edit.merged)
            sites[key] = edit.site
            units.setdefault(key, set()).update(edit.units)
    for component, kind, merged in units:
        if merged:  # what another unit takes over needs no mean in its place
            units.get((component, kind, False), set()).difference_update(
                units[component, kind, True]
            )

    def inside(component: str) -> bool:
        return any(stands_inside(component, layer) for layer in layers)

    kept = [key for key in units if units[key] and not inside(key[0])]
    thin = [e for e in edits if isinstance(e, FactoriseLinear) and not inside(e.site.component)]
    return (
        *(
            RemoveUnits(site=sites[key], units=tuple(sorted(units[key])), merged=key[2])
            for key in kept
        ),
        *dict.fromkeys(thin),
        *layers.values(),
    )


def _combine(
    subject: Subject, baseline: Baseline, outcome: Outcome, scores: Scores, means: Means,
    settings: Settings, run: TrainingRun | None,
) -> Trial | None:  # fmt: skip
    """All accepted proposals at once, dropping the last accepted one until the gate agrees."""
    accepted = outcome.accepted()
    trial: Trial | None = None
    for _ in range(COMBINATIONS):
        if len(accepted) < 2:
            break
        name = "+".join(p.id for p in accepted)
        proposal = accepted[0].model_copy(update={"id": name})
        try:
            edits, kind = edits_of(subject, accepted, scores, settings)
        except (SurgeryRefused, UsageError) as error:
            trial = Trial(verdict=refused("inapplicable", name, str(error)))
        else:
            # One proposal may hold all others: then they have been measured together already.
            same = [
                p for p in accepted
                if set(edits_of(subject, [p], scores, settings)[0]) == set(edits)
            ]  # fmt: skip
            if same:
                known = outcome.trials[same[0].id]
                verdict = known.verdict.model_copy(update={"proposal_id": name})
                return replace(known, verdict=verdict)
            try:
                parts = [outcome.fitted.get(p.id, {}) for p in accepted]
                folding = _folding(subject, edits, means, parts)
            except SurgeryRefused as error:
                trial = Trial(verdict=refused("inapplicable", name, str(error)))
                accepted = accepted[:-1]
                continue
            trial = try_edits(
                subject, proposal, kind, edits, baseline, settings, edit=folding, run=run
            )
        if trial.verdict.outcome == "accepted":
            return trial
        accepted = accepted[:-1]
    return trial


def _latency(
    subject: Subject, outcome: Outcome, scores: Scores, means: Means, settings: Settings, pairs: int
) -> dict[str, tuple[float, float, float]]:
    """Latency of what would be applied: the combination, or the only accepted proposal."""
    chosen = outcome.accepted()
    combined = outcome.combined
    if combined is not None and combined.verdict.outcome == "accepted":
        names = combined.verdict.proposal_id.split("+")
        chosen = [proposal for proposal in chosen if proposal.id in names]
    if not chosen or not pairs or subject.program is None:
        return {}
    if combined is None or combined.verdict.outcome != "accepted":
        chosen = chosen[:1]
    edits, _ = edits_of(subject, chosen, scores, settings)
    parts = [outcome.fitted.get(p.id, {}) for p in chosen]
    edited = _folding(subject, edits, means, parts)(subject.program, edits)
    found = measure_latency(subject.program, edited, subject.held_out[0].inputs, pairs=pairs)
    return {"+".join(proposal.id for proposal in chosen): found}


def _left_out(proposal: Proposal) -> Verdict:
    return Verdict(
        proposal_id=proposal.id,
        outcome="inconclusive",
        reason="inconclusive: the time budget ended before it could be tried",
    )
