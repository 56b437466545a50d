"""Reads a question with a language model where the rules know the words but not what is asked.

It writes no SQL: it names what the store knows, and everything else is refused. What it may not do
is turn a question about something else into one that has an answer, so it is not asked where the
rules miss a name or a quantity, nor where they know less than half of the words.
"""

from typing import Literal

from pydantic import JsonValue, ValidationInfo, field_validator

from zsei.cards import Cards
from zsei.llm.line import Line
from zsei.memory.plan import Intent, Operation, QueryPlan, Subject
from zsei.memory.reading import Reading
from zsei.memory.vocabulary import Vocabulary
from zsei.memory.voice import ask_agent
from zsei.memory.words import OUTCOMES, content_words
from zsei.records import Record

AGENT = "planner"
_COMPONENTS = 80
"""Component ids shown to the model; it may name any that the store knows."""


class QuestionPlan(Record):
    """The query that a language model reads out of a question."""

    intent: Intent
    subject: Literal[Subject, "none"]
    names: list[str]
    operation: Literal[Operation, "none"]
    everywhere: bool

    @field_validator("names")
    @classmethod
    def _known(cls, names: list[str], info: ValidationInfo) -> list[str]:
        known = (info.context or {}).get("known", {})
        for position, name in enumerate(names):
            if name not in known:
                raise ValueError(f"entry {position} is not one of the listed names")
        return names


def may_plan(reading: Reading) -> bool:
    """Whether at least half of the words that say something are known, and no name is unknown."""
    words = set(content_words(reading.text))
    return not reading.unknown and 2 * len(words & set(reading.leftovers)) <= len(words)


def plan_with(line: Line, question: str, vocabulary: Vocabulary, cards: Cards) -> QueryPlan | None:
    """A plan for a question that the rules cannot read; None when it is not about memory.

    Raises:
        LLMError: The model failed or named what does not exist.
    """
    known = _known_names(vocabulary)
    slots = ("models", "runs", "kinds", "metrics", "codes", "strategies", "outcomes", "layers")
    if vocabulary.trainings:
        slots = (*slots, "trainings", "epochs")
    lists: dict[str, JsonValue] = {
        slot: [name for name, (field, _) in known.items() if field == slot] for slot in slots
    }
    lists["components"] = list(vocabulary.components[:_COMPONENTS])
    answer = ask_agent(
        AGENT, {"question": question, "vocabulary": lists}, QuestionPlan, {"known": known},
        line, cards,
    )  # fmt: skip
    if answer.subject == "none":
        return None
    chosen: dict[str, list[str | int]] = {}
    for name in answer.names:
        field, value = known[name]
        chosen.setdefault(field, []).append(value)
    return QueryPlan.model_validate(
        {
            "intent": answer.intent,
            "subject": answer.subject,
            "operation": None if answer.operation == "none" else answer.operation,
            "everywhere": answer.everywhere,
            **{field: tuple(dict.fromkeys(values)) for field, values in chosen.items()},
        }
    )


def _known_names(vocabulary: Vocabulary) -> dict[str, tuple[str, str | int]]:
    """Every name that may stand in a plan -> the field it goes to, and its value there."""
    lists: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("outcomes", tuple(OUTCOMES)),
        ("findings", vocabulary.findings),
        ("proposals", vocabulary.proposals),
        ("components", vocabulary.components),
        ("models", tuple(label for label, runs in vocabulary.models.items() if runs)),
        ("strategies", vocabulary.strategies),
        ("codes", vocabulary.codes),
        ("metrics", vocabulary.metrics),
        ("kinds", vocabulary.kinds),
        ("runs", vocabulary.runs),
    )
    known: dict[str, tuple[str, str | int]] = {}
    for field, names in lists:
        known |= {name: (field, name) for name in names}
    known |= {f"run {name}": ("trainings", name) for name in vocabulary.trainings}
    for epoch in sorted(set(vocabulary.epochs.values())):
        known[f"epoch {epoch}"] = ("epochs", epoch)
    return known | {f"layer {layer}": ("layers", layer) for layer in vocabulary.layers}
