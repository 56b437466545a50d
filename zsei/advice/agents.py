"""Lets one agent speak: its card says what it is asked, shown and may answer with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from zsei.advice.evidence import data_block
from zsei.advice.facts import Facts
from zsei.advice.grounding import Cited, Grounded, ground
from zsei.advice.names import Reader
from zsei.advice.order import untried
from zsei.advice.rules import written
from zsei.advice.schemas import CitedNumber, Reading, StrategyPlan, Vocabulary
from zsei.advice.variants import as_proposal
from zsei.cards import AgentCard, Cards
from zsei.errors import LLMInvalid
from zsei.llm import Line, LLMRequest, ask_typed
from zsei.records import Claim, Interpretation, Proposal
from zsei.strategies import STRATEGIES

Answer = TypeVar("Answer", Reading, StrategyPlan)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What all agents of one analysis share."""

    facts: Facts
    reader: Reader
    cards: Cards
    line: Line


def read_flow(agent: AgentCard, session: Session) -> Interpretation:
    """What an interpreting agent says, without the sentences that do not hold.

    Args:
        agent: Its card.
        session: What it is shown and whom it asks.

    Raises:
        LLMError: It failed, or nothing that it said holds.
    """
    answer = _ask(agent, session, Reading)
    grounded = _grounded(answer.text, answer.claims, answer.finding_ids, session)
    if not grounded.text:
        raise _nothing_holds(agent, session, grounded)
    return written(
        agent.name, grounded.text, grounded.claims, grounded.struck, answer.finding_ids,
        session.line.voice,
    )  # fmt: skip


def plan(agent: AgentCard, session: Session) -> tuple[Interpretation, tuple[Proposal, ...]]:
    """What a proposing agent wants tried, in its order, and why.

    Choices keep everything the program put into the candidate; only the words are the agent's.

    Raises:
        LLMError: It failed, or nothing that it said holds.
    """
    answer = _ask(agent, session, StrategyPlan)
    candidates = {candidate.id: candidate for candidate in session.facts.candidates}
    chosen = [(candidates[c.candidate], c.rationale) for c in answer.choices]
    chosen += [(as_proposal(v, session.facts.record), v.rationale) for v in answer.variants]
    claims: list[Claim] = []
    struck = 0
    proposals: dict[str, Proposal] = {}
    for proposal, rationale in chosen:
        if proposal.id in proposals:
            continue
        said = _grounded(rationale, answer.claims, proposal.finding_ids, session, proposal)
        struck += said.struck
        claims += said.claims[len(answer.claims) :]
        proposals[proposal.id] = proposal.model_copy(
            update={
                "rationale": said.text or proposal.rationale,
                "source": session.line.voice,
                "priority": len(proposals),
            }
        )
    ids = tuple(dict.fromkeys(name for p in proposals.values() for name in p.finding_ids))
    grounded = _grounded(answer.text, answer.claims, ids, session)
    told = written(
        agent.name, grounded.text, (*grounded.claims, *claims), grounded.struck + struck, ids,
        session.line.voice,
    )  # fmt: skip
    kept = untried(proposals.values(), session.facts.record)
    return told, kept


def _ask(agent: AgentCard, session: Session, output_type: type[Answer]) -> Answer:
    """The agent's question, as its card puts it, and the validated answer."""
    facts, cards, limits = session.facts, session.cards, session.line.settings
    data = data_block(agent.evidence, facts, cards)
    prompt = cards.prompts[agent.prompt]
    values = {"purpose": agent.purpose, "data": data}
    request = LLMRequest(
        agent=agent.name,
        system=agent.system,
        prompt=prompt.fill(**{name: values[name] for name in prompt.inputs}),
        max_tokens=min(agent.budget.tokens, limits.max_tokens),
        seconds=min(agent.budget.seconds, limits.deadline_seconds),
    )
    context = dict(_vocabulary(facts, cards))
    return ask_typed(session.line, request, output_type, context)


def _vocabulary(facts: Facts, cards: Cards) -> Vocabulary:
    executable = {strategy.name for strategy in STRATEGIES}
    return Vocabulary(
        measured={name: frozenset(fact.name for fact in known) for name, known in facts.at.items()},
        findings=frozenset(facts.findings),
        candidates=frozenset(candidate.id for candidate in facts.candidates),
        strategies={
            entry.name: frozenset(c.id for c in facts.record.components if c.kind in entry.takes)
            for entry in cards.strategies.values()
            if entry.name in executable
        },
    )


def _grounded(
    text: str,
    claims: Sequence[CitedNumber],
    findings: Sequence[str],
    session: Session,
    proposal: Proposal | None = None,
) -> Grounded:
    cited = [Cited(component=c.component, measurement=c.measurement, value=c.value) for c in claims]
    subject = session.facts.expected(proposal) if proposal is not None else ()
    return ground(
        text, session.facts, session.reader, cited=cited, findings=findings, subject=subject
    )


def _nothing_holds(agent: AgentCard, session: Session, grounded: Grounded) -> LLMInvalid:
    return LLMInvalid(
        f"What the agent {agent.name} says must hold against the record, but none of the "
        f"{grounded.struck} statements of {session.line.voice} did; ask a stronger model."
    )
