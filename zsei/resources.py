"""Finds and checks the cards: agents, prompts and knowledge, which are data and never code.

They lie beside the package in a checkout and in `zsei/_data/` of an installed wheel. A project
folder (`Settings.cards`) with the same three subfolders overrides a file by its name and adds new
ones, so that a new agent needs no Python. Nothing in a card is imported or evaluated; a card that
does not fit is an error when it is loaded, not when it is used.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from zsei.errors import CardError
from zsei.records import ComponentKind
from zsei.settings import Settings

SHELVES = ("agents", "prompts", "knowledge")

Output = Literal["FlowReading", "StrategyPlan"]
"""Types an agent may answer with; `zsei.advice.schemas` defines them under these names."""
OUTPUT_OF: dict[str, Output] = {"interpret": "FlowReading", "propose": "StrategyPlan"}
Evidence = Literal[
    "model", "conditions", "components", "measurements", "flow", "findings", "validation",
    "candidates", "verdicts", "knowledge", "metrics", "strategies",
]  # fmt: skip
"""Parts of a record an agent may be shown; `zsei.advice.evidence` builds each."""
Slot = Literal["purpose", "data"]
"""What the program can fill into a prompt."""

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)]
Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Measure = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]

_SLOT = re.compile(r"\{\{\s*([^{}]*?)\s*\}\}")
_FRONT = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_LARGEST = 256 * 1024
"""Bytes of a card: a file that is larger was not written by hand."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Card(_Data):
    hash: str
    """Twelve hex digits of the SHA-256 of the file: stands in every record that used it."""


class TokenBudget(_Data):
    """What one question of an agent may cost."""

    tokens: int = Field(gt=0)
    """Tokens of the answer."""
    seconds: float = Field(gt=0)
    """Wall-clock time, retries and re-asks included."""


class AgentCard(_Card):
    """One agent: when it speaks, what it is shown, what it must answer with."""

    name: Name
    version: int = Field(ge=1)
    purpose: Text
    stage: Literal["interpret", "propose"]
    prompt: Name
    """Name of its prompt card."""
    output: Output
    evidence: tuple[Evidence, ...] = Field(min_length=1)
    budget: TokenBudget
    on_failure: Literal["rules"]
    system: Text
    """Body of the card: the system prompt."""


class PromptCard(_Card):
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
                f"Prompt {self.name} must be filled with {_listed(self.inputs)}, but got "
                f"{_listed(values)}; mend its `inputs`."
            )
        return _SLOT.sub(lambda slot: values[slot[1]], self.template)


class KnowledgeCard(_Card):
    """What is known about a finding code or a technique, with its published sources."""

    id: Name
    kind: Literal["finding", "technique", "metric"]
    title: Text
    sources: tuple[Text, ...] = Field(min_length=1)
    body: Text

    @property
    def meaning(self) -> str:
        """First paragraph of the body, on one line: what it is, in plain words."""
        return " ".join(self.body.split("\n\n", 1)[0].split())


class Metric(_Data):
    """An entry of `knowledge/metrics.yaml`: what a measurement's name means."""

    name: Measure
    title: Text
    also: tuple[Text, ...] = ()
    """Further words for it, by which texts may name it."""
    unit: str
    meaning: Text
    direction: Literal["higher is better", "lower is better", "neither"]
    misleads: Text


class Strategy(_Data):
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


class _Metrics(_Card):
    metrics: tuple[Metric, ...]


class _Strategies(_Card):
    strategies: tuple[Strategy, ...]


@dataclass(frozen=True, kw_only=True)
class Cards:
    """All cards in force, by name."""

    agents: Mapping[str, AgentCard]
    prompts: Mapping[str, PromptCard]
    knowledge: Mapping[str, KnowledgeCard]
    metrics: Mapping[str, Metric]
    strategies: Mapping[str, Strategy]
    vocabularies: Mapping[str, str]
    """File name of each YAML vocabulary -> its hash."""

    def hashes(self) -> dict[str, str]:
        """`shelf/name` -> hash of every card, sorted: what a record keeps."""
        named: dict[str, str] = {f"agents/{name}": card.hash for name, card in self.agents.items()}
        named |= {f"prompts/{name}": card.hash for name, card in self.prompts.items()}
        named |= {f"knowledge/{name}": card.hash for name, card in self.knowledge.items()}
        named |= {f"knowledge/{name}": found for name, found in self.vocabularies.items()}
        return dict(sorted(named.items()))


def data_root() -> Path:
    """The folder that holds agents/, prompts/ and knowledge/.

    Raises:
        CardError: Neither the wheel's data folder nor the checkout holds them.
    """
    package = Path(__file__).parent
    for folder in (package / "_data", package.parent):
        if all((folder / shelf).is_dir() for shelf in SHELVES):
            return folder
    raise CardError(
        "The folders agents, prompts and knowledge must come with ZSEI, but they are neither in "
        "the installed package nor beside it; install ZSEI again."
    )


def load_cards(settings: Settings) -> Cards:
    """Read, check and tie together all cards, those of the user's folder included.

    Raises:
        CardError: A card does not fit; the message names the file, the rule and the fix.
    """
    files = _files(settings.cards)
    agents = [_read_markdown(path, AgentCard, "system") for path in files["agents"]]
    prompts = [_read_prompt(path) for path in files["prompts"]]
    pages = [path for path in files["knowledge"] if path.suffix == ".md"]
    knowledge = [_read_markdown(path, KnowledgeCard, "body", key="id") for path in pages]
    lists = {path.name: path for path in files["knowledge"] if path.suffix == ".yaml"}
    metrics = _read_vocabulary(lists, "metrics.yaml", _Metrics)
    strategies = _read_vocabulary(lists, "strategies.yaml", _Strategies)
    cards = Cards(
        agents=MappingProxyType({card.name: card for card in agents}),
        prompts=MappingProxyType({card.name: card for card in prompts}),
        knowledge=MappingProxyType({card.id: card for card in knowledge}),
        metrics=MappingProxyType({entry.name: entry for entry in metrics.metrics}),
        strategies=MappingProxyType({entry.name: entry for entry in strategies.strategies}),
        vocabularies=MappingProxyType({"metrics": metrics.hash, "strategies": strategies.hash}),
    )
    _check_references(cards)
    return cards


def _files(override: Path | None) -> dict[str, list[Path]]:
    """Files of each shelf, sorted by name; the user's own stand in for those of the same name."""
    if override is not None and not any((override / shelf).is_dir() for shelf in SHELVES):
        raise CardError(
            f"The setting 'cards' must name a folder with agents, prompts or knowledge in it, but "
            f"{override} has none of them; create one or unset ZSEI_CARDS."
        )
    roots = [data_root()] + ([override] if override is not None else [])
    shelves: dict[str, list[Path]] = {}
    for shelf in SHELVES:
        kinds = {".md", ".yaml"} if shelf == "knowledge" else {".md"}
        chosen: dict[str, Path] = {}
        for root in roots:
            for path in sorted((root / shelf).glob("*")):
                if path.suffix in kinds and path.is_file():
                    chosen[path.name] = path
        shelves[shelf] = [chosen[name] for name in sorted(chosen)]
    return shelves


def _text(path: Path) -> tuple[str, str]:
    """A card's text with plain line ends, and its hash."""
    try:
        content = path.read_bytes()
        if len(content) > _LARGEST:
            raise _malformed(path, f"may hold {_LARGEST} bytes", f"it has {len(content)}")
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise _malformed(path, "must be UTF-8 text", "it is not", "save it as UTF-8") from None
    except OSError as error:
        raise _malformed(path, "must be readable", str(error.strerror)) from error
    return text, hashlib.sha256(text.encode()).hexdigest()[:12]


CardType = TypeVar("CardType", bound=_Card)


def _read_markdown(path: Path, model: type[CardType], body: str, key: str = "name") -> CardType:
    """A card with YAML front matter; `body` is the field the rest of the file goes to."""
    text, found = _text(path)
    parts = _FRONT.match(text)
    if parts is None:
        raise _malformed(path, "must begin with front matter between two lines of ---", "has none")
    values = _yaml(path, parts[1])
    for reserved in (body, "hash"):
        if reserved in values:
            raise _malformed(path, f"must not set '{reserved}' in its front matter", "does")
    card = _build(path, model, {**values, body: parts[2], "hash": found})
    name = getattr(card, key)
    if name != path.stem:
        raise _malformed(path, f"must carry its file's name as '{key}'", f"says {name!r}")
    return card


def _read_prompt(path: Path) -> PromptCard:
    card = _read_markdown(path, PromptCard, "template")
    used, declared = set(_SLOT.findall(card.template)), set(card.inputs)
    if used != declared:
        raise _malformed(
            path, f"must use exactly the slots it declares, {_listed(declared)}",
            f"uses {_listed(used)}", "mend `inputs` or the template",
        )  # fmt: skip
    if re.search(r"\{\{|\}\}", _SLOT.sub("", card.template)):
        raise _malformed(path, "must hold whole {{slots}} only", "has a stray {{ or }}")
    return card


def _read_vocabulary(lists: Mapping[str, Path], name: str, model: type[CardType]) -> CardType:
    unknown = sorted(set(lists) - {"metrics.yaml", "strategies.yaml"})
    if unknown:
        path = lists[unknown[0]]
        raise _malformed(path, "must be metrics.yaml, strategies.yaml or a .md card", "is neither")
    path = lists[name]
    text, found = _text(path)
    shelf = path.stem
    card = _build(path, model, {**_yaml(path, text), "hash": found})
    names = [entry.name for entry in getattr(card, shelf)]
    twice = sorted({entry for entry in names if names.count(entry) > 1})
    if twice:
        raise _malformed(path, "must name each entry once", f"names {_listed(twice)} again")
    return card


def _yaml(path: Path, text: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" in line {where.line + 1}" if where else ""
        raise _malformed(path, "must hold valid YAML", f"it does not{line}") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise _malformed(path, "must hold `name: value` lines", f"holds {type(values).__name__}")
    return values


def _build(path: Path, model: type[CardType], values: dict[str, Any]) -> CardType:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise _malformed(path, f"must fit in '{where}'", first["msg"].lower()) from None


def _check_references(cards: Cards) -> None:
    for agent in cards.agents.values():
        if OUTPUT_OF[agent.stage] != agent.output:
            raise CardError(
                f"Agent {agent.name} must answer with what its stage {agent.stage!r} needs, "
                f"{OUTPUT_OF[agent.stage]}, but its output is {agent.output}; mend `output`."
            )
        if agent.prompt not in cards.prompts:
            raise CardError(
                f"Agent {agent.name} must name a prompt card, but there is no prompt "
                f"{agent.prompt!r}; take one of {_listed(cards.prompts)}."
            )
    for strategy in cards.strategies.values():
        card = cards.knowledge.get(strategy.technique)
        if card is None or card.kind != "technique":
            raise CardError(
                f"Strategy {strategy.name} in strategies.yaml must name the knowledge card of a "
                f"technique, but there is none called {strategy.technique!r}; add the card."
            )


def _malformed(path: Path, rule: str, arrived: str, fix: str = "mend the file") -> CardError:
    return CardError(f"The card {path.parent.name}/{path.name} {rule}, but {arrived}; {fix}.")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
