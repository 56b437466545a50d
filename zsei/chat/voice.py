"""Where a language model may choose the next step of a conversation: among enumerated ones only.

It names components, proposals and strategies of the analysis by their ids and writes no number.
What it chooses is offered to the user, never run by itself; what it says is grounded first.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from pydantic import JsonValue, ValidationInfo, field_validator, model_validator

from zsei.advice.evidence import data_block
from zsei.advice.facts import Facts
from zsei.advice.grounding import ground
from zsei.advice.names import Reader
from zsei.cards import AgentCard, Cards
from zsei.chat.commands import ablation, proposed, stored
from zsei.chat.records import Action
from zsei.errors import UsageError
from zsei.llm import Line, ask_typed
from zsei.llm.card_request import enclosed, request_of
from zsei.records import AnalysisRecord, Record

NONE = "none"
LONGEST = 2000
_COMPONENTS = 200
_MOST = 8


class Choices(TypedDict):
    """The closed lists that a next step is checked against."""

    components: frozenset[str]
    proposals: frozenset[str]
    strategies: Mapping[str, frozenset[str]]
    """Strategy -> components it takes."""


class NextStep(Record):
    """What shall happen next: an answer from memory, a few words, or an action to offer."""

    step: Literal["ask", "say", "ablate", "compare", "gate"]
    components: list[str]
    proposal: str
    strategy: str
    text: str

    @field_validator("components")
    @classmethod
    def _known(cls, names: list[str], info: ValidationInfo) -> list[str]:
        if len(names) > _MOST or not _choices(info)["components"].issuperset(names):
            raise ValueError("there must be few components, each one in the data")
        return list(dict.fromkeys(names))

    @field_validator("proposal")
    @classmethod
    def _proposed(cls, name: str, info: ValidationInfo) -> str:
        if name != NONE and name not in _choices(info)["proposals"]:
            raise ValueError('there is no such proposal in the data; write "none" for none')
        return name

    @field_validator("strategy")
    @classmethod
    def _executable(cls, name: str, info: ValidationInfo) -> str:
        if name != NONE and name not in _choices(info)["strategies"]:
            raise ValueError('there is no such strategy in the data; write "none" for none')
        return name

    @field_validator("text")
    @classmethod
    def _short(cls, text: str) -> str:
        if len(text) > LONGEST:
            raise ValueError(f"must not be longer than {LONGEST} characters")
        return text

    @model_validator(mode="after")
    def _complete(self, info: ValidationInfo) -> "NextStep":
        if self.step == "say" and not self.text.strip():
            raise ValueError("to say something takes a text")
        if self.step == "ablate" and not self.components:
            raise ValueError("to ablate takes at least one component")
        if self.step == "compare" and len(self.components) < 2:
            raise ValueError("to compare takes at least a pair of components")
        if self.step == "gate" and self.proposal == NONE:
            takes = _choices(info)["strategies"].get(self.strategy, frozenset())
            if not self.components or not takes.issuperset(self.components):
                raise ValueError("the gate takes a proposal, or a strategy with fitting components")
        return self


def next_step(
    line: Line,
    agent: AgentCard,
    cards: Cards,
    record: AnalysisRecord,
    question: str,
    before: Sequence[str],
) -> NextStep:
    """What the language model wants done about a line of the user.

    Args:
        line: Whom to ask.
        agent: The card of the stage "converse".
        cards: Prompts, metrics, strategies.
        record: The analysis that actions are made on.
        question: What the user wrote.
        before: The user's lines before it, newest last.

    Raises:
        LLMError: It failed, or named what is not in the lists.
    """
    choices = _lists(record, cards)
    talk: dict[str, JsonValue] = {
        "line": question,
        "before": [*before],
        "components": [*sorted(choices["components"])[:_COMPONENTS]],
        "proposals": [*sorted(choices["proposals"])],
        "strategies": [*sorted(choices["strategies"])],
    }
    shown = data_block(agent.evidence, Facts(record), cards, agent.knowledge)
    request = request_of(agent, cards, f"{shown}\n{enclosed(talk)}", line.settings)
    return ask_typed(line, request, NextStep, dict(choices))


def action_of(step: NextStep, record: AnalysisRecord, cards: Cards) -> Action | None:
    """The action that a next step stands for; None for words and questions.

    Raises:
        UsageError: The components do not fit after all.
    """
    components = tuple(step.components)
    if step.step == "ablate":
        return ablation(record, components, record.conditions.replacement)
    if step.step == "compare":
        return Action(kind="compare", run=record.id, components=components)
    if step.step == "gate":
        if step.proposal != NONE:
            return stored(record, step.proposal)
        return proposed(record, cards.strategies[step.strategy], components)
    return None


def grounded(text: str, record: AnalysisRecord, cards: Cards) -> str:
    """A text without the sentences that the record does not bear out; "" when none is left."""
    facts = Facts(record)
    return ground(text, facts, Reader(facts, cards)).text


def speaker(cards: Cards) -> AgentCard:
    """The agent that leads a conversation.

    Raises:
        UsageError: No card has the stage "converse".
    """
    for agent in cards.agents.values():
        if agent.stage == "converse":
            return agent
    raise UsageError('A conversation needs an agent card of the stage "converse"; add guide.md.')


def _lists(record: AnalysisRecord, cards: Cards) -> Choices:
    kinds = {component.id: component.kind for component in record.components}
    return {
        "components": frozenset(kinds),
        "proposals": frozenset(proposal.id for proposal in record.proposals),
        "strategies": {
            entry.name: frozenset(name for name, kind in kinds.items() if kind in entry.takes)
            for entry in cards.strategies.values()
        },
    }


def _choices(info: ValidationInfo) -> Choices:
    assert info.context is not None, "answers are validated with their lists"
    return info.context  # type: ignore[return-value]
