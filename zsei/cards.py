"""What a card holds: the types of agents, prompts, knowledge and the three vocabularies.

Cards are data: `zsei.resources` finds and checks them, and nothing in them is imported or run.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from zsei.errors import CardError
from zsei.records import ComponentKind

Stage = Literal["interpret", "propose", "criticise", "plan", "answer", "converse", "arrange"]
"""When an agent speaks: about the numbers, what to try, against what was said, and for questions:
reading one, wording the answer, choosing the next step of a conversation; and in which order
speed-ups are combined."""
Output = Literal[
    "Reading", "StrategyPlan", "Critique", "QuestionPlan", "Wording", "NextStep", "SpeedOrder"
]  # fmt: skip
"""Types an agent may answer with; each is defined where its stage is carried out."""
OUTPUT_OF: dict[Stage, Output] = {
    "interpret": "Reading",
    "propose": "StrategyPlan",
    "criticise": "Critique",
    "plan": "QuestionPlan",
    "answer": "Wording",
    "converse": "NextStep",
    "arrange": "SpeedOrder",
}
Evidence = Literal[
    "model", "conditions", "components", "measurements", "costs", "forward", "gradient",
    "integration", "redundancy", "importance", "matrices", "edges", "flow", "groups", "findings",
    "validation", "interpretations", "objections", "candidates", "proposals", "verdicts", "rounds",
    "knowledge", "metrics", "strategies", "question", "vocabulary", "rows", "trials",
]  # fmt: skip
"""What an agent may be shown: parts of a record, which `zsei.advice.evidence` builds, or
`OF_QUESTIONS`, or `OF_SPEED`."""
OF_QUESTIONS: frozenset[Evidence] = frozenset({"question", "vocabulary", "rows"})
"""Evidence for those who plan a question or word its answer; `zsei.memory.voice` builds each."""
OF_SPEED: frozenset[Evidence] = frozenset({"trials"})
"""Evidence for who orders speed-ups; `zsei.advice.speed_order` builds it."""
Slot = Literal["purpose", "data"]
"""What the program can fill into a prompt."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Measure = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]


SLOT = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
"""A place in a prompt's template that the program fills."""


class Data(BaseModel):
    """Base of all that stands in a card: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Card(Data):
    """A file on a shelf."""

    hash: str
    """Twelve hex digits of the SHA-256 of the file: stands in every record that used it."""


class TokenBudget(Data):
    """What one question of an agent may cost."""

    tokens: int = Field(gt=0)
    """Tokens of the answer."""
    seconds: float = Field(gt=0)
    """Wall-clock time, retries and re-asks included."""


class AgentCard(Card):
    """One agent: when it speaks, what it is shown, what it must answer with."""

    name: Name
    version: int = Field(ge=1)
    purpose: Text
    stage: Stage
    prompt: Name
    """Name of its prompt card."""
    output: Output
    evidence: tuple[Evidence, ...] = Field(min_length=1)
    knowledge: tuple[Name, ...] = ()
    """Knowledge cards it is given whole, beside those that the evidence calls for."""
    budget: TokenBudget
    on_failure: Literal["rules"]
    system: Text
    """Body of the card: the system prompt."""


class PromptCard(Card):
    """A template with `{{slots}}` and no logic."""

    name: Name
    version: int = Field(ge=1)
    inputs: tuple[Slot, ...]
    template: Text

    def fill(self, **values: str) -> str:
        """The template with every slot replaced, in one pass: a filled-in text is not read again.

        Raises:
            CardError: The values are not exactly the declared inputs.
        """
        if set(values) != set(self.inputs):
            raise CardError(
                f"Prompt {self.name} must be filled with {listed(self.inputs)}, but got "
                f"{listed(values)}; mend its `inputs`."
            )
        return SLOT.sub(lambda slot: values[slot[1]], self.template)


class KnowledgeCard(Card):
    """What is known about a finding code, a technique, a pattern or a trap, with its sources."""

    id: Name
    kind: Literal["finding", "technique", "metric", "pattern", "trap"]
    title: Text
    sources: tuple[Text, ...] = Field(min_length=1)
    see: tuple[Name, ...] = ()
    """Other knowledge cards that belong to it."""
    body: Text

    @property
    def meaning(self) -> str:
        """First paragraph of the body, on one line: what it is, in plain words."""
        return " ".join(self.body.split("\n\n", 1)[0].split())


class Metric(Data):
    """An entry of `knowledge/metrics.yaml`: what a measurement's name means."""

    name: Measure
    title: Text
    also: tuple[Text, ...] = ()
    """Further words for it, by which texts may name it."""
    unit: str
    meaning: Text
    direction: Literal["higher is better", "lower is better", "neither"]
    misleads: Text


class Strategy(Data):
    """An entry of `knowledge/strategies.yaml`: an edit that may be proposed."""

    name: Name
    title: Text
    edits: Literal["channels", "heads", "layers"]
    """Which of the gate's limits apply."""
    takes: tuple[ComponentKind, ...] = Field(min_length=1)
    """Kinds of component it may be asked for at."""
    does: Text
    preconditions: Text
    risk: Text
    technique: Name
    """Id of the knowledge card that explains it."""


class SpeedUpEntry(Data):
    """An entry of `knowledge/speedups.yaml`: another way to run the same model."""

    name: Name
    title: Text
    use: Literal["inference", "training"]
    does: Text
    preconditions: Text
    risk: Text
    technique: Name
    """Id of the knowledge card that explains it."""


class Metrics(Card):
    """`knowledge/metrics.yaml`."""

    metrics: tuple[Metric, ...]


class Strategies(Card):
    """`knowledge/strategies.yaml`."""

    strategies: tuple[Strategy, ...]


class SpeedUps(Card):
    """`knowledge/speedups.yaml`."""

    speedups: tuple[SpeedUpEntry, ...]


@dataclass(frozen=True, kw_only=True)
class Cards:
    """All cards in force, by name."""

    agents: Mapping[str, AgentCard]
    prompts: Mapping[str, PromptCard]
    knowledge: Mapping[str, KnowledgeCard]
    metrics: Mapping[str, Metric]
    strategies: Mapping[str, Strategy]
    speedups: Mapping[str, SpeedUpEntry]
    vocabularies: Mapping[str, str]
    """File name of each YAML vocabulary -> its hash."""

    def hashes(self) -> dict[str, str]:
        """`shelf/name` -> hash of every card, sorted: what a record keeps."""
        named: dict[str, str] = {f"agents/{name}": card.hash for name, card in self.agents.items()}
        named |= {f"prompts/{name}": card.hash for name, card in self.prompts.items()}
        named |= {f"knowledge/{name}": card.hash for name, card in self.knowledge.items()}
        named |= {f"knowledge/{name}": found for name, found in self.vocabularies.items()}
        return dict(sorted(named.items()))


def listed(names: Iterable[str]) -> str:
    """Names in order of the alphabet, or "none"."""
    return ", ".join(sorted(names)) or "none"
