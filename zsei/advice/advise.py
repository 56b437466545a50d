"""What the numbers mean and what to try: by a language model where there is one, else by rules.

A language model writes words and picks from lists; it changes no number. Where an agent fails, the
rules stand in for its topic, and the failure is kept as data.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from zsei.advice.agents import Session, doubt, plan, read_flow
from zsei.advice.facts import Facts
from zsei.advice.names import Reader
from zsei.advice.objections import object_to, objected_last
from zsei.advice.order import by_gain_per_loss, explain_order, renumbered, untried, with_rationale
from zsei.advice.rules import TOPICS, explain
from zsei.cards import AgentCard, Cards, Stage
from zsei.errors import LLMError
from zsei.llm import Line
from zsei.records import AnalysisRecord, Failure, Interpretation, Objection, Proposal
from zsei.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What was said, proposed and objected."""

    interpretations: tuple[Interpretation, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    """In the order to try them."""
    objections: tuple[Objection, ...] = ()
    failures: tuple[Failure, ...] = ()
    degraded: bool = False
    """Whether a language model was asked and rules stood in for it."""


def interpret(record: AnalysisRecord, cards: Cards, line: Line | None = None) -> Advice:
    """Say what a record's numbers mean.

    Args:
        record: Holding components, measurements, findings and validation.
        cards: Agents of the stage "interpret" speak one after the other, in order of name.
        line: Whom to ask; None lets the rules speak.

    Returns:
        Interpretations in which every number is the record's. The rules speak on the topics of
        agents that are not there or failed, and on whether the rankings may be believed.
    """
    session = _session(Facts(record), cards, line)
    said: list[Interpretation] = []
    failed: list[tuple[AgentCard, LLMError]] = []
    if session.line is not None:
        for agent in _agents(cards, "interpret"):
            try:
                said.append(read_flow(agent, session))
            except LLMError as error:
                failed.append((agent, error))
    spoken = {interpretation.agent for interpretation in said}
    rules = explain(session.facts, session.reader, cards, spoken)
    return _advice(_in_order(said, rules), failed=failed)


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
    session = _session(Facts(record, open_to_try), cards, line)
    said: list[Interpretation] = []
    proposals: dict[str, Proposal] = {}
    failed: list[tuple[AgentCard, LLMError]] = []
    if session.line is not None and (open_to_try or record.verdicts):
        for agent in _agents(cards, "propose"):
            try:
                told, wanted = plan(agent, session)
            except LLMError as error:
                failed.append((agent, error))
            else:
                said.append(told)
                proposals |= {p.id: p for p in wanted if p.id not in proposals}
    if not proposals:
        ordered = by_gain_per_loss(open_to_try, record)
        said += explain_order(ordered, session.facts, session.reader, cards)
        first = ordered[: settings.max_proposals]
        worded = with_rationale(first, session.facts, session.reader, cards)
        proposals = {p.id: p for p in worded}
    ranked = renumbered([*proposals.values()][: settings.max_proposals])
    return _advice(said, proposals=ranked, failed=failed)


def criticise(
    record: AnalysisRecord,
    proposals: Sequence[Proposal],
    cards: Cards,
    line: Line | None = None,
) -> Advice:
    """Say what does not stand of what was said, found and proposed.

    Args:
        record: With the interpretations so far, its checks and its verdicts.
        proposals: In the order to try them.
        cards: Agents of the stage "criticise" object one after the other, in order of name.
        line: Whom to ask; None lets the rules object.

    Returns:
        The objections, and the proposals with those objected to behind the others. None is lost and
        nothing but their priority changes: the gate decides.
    """
    session = _session(Facts(record, tuple(proposals)), cards, line)
    said: list[Interpretation] = []
    objections: list[Objection] = []
    failed: list[tuple[AgentCard, LLMError]] = []
    if session.line is not None:
        for agent in _agents(cards, "criticise"):
            try:
                told, held = doubt(agent, session)
            except LLMError as error:
                failed.append((agent, error))
            else:
                objections += held
                said.append(told)
    if failed or not (session.line and _agents(cards, "criticise")):
        objections += object_to(proposals, session.facts, session.reader, cards)
    ordered = objected_last(proposals, objections)
    return _advice(said, proposals=ordered, objections=objections, failed=failed)


def _session(facts: Facts, cards: Cards, line: Line | None) -> Session:
    return Session(facts=facts, reader=Reader(facts, cards), cards=cards, line=line)


def _agents(cards: Cards, stage: Stage) -> list[AgentCard]:
    return [card for _, card in sorted(cards.agents.items()) if card.stage == stage]


def _in_order(
    said: Iterable[Interpretation], rules: Iterable[Interpretation]
) -> list[Interpretation]:
    """Topic by topic, whoever spoke; agents of their own topics come behind."""
    places = {topic.name: place for place, topic in enumerate(TOPICS)}
    agents = {topic.agent: place for place, topic in reversed([*enumerate(TOPICS)])}

    def place(told: Interpretation) -> int:
        known = places if told.voice == "rules" else agents
        return known.get(told.agent, len(TOPICS))

    return sorted((*said, *rules), key=place)


def _advice(
    said: Sequence[Interpretation],
    *,
    proposals: Sequence[Proposal] = (),
    objections: Sequence[Objection] = (),
    failed: Sequence[tuple[AgentCard, LLMError]],
) -> Advice:
    return Advice(
        interpretations=tuple(said),
        proposals=tuple(proposals),
        objections=tuple(objections),
        failures=tuple(_failures(failed)),
        degraded=bool(failed),
    )


def _failures(failed: Iterable[tuple[AgentCard, LLMError]]) -> list[Failure]:
    """One failure per reason, with all agents that it stopped."""
    reasons: dict[str, list[str]] = {}
    for agent, error in failed:
        reasons.setdefault(str(error), []).append(agent.name)
    return [
        Failure(
            stage="advice",
            what=f"no usable answer for {', '.join(names)}; rules stand in",
            why=why,
            fix="ask another model with --llm, or none",
        )
        for why, names in reasons.items()
    ]
