"""What an agent is asked: the prompt of its card with data inside, within the limits of a call."""

import json
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from zsei.cards import AgentCard, Cards
from zsei.llm.types import LLMRequest
from zsei.settings import LLMSettings


def request_of(agent: AgentCard, cards: Cards, data: str, limits: LLMSettings) -> LLMRequest:
    """The request of an agent.

    Args:
        agent: Its card.
        cards: Where its prompt stands.
        data: What it is shown, as `enclosed` makes it.
        limits: Largest answer and longest wait, whatever the card says.
    """
    prompt = cards.prompts[agent.prompt]
    values = {"purpose": agent.purpose, "data": data}
    return LLMRequest(
        agent=agent.name,
        system=agent.system,
        prompt=prompt.fill(**{name: values[name] for name in prompt.inputs}),
        max_tokens=min(agent.budget.tokens, limits.max_tokens),
        seconds=min(agent.budget.seconds, limits.deadline_seconds),
    )


def enclosed(parts: Mapping[str, JsonValue]) -> str:
    """Data between `<data>` and `</data>`; no text among them can close the block."""
    text = json.dumps(parts, ensure_ascii=True, allow_nan=False)
    return f"<data>\n{text.replace('<', chr(92) + 'u003c')}\n</data>"


def knowledge_of(agent: AgentCard, cards: Cards) -> dict[str, JsonValue]:
    """The knowledge cards that an agent's card names, whole; nothing where it names none."""
    return {"knowledge": pages_of(agent.knowledge, cards)} if agent.knowledge else {}


def pages_of(names: Sequence[str], cards: Cards) -> list[JsonValue]:
    """Knowledge cards whole, each with its id."""
    return [{"id": name, "text": cards.knowledge[name].body} for name in names]
