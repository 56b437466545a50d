"""Lets the planner and the librarian speak: their cards say how they are asked."""

import json
from collections.abc import Mapping
from typing import TypeVar

from pydantic import JsonValue

from zsei.cards import Cards, Evidence
from zsei.llm.line import Line
from zsei.llm.typed import ask_typed
from zsei.llm.types import LLMRequest
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
    agent, limits = cards.agents[name], line.settings
    prompt = cards.prompts[agent.prompt]
    parts: dict[str, JsonValue] = {part: shown[part] for part in agent.evidence if part in shown}
    if agent.knowledge:
        parts["knowledge"] = [
            {"id": each, "text": cards.knowledge[each].body} for each in agent.knowledge
        ]
    values = {"purpose": agent.purpose, "data": _block(parts)}
    request = LLMRequest(
        agent=agent.name,
        system=agent.system,
        prompt=prompt.fill(**{name: values[name] for name in prompt.inputs}),
        max_tokens=min(agent.budget.tokens, limits.max_tokens),
        seconds=min(agent.budget.seconds, limits.deadline_seconds),
    )
    return ask_typed(line, request, answer, context)


def _block(parts: Mapping[str, JsonValue]) -> str:
    text = json.dumps(parts, ensure_ascii=True, allow_nan=False)
    return f"<data>\n{text.replace('<', chr(92) + 'u003c')}\n</data>"  # nobody closes the block
