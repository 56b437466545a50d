"""Finds and checks the cards: agents, prompts and knowledge, which are data and never code.

They lie beside the package in a checkout and in `zsei/_data/` of an installed wheel. A project
folder (`Settings.cards`) with the same three subfolders overrides a file by its name and adds new
ones, so that a new agent needs no Python. Nothing in a card is imported or evaluated; a card that
does not fit is an error when it is loaded, not when it is used.
"""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from zsei.cards import (
    OF_QUESTIONS,
    OF_SPEED,
    OUTPUT_OF,
    SLOT,
    AgentCard,
    Card,
    Cards,
    KnowledgeCard,
    Metrics,
    PromptCard,
    SpeedUps,
    Strategies,
    listed,
)
from zsei.errors import CardError
from zsei.settings import Settings

VOCABULARIES = ("metrics.yaml", "strategies.yaml", "speedups.yaml")
SHELVES = ("agents", "prompts", "knowledge")

_FRONT = re.compile(r"\A---\n(.*?)\n---\n(.*)\Z", re.DOTALL)
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""As safe as the one in Python, and several times as fast; not every build has it."""
_LARGEST = 256 * 1024
"""Bytes of a card: a file that is larger was not written by hand."""


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
    metrics = _read_vocabulary(lists, "metrics.yaml", Metrics)
    strategies = _read_vocabulary(lists, "strategies.yaml", Strategies)
    speedups = _read_vocabulary(lists, "speedups.yaml", SpeedUps)
    cards = Cards(
        agents=MappingProxyType({card.name: card for card in agents}),
        prompts=MappingProxyType({card.name: card for card in prompts}),
        knowledge=MappingProxyType({card.id: card for card in knowledge}),
        metrics=MappingProxyType({entry.name: entry for entry in metrics.metrics}),
        strategies=MappingProxyType({entry.name: entry for entry in strategies.strategies}),
        speedups=MappingProxyType({entry.name: entry for entry in speedups.speedups}),
        vocabularies=MappingProxyType(
            {"metrics": metrics.hash, "strategies": strategies.hash, "speedups": speedups.hash}
        ),
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


CardType = TypeVar("CardType", bound=Card)


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
    used, declared = set(SLOT.findall(card.template)), set(card.inputs)
    if used != declared:
        raise _malformed(
            path, f"must use exactly the slots it declares, {listed(declared)}",
            f"uses {listed(used)}", "mend `inputs` or the template",
        )  # fmt: skip
    if re.search(r"\{\{|\}\}", SLOT.sub("", card.template)):
        raise _malformed(path, "must hold whole {{slots}} only", "has a stray {{ or }}")
    return card


def _read_vocabulary(lists: Mapping[str, Path], name: str, model: type[CardType]) -> CardType:
    unknown = sorted(set(lists) - set(VOCABULARIES))
    if unknown:
        path = lists[unknown[0]]
        raise _malformed(path, f"must be {', '.join(VOCABULARIES)} or a .md card", "is none")
    path = lists[name]
    text, found = _text(path)
    shelf = path.stem
    card = _build(path, model, {**_yaml(path, text), "hash": found})
    names = [entry.name for entry in getattr(card, shelf)]
    twice = sorted({entry for entry in names if names.count(entry) > 1})
    if twice:
        raise _malformed(path, "must name each entry once", f"names {listed(twice)} again")
    return card


def _yaml(path: Path, text: str) -> dict[str, Any]:
    try:
        values = yaml.load(text, Loader=_LOADER)
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
        beside = set(agent.evidence) - OF_QUESTIONS
        if agent.stage in ("plan", "answer") and beside:
            raise CardError(
                f"Agent {agent.name} must be shown parts of a question only, "
                f"{listed(OF_QUESTIONS)}, but its evidence names {listed(beside)}; mend `evidence`."
            )
        if agent.stage in ("interpret", "propose", "criticise") and OF_QUESTIONS & {
            *agent.evidence
        }:
            raise CardError(
                f"Agent {agent.name} must be shown parts of a record, but its evidence names "
                f"{listed(OF_QUESTIONS & {*agent.evidence})}; mend `evidence`."
            )
        if (agent.stage == "arrange") != bool(OF_SPEED & {*agent.evidence}):
            raise CardError(
                f"Agent {agent.name} must be shown {listed(OF_SPEED)} exactly where it orders "
                f"speed-ups (stage 'arrange'), but its stage is {agent.stage!r}; mend `evidence`."
            )
        if agent.prompt not in cards.prompts:
            raise CardError(
                f"Agent {agent.name} must name a prompt card, but there is no prompt "
                f"{agent.prompt!r}; take one of {listed(cards.prompts)}."
            )
        unknown = sorted(set(agent.knowledge) - set(cards.knowledge))
        if unknown:
            raise CardError(
                f"Agent {agent.name} must name knowledge cards that there are, but there is none "
                f"called {listed(unknown)}; mend `knowledge` or add the card."
            )
    for page in cards.knowledge.values():
        unknown = sorted(set(page.see) - set(cards.knowledge))
        if unknown:
            raise CardError(
                f"Knowledge card {page.id} must name cards that there are under 'see', but there "
                f"is none called {listed(unknown)}; mend `see` or add the card."
            )
    named = [("Strategy", "strategies.yaml", entry) for entry in cards.strategies.values()]
    sped = [("Speed-up", "speedups.yaml", entry) for entry in cards.speedups.values()]
    for what, file, entry in (*named, *sped):
        card = cards.knowledge.get(entry.technique)
        if card is None or card.kind != "technique":
            raise CardError(
                f"{what} {entry.name} in {file} must name the knowledge card of a technique, but "
                f"there is none called {entry.technique!r}; add the card."
            )


def _malformed(path: Path, rule: str, arrived: str, fix: str = "mend the file") -> CardError:
    return CardError(f"The card {path.parent.name}/{path.name} {rule}, but {arrived}; {fix}.")
