"""What a line asks for, read by rules: a word of control, an action, or a question."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from zsei.cards import Strategy
from zsei.chat.components import components_in, points_back
from zsei.chat.records import Action
from zsei.errors import UsageError
from zsei.records import AnalysisRecord, ComponentKind, Proposal

Word = Literal["help", "quit", "runs", "use", "actions", "question"]
SHARE = 0.25
"""Share of the units that go where nobody says how many."""

_WORDS: Mapping[str, Word] = {
    "help": "help", "?": "help", "quit": "quit", "exit": "quit", "bye": "quit", "runs": "runs",
    "actions": "actions",
}  # fmt: skip
_USE = re.compile(r"^use\s+(\S+)$", re.IGNORECASE)
_ABLATE = re.compile(
    r"^\W*(?:please\s+)?(?:ablate|knock out|switch off|turn off|zero out|silence)\b"
    r"|\bwhat (?:if|happens|would happen)\b.*\b(?:without|ablat\w*|remov\w*|gone|missing)\b",
    re.IGNORECASE,
)
_COMPARE = re.compile(r"^\W*compare\b|\bhow (?:similar|alike|different) are\b", re.IGNORECASE)
_GATE = re.compile(
    r"^\W*(?:please\s+)?(?:gate|try|test|judge|prune|remove|drop|merge|replace|factori[sz]e)\b",
    re.IGNORECASE,
)
_PROPOSAL = re.compile(r"\bp-[0-9a-f]{2,12}\b")
_REPLACEMENT = re.compile(r"\b(?:with|by|using)\s+(zero|mean|resample|zeros)\b", re.IGNORECASE)
_STRATEGIES: tuple[tuple[str, str], ...] = (
    (r"merg", "merge-neurons"), (r"factori", "factorise-linear"), (r"replac", "replace-layer"),
    (r"heads?\b", "prune-heads"), (r"neurons?\b|mlps?\b", "prune-neurons"),
    (r"channels?\b|filters?\b", "prune-channels"), (r"layers?\b|blocks?\b", "remove-layer"),
)  # fmt: skip
"""Words that tell which edit is meant; the first that is found decides."""
_SHARES = {"half": 0.5, "a third": 1 / 3, "a quarter": 0.25, "a tenth": 0.1}
_PERCENT = re.compile(r"(\d{1,2}(?:\.\d+)?)\s*(?:%|percent)")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A word of control and what comes with it."""

    word: Word
    argument: str = ""


def read_command(line: str) -> Command:
    """The word of control a line is; "question" for everything else."""
    plain = line.strip().rstrip(".!").lower()
    if plain in _WORDS:
        return Command(word=_WORDS[plain])
    use = _USE.match(line.strip())
    return Command(word="use", argument=use[1]) if use else Command(word="question")


def read_action(
    line: str,
    record: AnalysisRecord,
    strategies: Mapping[str, Strategy],
    shown: Sequence[str] = (),
) -> Action | None:
    """The action that a line asks for; None when it asks for none.

    Args:
        line: What the user wrote.
        record: The analysis that actions are made on.
        strategies: Edits that may be proposed, by name.
        shown: What "it" and "them" mean.

    Raises:
        UsageError: It asks for one on something that is not there.
    """
    if _ABLATE.search(line):
        components = components_in(line, record, shown)
        if components:
            wanted = _REPLACEMENT.search(line)
            name = wanted[1].lower().rstrip("s") if wanted else record.conditions.replacement
            return ablation(record, components, name)
        if line.split()[0].lower() in ("ablate", "silence"):
            raise UsageError(
                "To ablate takes components of the analysis, such as head 3 of layer 2, but the "
                f"line names none; {_some(record)}."
            )
    elif _COMPARE.search(line):
        components = components_in(line, record, shown)
        if len(components) > 1:
            return Action(kind="compare", run=record.id, components=components)
    elif _GATE.search(line):
        return _gated(line, record, strategies, shown)
    return None


def ablation(record: AnalysisRecord, components: tuple[str, ...], replacement: str) -> Action:
    """The action that ablates components together."""
    return Action.model_validate(
        {"kind": "ablate", "run": record.id, "components": components, "replacement": replacement}
    )


def proposed(
    record: AnalysisRecord,
    strategy: Strategy,
    components: tuple[str, ...],
    share: float | None = None,
) -> Action:
    """The action that lets the gate judge an edit; what can only be settled on the data is left.

    Raises:
        UsageError: The strategy takes no such components.
    """
    known = {component.id: component for component in record.components}
    wrong = [name for name in components if known[name].kind not in strategy.takes]
    if wrong or not components:
        raise UsageError(
            f"{strategy.name} takes components of the kinds {', '.join(strategy.takes)}, but got "
            f"{wrong[0] if wrong else 'none'}; name others."
        )
    params: dict[str, JsonValue] = {}
    whole = all(known[name].kind == "head" for name in components)
    if strategy.name in ("prune-neurons", "prune-channels") or (
        strategy.name == "prune-heads" and not whole
    ):
        params["fraction"] = SHARE if share is None else share
    if strategy.name == "factorise-linear":
        params["kept"] = 1 - (0.01 if share is None else share)
    proposal = Proposal.make(
        strategy=strategy.name, components=components, params=params, source="conversation",
        rationale="Asked for in a conversation.",
    )  # fmt: skip
    return Action(kind="gate", run=record.id, proposal=proposal)


def stored(record: AnalysisRecord, name: str) -> Action:
    """The action that lets the gate judge a proposal of the record again.

    Raises:
        UsageError: No proposal, or more than one, goes by that name.
    """
    found = [p for p in record.proposals if p.id.startswith(name)]
    if len(found) != 1:
        known = ", ".join(p.id for p in record.proposals) or "none"
        raise UsageError(f"Proposals of {record.id} are {known}; {name} is not one of them.")
    return Action(kind="gate", run=record.id, proposal=found[0])


def _gated(
    line: str, record: AnalysisRecord, strategies: Mapping[str, Strategy], shown: Sequence[str]
) -> Action | None:
    named = _PROPOSAL.findall(line)
    if not named and points_back(line):
        named = [name for name in shown if name in {p.id for p in record.proposals}]
    if len(named) == 1:
        return stored(record, named[0])
    lower = line.lower()
    strategy = next((name for name in strategies if name in lower), None) or next(
        (name for words, name in _STRATEGIES if re.search(rf"\b{words}", lower)), None
    )
    components = components_in(_PERCENT.sub(" ", line), record, shown)
    if not components or strategy is None or strategy not in strategies:
        if lower.split()[0] != "gate":
            return None
        raise UsageError(
            "The gate takes a proposal by its id, or an edit with components of the analysis, "
            f"such as: try pruning heads of layer 1; {_some(record)}."
        )
    entry = strategies[strategy]
    parts = tuple(part for name in components for part in _inside(record, name, entry.takes))
    return proposed(record, entry, parts or components, _share(lower))


def _inside(record: AnalysisRecord, name: str, takes: Sequence[ComponentKind]) -> tuple[str, ...]:
    """A component the strategy takes: itself, or else what it takes inside of it."""
    known = {component.id: component for component in record.components}
    if known[name].kind in takes:
        return (name,)
    parts = [c for c in record.components if c.parent == name]
    fitting = tuple(c.id for c in parts if c.kind in takes and c.kind != "head")
    return fitting or tuple(i for c in parts for i in _inside(record, c.id, takes))


def _share(line: str) -> float | None:
    percent = _PERCENT.search(line)
    if percent and 0 < float(percent[1]) <= 90:
        return float(percent[1]) / 100
    return next(
        (share for words, share in _SHARES.items() if re.search(rf"\b{words}\b", line)), None
    )


def _some(record: AnalysisRecord) -> str:
    names = [c.id for c in record.components if c.kind in ("head", "mlp", "layer", "conv")][:4]
    return f"here are some: {', '.join(names)}" if names else "this one has nothing to act on"
