"""Lets one agent speak: its card says what it is asked, shown and may answer with."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from zsei.advice.evidence import data_block
from zsei.advice.facts import Facts
from zsei.advice.grounding import Grounded, ground
from zsei.advice.names import Reader
from zsei.advice.order import untried
from zsei.advice.rules import VOICE, written
from zsei.advice.schemas import Critique, Reading, StrategyPlan, Vocabulary
from zsei.advice.variants import as_proposal
from zsei.cards import AgentCard, Cards
from zsei.errors import LLMInvalid
from zsei.llm import Line, LLMRequest, ask_typed
from zsei.llm.card_request import request_of
from zsei.records import AnalysisRecord, Claim, Interpretation, Objection, Proposal
from zsei.settings import LLMSettings
from zsei.strategies import STRATEGIES

Answer = TypeVar("Answer", Reading, StrategyPlan, Critique)


@dataclass(frozen=True, kw_only=True)
class Session:
    """What all agents of one analysis share."""

    facts: Facts
    reader: Reader
    cards: Cards
    line: Line | None
    """Whom to ask; None lets rules speak."""

    @property
    def voice(self) -> str:
        """Name of the model that answered last."""
        return self.line.voice if self.line is not None else VOICE

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The closed lists of this record."""
        return _vocabulary(self.facts, self.cards)


def read_flow(agent: AgentCard, session: Session) -> Interpretation:
    """What an interpreting agent says, without the sentences that do not hold.

    Args:
        agent: Its card.
        session: What it is shown and whom it asks.

    Raises:
        LLMError: It failed, or nothing that it said holds.
    """
    answer = _ask(agent, session, Reading)
    grounded = _grounded(answer.text, session)
    if not grounded.text:
        raise _nothing_holds(agent, session, grounded)
    return written(
        agent.name, grounded.text, grounded.claims, grounded.struck, answer.finding_ids,
        session.voice,
    )  # fmt: skip


def plan(agent: AgentCard, session: Session) -> tuple[Interpretation, tuple[Proposal, ...]]:
    """What a proposing agent wants tried, in its order, and why.

    Choices keep everything the program put into the candidate; only the words are the agent's.

    Raises:
        LLMError: It failed.
    """
    answer = _ask(agent, session, StrategyPlan)
    record = session.facts.record
    candidates = {candidate.id: candidate for candidate in session.facts.candidates}
    chosen = [(candidates[c.candidate], c.rationale) for c in answer.choices]
    chosen += [(as_proposal(variant, record), variant.rationale) for variant in answer.variants]
    claims: list[Claim] = []
    struck = 0
    proposals: dict[str, Proposal] = {}
    for proposal, rationale in chosen:
        if proposal.id in proposals:
            continue
        said = _grounded(rationale, session, proposal.components)
        struck += said.struck
        claims += said.claims
        proposals[proposal.id] = proposal.model_copy(
            update={
                "rationale": said.text or proposal.rationale,
                "source": session.voice,
                "priority": len(proposals),
            }
        )
    ids = tuple(dict.fromkeys(name for p in proposals.values() for name in p.finding_ids))
    grounded = _grounded(answer.text, session)
    told = written(
        agent.name, grounded.text, (*grounded.claims, *claims), grounded.struck + struck, ids,
        session.voice,
    )  # fmt: skip
    return told, untried(proposals.values(), record)


def doubt(agent: AgentCard, session: Session) -> tuple[Interpretation, tuple[Objection, ...]]:
    """What a criticising agent holds against what was said and proposed.

    An objection of which no sentence holds is none; it is counted with what was struck.

    Raises:
        LLMError: It failed.
    """
    answer = _ask(agent, session, Critique)
    voice = session.voice
    claims: list[Claim] = []
    struck = 0
    objections: dict[tuple[str, str], Objection] = {}
    for doubted in answer.objections:
        said = _grounded(doubted.text, session, _components(doubted.about, session.facts))
        claims += said.claims
        struck += said.struck
        if said.text:
            objections.setdefault(
                (doubted.about, doubted.kind),
                Objection(
                    about=doubted.about, kind=doubted.kind, agent=agent.name, voice=voice,
                    text=said.text,
                ),
            )  # fmt: skip
    grounded = _grounded(answer.text, session)
    told = written(
        agent.name, grounded.text, (*grounded.claims, *claims), grounded.struck + struck, (), voice
    )
    return told, tuple(objections.values())


def sayings(record: AnalysisRecord) -> frozenset[str]:
    """Ids of the interpretations of a record."""
    return frozenset(said.id for said in record.interpretations)


def request_to(agent: AgentCard, session: Session, limits: LLMSettings) -> LLMRequest:
    """What an agent is asked about a record."""
    data = data_block(agent.evidence, session.facts, session.cards, whole=agent.knowledge)
    return request_of(agent, session.cards, data, limits)


def _ask(agent: AgentCard, session: Session, output_type: type[Answer]) -> Answer:
    """The validated answer to the agent's question."""
    assert session.line is not None, "agents speak where there is a line"
    request = request_to(agent, session, session.line.settings)
    return ask_typed(session.line, request, output_type, dict(session.vocabulary))


def _vocabulary(facts: Facts, cards: Cards) -> Vocabulary:
    executable = {strategy.name for strategy in STRATEGIES}
    findings = frozenset(facts.findings)
    candidates = frozenset(candidate.id for candidate in facts.candidates)
    return Vocabulary(
        components=frozenset(facts.components),
        findings=findings,
        candidates=candidates,
        said=sayings(facts.record) | findings | candidates,
        strategies={
            entry.name: frozenset(c.id for c in facts.record.components if c.kind in entry.takes)
            for entry in cards.strategies.values()
            if entry.name in executable
        },
    )


def _grounded(text: str, session: Session, subject: Sequence[str] = ()) -> Grounded:
    return ground(text, session.facts, session.reader, subject=frozenset(subject))


def _components(name: str, facts: Facts) -> Sequence[str]:
    """The components that a finding or a proposal is about."""
    about = facts.findings.get(name) or facts.proposals.get(name)
    return about.components if about is not None else ()


def _nothing_holds(agent: AgentCard, session: Session, grounded: Grounded) -> LLMInvalid:
    return LLMInvalid(
        f"What the agent {agent.name} says must hold against the record, but none of the "
        f"{grounded.struck} statements of {session.voice} did; ask a stronger model."
    )
