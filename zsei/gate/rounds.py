"""Tries proposals in order, gives rejected ones a smaller second chance, then all together.

Whoever proposes hands in one list after the other; what was judged before is not judged again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from zsei.errors import SurgeryRefused, UsageError
from zsei.gate.baseline import Baseline, measure_baseline
from zsei.gate.judge import refused
from zsei.gate.latency import measure_latency
from zsei.gate.phases import TrainingRun
from zsei.gate.result import Outcome, saved
from zsei.gate.sandbox import Trial, try_edits
from zsei.gate.together import Scores, edits_of, folding
from zsei.records import Proposal, Verdict
from zsei.settings import Settings
from zsei.strategies import find_strategy
from zsei.strategies.candidates import shrink
from zsei.strategies.fitted import fitted
from zsei.subject.types import Subject
from zsei.surgery.fold import Means
from zsei.surgery.weights import Weights

COMBINATIONS = 4
"""Combinations tried at most per round: all, then without the last one, and so on."""
TRYING = 0.9
"""Share of the progress that trying proposals is; combining them is the rest."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Where proposals are tried: the model, what is known of it, and the limits."""

    subject: Subject
    """The model, its data and objective."""
    scores: Scores
    """Estimated divergence per unit; chooses the half of a rejected proposal that stays."""
    means: Means
    """Mean value per site, folded into the biases behind removed units."""
    settings: Settings
    """Limits, minima, rounds."""
    out_of_time: Callable[[], bool] = lambda: False
    """Asked before each proposal; the rest is then inconclusive."""
    run: TrainingRun | None = None
    """Where the training run stands that this is part of; its phase caps each cut, and all of
    them together."""
    closed: str = ""
    """Why nothing can be tried on this model; every proposal is then inconclusive."""

    @cached_property
    def baseline(self) -> Baseline:
        """The original, measured when it is first asked for."""
        return measure_baseline(self.subject, self.settings)


def try_all(
    bench: Bench,
    proposals: Sequence[Proposal],
    outcome: Outcome,
    progress: Callable[[float], None] = lambda _: None,
) -> None:
    """Judge each proposal; a rejected one comes back at half its size, `settings.rounds` times.

    Then what was accepted here is judged together with the best accepted set there was before,
    which is replaced by nothing that saves less.

    Args:
        bench: Where to try them.
        proposals: In the order to try them, each with its units named (`explicit`); those that
            `outcome` holds already are left out.
        outcome: What was tried before; gets what is tried now.
        progress: Called with the share of this list that is done.
    """
    best, before = outcome.best(), len(outcome.proposals)
    waiting = list(proposals)
    budget = max(len(waiting), 1)
    for number in range(bench.settings.rounds):
        smaller: list[Proposal] = []
        for proposal in waiting:
            if proposal.id in outcome.trials:
                continue
            trial = _tried(bench, proposal, outcome)
            progress(min(TRYING, TRYING * (len(outcome.proposals) - before) / budget))
            if trial.verdict.outcome == "rejected" and number + 1 < bench.settings.rounds:
                half = shrink(bench.subject, bench.scores, proposal)
                if half is not None:
                    smaller.append(half)
        waiting = smaller
        budget += len(smaller)
    new = {proposal.id for proposal in outcome.proposals[before:]}
    _combine(bench, outcome, [*best, *(p for p in outcome.accepted() if p.id in new)])
    progress(1.0)


def _tried(bench: Bench, proposal: Proposal, outcome: Outcome) -> Trial:
    """One proposal tried now, unless nothing can be tried any more."""
    if bench.closed or bench.out_of_time():
        trial = Trial(verdict=_left_out(proposal, bench.closed))
    else:
        trial, brought = try_proposal(bench, proposal)
        if brought and trial.verdict.outcome == "accepted":
            outcome.fitted[proposal.id] = brought
    outcome.proposals.append(proposal)
    outcome.trials[proposal.id] = trial
    return trial


def try_proposal(bench: Bench, proposal: Proposal) -> tuple[Trial, Weights]:
    """One proposal through its strategy and the gate; what its strategy refuses is inapplicable.

    Also gives the values that the proposal brought along, if any.
    """
    subject, settings = bench.subject, bench.settings
    brought: Weights = {}
    try:
        strategy = find_strategy(proposal.strategy)
        edits = strategy.edits(subject.anatomy, bench.scores, proposal, settings)
        if subject.program is not None:
            brought = fitted(subject, proposal, edits)
        edit = folding(subject, edits, bench.means, [brought])
    except (SurgeryRefused, UsageError) as error:
        return Trial(verdict=refused("inapplicable", proposal.id, str(error))), {}
    trial = try_edits(
        subject, proposal, strategy.edit_kind, edits, bench.baseline, settings, edit=edit,
        run=bench.run,
    )  # fmt: skip
    return trial, brought


def _combine(bench: Bench, outcome: Outcome, members: Sequence[Proposal]) -> None:
    """All members at once, dropping the last one until the gate agrees; the better set stays."""
    left = list(members)
    for _ in range(COMBINATIONS):
        if len(left) < 2:
            return
        name = "+".join(proposal.id for proposal in left)
        if name not in outcome.joined:
            outcome.joined[name] = _joined(bench, outcome, left, name)
        trial = outcome.joined[name]
        if _better(trial.verdict, outcome.combined):
            outcome.combined = trial
        if trial.verdict.outcome == "accepted":
            return
        left.pop()


def _better(verdict: Verdict, known: Trial | None) -> bool:
    """Whether a combination takes the place of the one that is known."""
    if known is None or known.verdict.outcome != "accepted":
        return True
    return verdict.outcome == "accepted" and saved(verdict) > saved(known.verdict)


def _joined(bench: Bench, outcome: Outcome, members: Sequence[Proposal], name: str) -> Trial:
    """Several accepted proposals as one edit through the gate."""
    subject, scores, settings = bench.subject, bench.scores, bench.settings
    try:
        edits, kind = edits_of(subject, members, scores, settings)
        # One proposal may hold all others: then they have been measured together already.
        for member in members:
            if set(edits_of(subject, [member], scores, settings)[0]) == set(edits):
                known = outcome.trials[member.id]
                return replace(
                    known, verdict=known.verdict.model_copy(update={"proposal_id": name})
                )
        parts = [outcome.fitted.get(member.id, {}) for member in members]
        edit = folding(subject, edits, bench.means, parts)
    except (SurgeryRefused, UsageError) as error:
        return Trial(verdict=refused("inapplicable", name, str(error)))
    proposal = members[0].model_copy(update={"id": name})
    return try_edits(
        subject, proposal, kind, edits, bench.baseline, settings, edit=edit, run=bench.run
    )


def time_best(bench: Bench, outcome: Outcome, pairs: int) -> None:
    """Measure the latency of what would be applied: the accepted set that saves most.

    Args:
        bench: Where it was tried.
        outcome: Gets the ratio after / before with its interval, beside those that the gate took.
        pairs: Timed pairs; 0 leaves the clock alone.
    """
    subject, chosen = bench.subject, outcome.best()
    outcome.latency |= {
        name: trial.latency for name, trial in outcome.trials.items() if trial.latency is not None
    }
    if not chosen or not pairs or subject.program is None:
        return
    edits, _ = edits_of(subject, chosen, bench.scores, bench.settings)
    parts = [outcome.fitted.get(p.id, {}) for p in chosen]
    edited = folding(subject, edits, bench.means, parts)(subject.program, edits)
    found = measure_latency(subject.program, edited, subject.held_out[0].inputs, pairs=pairs)
    outcome.latency["+".join(proposal.id for proposal in chosen)] = found


def _left_out(proposal: Proposal, closed: str) -> Verdict:
    why = closed or "the time budget ended before it could be tried"
    return Verdict(proposal_id=proposal.id, outcome="inconclusive", reason=f"inconclusive: {why}")
