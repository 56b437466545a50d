"""Every name a question may use, read from the store: nothing outside it can become a filter."""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from zsei.memory import words
from zsei.memory.chunks import Card

Slot = Literal["model", "kind", "metric", "code", "outcome", "strategy", "field", "ignored"]
Name = tuple[Slot, str]
_PARTS = frozenset({"encoder", "decoder", "in memory", "in your memory"})
"""Words that name no model unless one is called so."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The closed lists that a plan is checked against."""

    runs: tuple[str, ...]
    """Ids, the last analysis first."""
    created: Mapping[str, str]
    """Run -> when it was made, in ISO 8601."""
    models: Mapping[str, tuple[str, ...]]
    """Model, family or kind of architecture, lower case -> runs, the last first; a well-known
    family of which nothing was analysed has none."""
    names: tuple[str, ...]
    """The models as they were named, each once."""
    components: tuple[str, ...]
    layers: tuple[int, ...]
    kinds: tuple[str, ...]
    metrics: tuple[str, ...]
    """Measured of components."""
    judged: tuple[str, ...]
    """Measured by the gate, before and after a change."""
    evidence: tuple[str, ...]
    """Measured as evidence of findings."""
    codes: tuple[str, ...]
    strategies: tuple[str, ...]
    proposals: tuple[str, ...]
    findings: tuple[str, ...]
    trainings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Training run -> its analyses, the last epoch first."""
    epochs: Mapping[str, int] = field(default_factory=dict)
    """Analysis of a training run -> epoch."""
    documents: tuple[tuple[str, str, str], ...] = ()
    """(id, kind, model) of every document, the newest first."""
    measured: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Kind of document -> what such are about: speed-ups, claims, components."""
    titles: tuple[tuple[str, str], ...] = ()
    """(id, title) of knowledge cards: the title is one more wording for what the id names."""

    @cached_property
    def wordings(self) -> Mapping[str, tuple[Name, ...]]:
        """What people write (lower case, single spaces) -> what it names."""
        table: dict[str, dict[Name, None]] = {}
        for wording, slot, value in self._entries():
            table.setdefault(plain(wording), {})[slot, value] = None
        return {wording: tuple(names) for wording, names in table.items()}

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds any wording, the longest first, plural or not."""
        ordered = sorted(self.wordings, key=lambda wording: (-len(wording), wording))
        spaced = (re.escape(wording).replace(r"\ ", r"[\s_-]+") for wording in ordered)
        return re.compile(rf"(?<![\w/.:-])(?:{'|'.join(spaced)})(?:'s|es|s)?(?![\w/]|[:.-]\w)")

    def named(self, found: str) -> tuple[Name, ...]:
        """What a match of `pattern` names."""
        found = plain(found)
        for wording in (found, *(found.removesuffix(end) for end in ("'s", "s", "es"))):
            if wording in self.wordings:
                return self.wordings[wording]
        return ()

    def matching_components(self, written: str) -> tuple[str, ...]:
        """Components whose id is `written`, or ends with it at a boundary (`layer.3/mlp`)."""
        wanted = _dotted(written)
        exact = tuple(c for c in self.components if _dotted(c) == wanted)
        return exact or tuple(c for c in self.components if _dotted(c).endswith(f".{wanted}"))

    def _entries(self) -> Iterator[tuple[str, Slot, str]]:
        """Wording, slot, value: the store's own names, then the tables of `words`."""
        own: tuple[tuple[Slot, Iterable[str]], ...] = (
            ("model", self.models),
            ("kind", self.kinds),
            ("metric", {*self.metrics, *self.judged, *self.evidence, *words.METRICS}),
            ("code", {*self.codes, *words.CODES}),
            ("strategy", self.strategies),
            ("ignored", _PARTS - set(self.models)),
        )
        titles: dict[str, list[str]] = {}
        for name, title in self.titles:
            titles.setdefault(name, []).append(title)
        for slot, names in own:
            for name in sorted(names):
                yield name, slot, name
                for title in titles.get(name, ()):
                    yield title, slot, name
        tables: tuple[tuple[Slot, Mapping[str, Iterable[str]]], ...] = (
            ("metric", words.METRICS),
            ("code", words.CODES),
            ("outcome", words.OUTCOMES),
            ("field", words.RUN_FIELDS),
        )
        for slot, table in tables:
            for value, wordings in table.items():
                for wording in wordings:
                    yield wording, slot, value
        for wording, kind in words.KINDS.items():
            yield wording, "kind", kind
        yield from self._families_of_codes()
        yield from self._edits()

    def _families_of_codes(self) -> Iterator[tuple[str, Slot, str]]:
        """A word such as "bottleneck" names several codes."""
        for wording, fragment in words.CODE_FAMILIES.items():
            for code in sorted({*self.codes, *words.CODES}):
                if fragment in code:
                    yield wording, "code", code

    def _edits(self) -> Iterator[tuple[str, Slot, str]]:
        """The words "pruning heads" name every strategy in the store that prunes heads."""
        for fragment, wordings in words.STRATEGIES.items():
            meant = [n for n in self.strategies if all(p in n for p in fragment.split())]
            for wording in wordings:
                for strategy in meant or [wording.replace(" ", "-")]:
                    yield wording, "strategy", strategy


@dataclass(frozen=True, kw_only=True)
class Known:
    """A vocabulary, and what it was read from: it holds until one of these moves on."""

    generation: str
    pages: tuple[Card, ...]
    vocabulary: Vocabulary


def generation(db: sqlite3.Connection) -> str:
    """Changes with every analysis, passage or vector that is added or taken away."""
    row = db.execute(
        "SELECT (SELECT value FROM state WHERE key = 'generation') AS moved, "
        "(SELECT COUNT(*) FROM runs) AS count, (SELECT MAX(sequence) FROM runs) AS last"
    ).fetchone()
    return f"{row['moved']}/{row['count']}/{row['last']}"


def load(db: sqlite3.Connection, cards: Iterable[Card] = ()) -> Vocabulary:
    """Read the vocabulary of a store; titles of cards are wordings for what they explain."""
    runs = db.execute(
        "SELECT id, created, model, model_class, family FROM runs "
        "ORDER BY created DESC, sequence DESC"
    ).fetchall()
    components = _column(db, "SELECT DISTINCT id FROM components ORDER BY id")
    models: dict[str, list[str]] = {}
    for row in runs:
        for label in _labels(row):
            models.setdefault(label, []).append(row["id"])
    joined = {re.sub(r"[\W_]", "", label): named for label, named in models.items()}
    parts = {part for component in components for part in component.lower().split(".")}
    for label in (*words.FAMILIES, *sorted(words.KNOWN_FAMILIES)):
        if label not in parts:  # "the encoder" of an encoder-decoder is a part, not a kind of model
            # gpt-2 and gpt2 are one family
            models.setdefault(label, joined.get(re.sub(r"[\W_]", "", label), []))
    layers = db.execute("SELECT DISTINCT layer FROM components WHERE layer >= 0 ORDER BY 1")
    stands = db.execute(
        "SELECT id, training, epoch FROM runs WHERE training != '' "
        "ORDER BY epoch DESC, sequence DESC"
    ).fetchall()
    trainings: dict[str, list[str]] = {}
    for row in stands:
        trainings.setdefault(row["training"], []).append(row["id"])
    return Vocabulary(
        runs=tuple(row["id"] for row in runs),
        created={row["id"]: row["created"] for row in runs},
        models={label: tuple(named) for label, named in models.items()},
        names=tuple(dict.fromkeys(row["model"] for row in runs)),
        components=components,
        layers=tuple(row["layer"] for row in layers),
        kinds=tuple(kind for kind in _column(db, _KINDS) if kind not in words.ANYTHING),
        metrics=_column(db, "SELECT DISTINCT name FROM measurements ORDER BY 1"),
        judged=_column(db, "SELECT DISTINCT name FROM verdict_numbers ORDER BY 1"),
        evidence=_column(
            db,
            "SELECT DISTINCT json_extract(item.value, '$.name') "
            "FROM findings, json_each(findings.evidence) AS item ORDER BY 1",
        ),
        codes=_column(db, "SELECT DISTINCT code FROM findings ORDER BY 1"),
        strategies=_column(db, "SELECT DISTINCT strategy FROM proposals ORDER BY 1"),
        proposals=_column(db, "SELECT DISTINCT id FROM proposals ORDER BY 1"),
        findings=_column(db, "SELECT DISTINCT id FROM findings ORDER BY 1"),
        trainings={name: tuple(found) for name, found in trainings.items()},
        epochs={row["id"]: row["epoch"] for row in stands},
        documents=_documents(db),
        measured=_measured(db),
        titles=tuple((name, title) for name, title, _ in cards),
    )


_KINDS = "SELECT kind FROM components UNION SELECT kind FROM rankings ORDER BY 1"


def plain(wording: str) -> str:
    """Lower case, with single spaces for spaces, hyphens and underscores."""
    return re.sub(r"[\s_-]+", " ", wording.lower()).strip()


def _labels(row: sqlite3.Row) -> Iterable[str]:
    """What a person may call the model of this analysis."""
    model, family = row["model"].lower(), row["family"].lower()
    names = {
        model,
        re.split(r"[/\\:]", model.rstrip("/\\"))[-1],
        family,
        family.rstrip("0123456789-_."),  # "qwen" for qwen2
        row["model_class"].lower(),
    }
    names |= {re.sub(r"\.(?:pt|pth|bin|onnx|safetensors)$", "", name) for name in names}
    names |= {group for group, families in words.FAMILIES.items() if family in families.split()}
    taken = {*words.KINDS, "model", "network", "net", "module"}
    return sorted(name for name in names if len(name) > 1 and name not in taken)


def _documents(db: sqlite3.Connection) -> tuple[tuple[str, str, str], ...]:
    """Each id once, where its newest document stands."""
    found = db.execute("SELECT id, kind, model FROM documents ORDER BY created DESC, number DESC")
    return tuple(dict.fromkeys((row["id"], row["kind"], row["model"]) for row in found))


def _measured(db: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for row in db.execute(
        "SELECT DISTINCT documents.kind, metric FROM chunks JOIN documents ON documents.id = key "
        "WHERE chunks.kind = 'measured' ORDER BY 1, 2"
    ):
        found.setdefault(row["kind"], []).append(row["metric"])
    return {kind: tuple(subjects) for kind, subjects in found.items()}


def _column(db: sqlite3.Connection, statement: str) -> tuple[str, ...]:
    return tuple(row[0] for row in db.execute(statement))


def _dotted(identifier: str) -> str:
    return identifier.lower().replace("/", ".")
