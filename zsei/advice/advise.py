"""What the numbers mean and what to try: by a language model where there is one, else by rules.

A language model writes words and picks from lists; it changes no number. Where it fails, the rules
stand in, and the failure is kept as data.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from zsei.advice.agents import Session, plan, read_flow
from zsei.advice.facts import Facts
from zsei.advice.names import Reader
from zsei.advice.order import by_gain_per_loss, explain_order, untried
from zsei.advice.rules import explain
from zsei.cards import AgentCard, Cards
from zsei.errors import LLMError
from zsei.llm import Line
from zsei.records import AnalysisRecord, Failure, Interpretation, Proposal
from zsei.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What was said and proposed."""

    interpretations: tuple[Interpretation, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    """In the order to try them."""
    failures: tuple[Failure, ...] = ()
    degraded: bool = False
    """Whether a language model was asked and rules stood in for it."""


def interpret(
    record: AnalysisRecord,
    cards: Cards,
    line: Line | None = None,
) -> Advice:
    """Say what a record's numbers mean.

    Args:
        record: Holding components, measurements, findings and validation.
        cards: Agents of the stage "interpret" speak one after the other, in order of name.
        line: Whom to ask; None lets the rules speak.

    Returns:
        Interpretations in which every number was checked. With `degraded`, the rules' own stand
        beside what the language model still said.
    """
    facts = Facts(record)
    reader = Reader(facts, cards)
    session = _session(facts, reader, cards, line)
    said: list[Interpretation] = []
    failures: list[Failure] = []
    if session is not None:
        for agent in _agents(cards, "interpret"):
            try:
                said.append(read_flow(agent, session))
            except LLMError as error:
                failures.append(_failure(agent, error))
    if not said or failures:
        said += explain(facts, reader, cards)
    return _advice(said, (), failures)


def propose(
    record: AnalysisRecord,
    candidates: Sequence[Proposal],
    cards: Cards,
    settings: Settings,
    line: Line | None = None,
) -> Advice:
    """Choose among candidates and put them in order.

    Args:
        record: As for `interpret`; candidates its verdicts have judged are not proposed again.
        candidates: What the program can carry out. `flops_removed_share`, `parameters_removed` and
            `predicted_loss` among their expected measurements decide the rules' order.
        cards: Agents of the stage "propose"; their choices are joined in order of name.
        settings: `max_proposals` bounds the result.
        line: Whom to ask; None lets the rules order.

    Returns:
        Proposals with their priority, 0 first.
    """
    open_to_try = untried(candidates, record)
    facts = Facts(record, open_to_try)
    reader = Reader(facts, cards)
    session = _session(facts, reader, cards, line)
    said: list[Interpretation] = []
    proposals: dict[str, Proposal] = {}
    failures: list[Failure] = []
    if session is not None and open_to_try:
        for agent in _agents(cards, "propose"):
            try:
                told, wanted = plan(agent, session)
            except LLMError as error:
                failures.append(_failure(agent, error))
            else:
                said.append(told)
                proposals |= {p.id: p for p in wanted if p.id not in proposals}
    if not proposals:
        ordered = by_gain_per_loss(open_to_try, record)
        said += explain_order(ordered, facts, reader)
        proposals = {p.id: p for p in ordered}
    first = [*proposals.values()][: settings.max_proposals]
    ranked = [p.model_copy(update={"priority": place}) for place, p in enumerate(first)]
    return _advice(said, ranked, failures)


def _session(facts: Facts, reader: Reader, cards: Cards, line: Line | None) -> Session | None:
    if line is None:
        return None
    return Session(facts=facts, reader=reader, cards=cards, line=line)


def _agents(cards: Cards, stage: str) -> list[AgentCard]:
    return [card for _, card in sorted(cards.agents.items()) if card.stage == stage]


def _failure(agent: AgentCard, error: LLMError) -> Failure:
    return Failure(
        stage="advice",
        what=f"the agent {agent.name} got no usable answer; rules stand in",
        why=str(error),
        fix="ask another model with --llm, or none",
    )


def _advice(
    said: Sequence[Interpretation], proposals: Sequence[Proposal], failures: Sequence[Failure]
) -> Advice:
    return Advice(
        interpretations=tuple(said),
        proposals=tuple(proposals),
        failures=tuple(failures),
        degraded=bool(failures),
    )
