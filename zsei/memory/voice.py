"""Lets the planner and the librarian speak: their cards say how they are asked."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import JsonValue

from zsei.cards import Cards, Evidence
from zsei.llm.card_request import enclosed, knowledge_of, request_of
from zsei.llm.line import Line
from zsei.llm.typed import ask_typed
from zsei.records import Record

Said = TypeVar("Said", bound=Record)
Shown = Mapping[Evidence, JsonValue]


def ask_agent(
    name: str,
    shown: Shown,
    answer: type[Said],
    context: dict[str, object],
    line: Line,
    cards: Cards,
) -> Said:
    """What an agent answers, validated.

    Args:
        name: Its card: `planner` or `librarian`, the user's own where there is one.
        shown: What there is to see; the card's evidence says which of it the agent gets, and the
            knowledge cards that it names are added whole.
        answer: The type its answer must have.
        context: Closed vocabularies for that type's validators.
        line: Whom to ask.
        cards: Where its card and its prompt stand.

    Raises:
        LLMError: The model failed, or its answers did not fit until the re-asks were used up.
    """
    agent = cards.agents[name]
    parts: dict[str, JsonValue] = {part: shown[part] for part in agent.evidence if part in shown}
    data = enclosed(parts | knowledge_of(agent, cards))
    return ask_typed(line, request_of(agent, cards, data, line.settings), answer, context)
