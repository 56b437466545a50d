"""Proposing and judging take turns: what was rejected goes back with its measured numbers.

The rules have the first turn, exactly as they have it without a language model: whatever it says
later, their proposals are tried and their combination is measured, and the result is never worse.
A language model then has turns of its own, each with all verdicts so far in front of it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from zsei.advice.advise import Advice, criticise, propose
from zsei.advice.rules import VOICE
from zsei.cards import Cards
from zsei.gate.result import Outcome
from zsei.gate.rounds import Bench, try_all
from zsei.llm import Line
from zsei.records import AnalysisRecord, Interpretation, Proposal, Round
from zsei.records import Outcome as Ending
from zsei.strategies.candidates import explicit


def take_turns(
    record: AnalysisRecord,
    possible: Sequence[Proposal],
    bench: Bench,
    cards: Cards,
    line: Line | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[AnalysisRecord, Outcome]:
    """Let the rules and then the language model propose, and the gate judge, until the end.

    The end is that the language model has nothing new, that its turns (`strategist_rounds`), its
    budget or the time of the analysis are used up, or that it fails.

    Args:
        record: What was measured and said; nothing is judged in it yet.
        possible: Candidates that the program can carry out.
        bench: Where they are tried.
        cards: Agents of the stage "propose" choose; those of the stage "criticise" object to what
            a language model chose, which puts it behind the rest of its turn.
        line: Whom to ask; None leaves it with the rules.
        progress: Called with the share done.

    Returns:
        The record with interpretations, objections, failures and one `Round` per turn, and the
        outcome of all trials. Proposals and verdicts are in the outcome only.
    """
    outcome, settings = Outcome(), bench.settings
    asks = line is not None and possible and settings.max_proposals and not bench.closed
    turns = 1 + (settings.strategist_rounds if asks else 0)

    def turn(record: AnalysisRecord, told: Advice, voice: str) -> AnalysisRecord:
        record = with_words(record, told)
        if not told.proposals:
            return record
        done, before = len(record.rounds), len(outcome.proposals)
        try_all(bench, told.proposals, outcome, lambda share: progress((done + share) / turns))
        tried = outcome.proposals[before:]
        return _with_round(record, told.interpretations, tried, outcome, voice)

    told = propose(record, possible, cards, settings)
    told = replace(told, proposals=_new(told.proposals, outcome, bench))
    held = criticise(with_words(record, told), told.proposals, cards)
    record = turn(record, replace(told, objections=held.objections), VOICE)
    for _ in range(turns - 1):
        if line is None or bench.out_of_time():
            break
        calls = len(line.log)
        told = _own(propose(seen(record, outcome), possible, cards, settings, line))
        if len(line.log) == calls and len(record.rounds) > 1:
            break  # nobody could be asked any more: the end of the budget, not a failure
        told = replace(told, proposals=_new(told.proposals, outcome, bench))
        if told.proposals or len(record.rounds) < 2:
            told = _criticised(told, seen(with_words(record, told), outcome), cards, line)
        record = turn(record, replace(told, proposals=_last(told.proposals, outcome)), line.voice)
        if not told.proposals:
            break
    progress(1.0)
    return record, outcome


def seen(record: AnalysisRecord, outcome: Outcome) -> AnalysisRecord:
    """The record with what was tried so far and how it ended: what the next turn is shown."""
    return record.model_copy(
        update={
            "proposals": tuple(outcome.proposals),
            "verdicts": tuple(outcome.trials[p.id].verdict for p in outcome.proposals),
            "combined": outcome.combined.verdict if outcome.combined else None,
        }
    )


def _own(told: Advice) -> Advice:
    """What the language model itself said and wants: where it failed, rules stood in, and they have
    had their turn.
    """
    return replace(
        told,
        interpretations=tuple(i for i in told.interpretations if i.voice != VOICE),
        proposals=tuple(p for p in told.proposals if p.source != VOICE),
    )


def _new(proposals: Sequence[Proposal], outcome: Outcome, bench: Bench) -> tuple[Proposal, ...]:
    """Those that were not tried yet, each once and with its units named."""
    found: dict[str, Proposal] = {}
    for proposal in proposals:
        settled = explicit(bench.subject, bench.scores, proposal)
        if settled.id not in outcome.trials:
            found.setdefault(settled.id, settled)
    return tuple(found.values())


def _last(proposals: Sequence[Proposal], outcome: Outcome) -> tuple[Proposal, ...]:
    """The same with priorities behind those of all that was tried."""
    first = 1 + max((proposal.priority for proposal in outcome.proposals), default=-1)
    return tuple(
        proposal.model_copy(update={"priority": first + place})
        for place, proposal in enumerate(proposals)
    )


def _criticised(told: Advice, record: AnalysisRecord, cards: Cards, line: Line) -> Advice:
    """What was said and proposed, in the order of the critics and with their objections.

    Where they could not be asked any more, what they would have said is missing and no failure.
    """
    calls = len(line.log)
    held = criticise(record, told.proposals, cards, line)
    return replace(
        told,
        interpretations=(*told.interpretations, *held.interpretations),
        objections=held.objections,
        proposals=held.proposals,
        failures=(*told.failures, *(held.failures if len(line.log) > calls else ())),
    )


def with_words(record: AnalysisRecord, told: Advice) -> AnalysisRecord:
    """The record with what was said and objected, each once, and what failed."""
    said = {i.id: i for i in (*record.interpretations, *told.interpretations)}
    return record.model_copy(
        update={
            "interpretations": tuple(said.values()),
            "objections": tuple(dict.fromkeys((*record.objections, *told.objections))),
            "failures": tuple(dict.fromkeys((*record.failures, *told.failures))),
        }
    )


def _with_round(
    record: AnalysisRecord,
    said: Sequence[Interpretation],
    tried: Sequence[Proposal],
    outcome: Outcome,
    voice: str,
) -> AnalysisRecord:
    """The record with one more turn: who chose, what was tried, how it ended, what is saved."""
    ended: Counter[Ending] = Counter(outcome.trials[p.id].verdict.outcome for p in tried)
    turn = Round(
        number=len(record.rounds) + 1,
        voice=voice,
        interpretation_ids=tuple(interpretation.id for interpretation in said),
        proposal_ids=tuple(proposal.id for proposal in tried),
        outcomes={name: ended[name] for name in sorted(ended)},
        gain=outcome.gain(),
    )
    return record.model_copy(update={"rounds": (*record.rounds, turn)})
