"""Words an answer with a language model, which writes no number, name or outcome of its own.

Its text holds slots such as {r1.value}, which the program fills from the rows. What it says outside
of them is checked (see `holding`); a text that does not hold is asked for again, and then the
rules' own wording stands.
"""

import re

from pydantic import JsonValue, ValidationInfo, field_validator

from zsei.cards import Cards
from zsei.llm.line import Line
from zsei.memory.holding import Claims, problem_of
from zsei.memory.query import Row
from zsei.memory.say import Draft, number
from zsei.memory.vocabulary import Vocabulary
from zsei.memory.voice import ask_agent
from zsei.records import Record

AGENT = "librarian"
_ROWS = 12
SLOT = re.compile(r"\{(r\d+\.\w+)\}")


class Wording(Record):
    """An answer in words, with slots for every value."""

    text: str

    @field_validator("text")
    @classmethod
    def _holds(cls, text: str, info: ValidationInfo) -> str:
        claims = (info.context or {}).get("claims", Claims(slots={}))
        if problem := problem_of(text, claims):
            raise ValueError(problem)
        return text


def word_with(line: Line, question: str, draft: Draft, vocabulary: Vocabulary, cards: Cards) -> str:
    """The draft's rows in the model's words, values filled in from the rows.

    Raises:
        LLMError: The model failed, or wrote what does not hold until the re-asks were used up.
    """
    slots, values = slots_of(draft.rows)
    claims = Claims(slots=slots, values=values, question=question, vocabulary=vocabulary)
    shown: dict[str, JsonValue] = dict(slots)
    answer = ask_agent(
        AGENT, {"question": question, "rows": shown}, Wording, {"claims": claims}, line, cards
    )
    return SLOT.sub(lambda slot: slots[slot[1]], answer.text)


def slots_of(rows: tuple[Row, ...]) -> tuple[dict[str, str], dict[str, int | float]]:
    """Slot -> what the program writes there, and slot -> number of those that are numbers."""
    slots: dict[str, str] = {}
    values: dict[str, int | float] = {}
    for position, row in enumerate(rows[:_ROWS], start=1):
        flat: dict[str, str | int | float] = {}
        for name, value in row.items():
            if isinstance(value, str | int | float) and value != "":
                flat[re.sub(r"\W", "_", name)] = value
            elif isinstance(value, list):
                flat |= _inner(name, value)
        for name, value in flat.items():
            slots[f"r{position}.{name}"] = number(value)
            if isinstance(value, int | float):
                values[f"r{position}.{name}"] = value
    return slots, values


def _inner(name: str, values: list[JsonValue]) -> dict[str, str | int | float]:
    """Slots of a list in a row: names joined, measurements one by one."""
    names = [value for value in values if isinstance(value, str)]
    found: dict[str, str | int | float] = {name: ", ".join(names[:_ROWS])} if names else {}
    for value in values:
        if isinstance(value, dict) and isinstance(told := value.get("value"), int | float):
            parts = (value.get("phase", ""), value.get("metric") or value.get("name", ""))
            found[re.sub(r"\W", "_", "_".join(str(part) for part in parts if part))] = told
    return found
