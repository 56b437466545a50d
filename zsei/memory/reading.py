"""Read a question: which known names, numbers and wishes stand in it, and what is left over.

Each recogniser takes its words out of the text, so that nothing is read twice, and what no
recogniser took is reported: an answer must not pretend to have understood it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal

from zsei.memory.dates import Span, spans
from zsei.memory.places import COUNT, NOUN, Edge, offsets, paths, places, runs, tagged, whole
from zsei.memory.remaining import Remaining
from zsei.memory.vocabulary import Slot, Vocabulary
from zsei.memory.words import ADJECTIVES, FAMILIES, content_words, foreign_names

Comparison = Literal[">", ">=", "<", "<="]
Group = Literal["layer", "kind", "run", "model"]
Wish = Literal[
    "why", "compare", "count", "max", "min", "mean", "sum", "important", "unimportant",
    "everywhere", "combined", "define", "similar", "summary", "judged", "proposed", "list", "runs",
    "follows", "other", "where", "comparative",
]  # fmt: skip

_NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(%)?"
_ABOVE = r"above|over|more than|greater than|larger than|higher than|exceed(?:s|ing)?|>"
_BELOW = r"below|under|less than|smaller than|lower than|fewer than|<"

_CONDITIONS: tuple[tuple[str, Comparison], ...] = (
    (rf"(?:at least|>=|≥)\s*{_NUMBER}", ">="),
    (rf"(?:at most|<=|≤)\s*{_NUMBER}", "<="),
    (rf"(?:{_ABOVE})\s*{_NUMBER}", ">"),
    (rf"(?:{_BELOW})\s*{_NUMBER}", "<"),
)
_TOP = rf"\btop[\s-]+{COUNT}\b"
_LIMIT = (
    rf"\b{COUNT}\s+(?=(?:most|least|largest|smallest|highest|lowest|biggest|worst|best|strongest"
    r"|weakest|heads?|layers?|blocks?|mlps?|components?|findings?|bottlenecks?)\b)"
)
_GROUP = r"\b(?:per|by|for each|in each|of each)\s+(layer|kind|model|run|analysis)\b"
_DEFINE = (
    r"^\W*(?:what(?:'s| is| are| does)|define|explain|definition of|meaning of|tell me what)\b"
    r"|\bmeans?\W*$"
)
_MEANING = r"\b(?:meaning|definition) of\b|\bmeans?\W*$"
_ARTICLE = r"^\W*what(?:'s| is| are| was| were) (?:the|my|its|our)\b"
_WISHES: tuple[tuple[Wish, str], ...] = (
    ("similar", rf"{NOUN}\s+(?:\w+\s+)?(?:like|similar to)(?: (?:this|that)(?: one)?)?"
                r"|(?:most )?similar"),
    ("compare", r"compar(?:e|es|ed|ing|ison)|versus|vs\.?|diff|differ\w*|better|worse"
                r"|against|contrast\w*|side by side|next to each other"),
    ("why", r"why|reasons?|how come"),
    ("count", r"how many|number of|no\. of|nr\.? of|# of|count(?: of)?"),
    ("unimportant", r"unimportant|useless|needless|dispensable|can (?:safely )?(?:go|be removed)"
                    r"|matters? (?:the )?least|(?:least|less) (?:important|critical)"
                    r"|contributes? (?:the )?least"),
    ("important", r"(?:most )?(?:important|critical|crucial|essential|influential)|importance"
                  r"|matters?(?: (?:the )?most)?|contributes?(?: (?:the )?most)?|count most"),
    ("max", r"largest|highest|biggest|greatest|max(?:imum|imal)?|most severe|worst|strongest|most"
            r"|longest|top|larger|higher|bigger|greater|more"),
    ("min", r"smallest|lowest|min(?:imum|imal)?|least severe|weakest|least|fewest|shortest"
            r"|smaller|lower|fewer|less"),
    ("mean", r"mean|average|avg"),
    ("sum", r"total|sum|altogether"),
    ("combined", r"combined|(?:all )?together|in combination"),
    ("everywhere", rf"across|ever|so far|history|(?:i|we)(?: have|'ve)? analy[sz]ed|everything"
                   rf"|(?:all|every|each|any)(?: of)?(?: the| my| our| its| these)?\s+{NOUN}"
                   rf"|analyses|models|already|previously|before(?=\W*$)"),
    ("summary", r"summar\w+|overview|tell me about|report on|describe"),
    ("judged", r"verdicts?|gate|judged|outcomes?|decisions?|decided|tried|try|attempt\w*"
                r"|strateg(?:y|ies)"),
    ("proposed", r"propos(?:e|ed|al|als)|suggest(?:ed|ion|ions)?|recommend\w*"),
)  # fmt: skip
_TIMES = r"\bhow (?:many times|often)\b"
_OTHER = r"\b(?:the |an)?other (?:one|run|analysis|model)\b"
_WHOLE: tuple[tuple[Wish, str], ...] = (
    ("other", _OTHER),
    ("where", r"\bwhere\b|\bwhich (?:part|place|component)s?\b|^\W*what (?!is|are|was|were|do)"),
    ("comparative", r"\b(?:larger|higher|bigger|greater|more|smaller|lower|fewer|less)\b"),
    ("compare", r"\bhow (?:did|has|have|had|does|do)\b.*\bchanged?\b"
                r"|\bwhat (?:has |had )?changed\b"),
    ("count", _TIMES),
    ("runs", _TIMES),
    ("follows", r"^\W*(?:and|or|but|so|now|then|what about|how about|what of|same)\b"
                r"|\b(?:it|its|them|their|those|these|there|same)\b"
                r"|\b(?:that|this) (?:one|run|analysis|model|layer|head|block|component)\b"),
)  # fmt: skip
"""Wishes that are read off the whole question, and whose words still say something else too."""
_RESTRICTION = (
    r"\b(?:of|in|for|on|at|with|during|under|by|using|from|after|before|than|without) "
    r"(?:(?:the|a|an|my|our|its|this|that|these|those|any|all) )*(\w+)"
)
_RUNS = r"\b(?:analys[ie]s|analy[sz]ed|runs?|models?)\b"
_WHOLE_LAYERS = (
    (r"\b(?:remov(?:e|ing|ed)|drop(?:ping|ped)?) (?=(?:layer|block)s? \d)", "removing layers of "),
    (r"\breplac(?:e|ing|ed) (?=(?:layer|block)s? \d)", "replacing layers of "),
)
"""What is done to a layer with a number, put as what is done to layers, and where."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A question taken apart."""

    text: str
    names: Mapping[Slot, tuple[str, ...]]
    runs: tuple[str, ...]
    offsets: tuple[int, ...]
    """Analyses named by age: 0 the last, 1 the one before, -1 the first."""
    spans: tuple[Span, ...]
    """When the analyses were made."""
    components: tuple[str, ...]
    layers: tuple[int, ...]
    edges: tuple[Edge, ...]
    heads: tuple[int, ...]
    proposals: tuple[str, ...]
    findings: tuple[str, ...]
    condition: tuple[Comparison, float] | None
    limit: int | None
    group: Group | None
    wishes: frozenset[Wish]
    article: bool
    """It asks for "the ..." of something, rather than what a word means."""
    leftovers: tuple[str, ...]
    """Words that say something and that nothing recognised."""
    restricting: tuple[str, ...]
    """Those leftovers that follow "of", "on" and the like: they narrow the question."""
    unknown: tuple[str, ...]
    """Names written like ids, runs, components or models that memory does not hold."""

    def named(self, slot: Slot) -> tuple[str, ...]:
        """What was named of one kind."""
        return self.names.get(slot, ())


def read(question: str, vocabulary: Vocabulary, today: date, rest: str | None = None) -> Reading:
    """Take a question apart with the names the store holds; `today` is what "last week" means.

    `rest` is what of it is not understood yet, where something was read before.
    """
    text = Remaining(question if rest is None else rest)
    unknown: list[str] = []
    wishes: set[Wish] = {wish for wish, pattern in _WHOLE if re.search(pattern, text.rest)}
    for pattern in (_OTHER, _TIMES, r"\b(?:all|at) the (?:same )?time\b"):
        list(text.take(pattern))
    proposals = tagged(text, "p", vocabulary.proposals, unknown)
    findings = tagged(text, "f", vocabulary.findings, unknown)
    components, models = paths(text, vocabulary, unknown)
    when = spans(text, today)
    for pattern, change in _WHOLE_LAYERS:
        text.rest = re.sub(pattern, change, text.rest)
    layers, heads, edges = places(text)
    named_runs, around = runs(text, vocabulary, unknown)
    conditions: list[tuple[Comparison, float]] = [
        (comparison, float(match[1]) / (100 if match[2] else 1))
        for pattern, comparison in _CONDITIONS
        for match in text.take(pattern)
    ]
    tops = [whole(match[1]) for match in text.take(_TOP)]
    limits = tops + [whole(match[1]) for match in text.take(_LIMIT)]
    groups = [match[1] for match in text.take(_GROUP)]
    if tops:
        wishes.add("max")
    names, plural = _names(text, vocabulary)
    names.setdefault("model", []).extend(models)
    ages = offsets(text, len(vocabulary.runs))
    wishes |= {wish for wish, pattern in _WISHES if text.has(pattern)}
    if plural:
        wishes.add("everywhere")
    if re.search(_DEFINE, question.lower()):
        wishes.add("define")
        if re.search(r"\bdo(?:es)?\b.*\bmean\W*$", question.lower()):  # "what does it mean?"
            wishes.discard("mean")
    if re.search(_RUNS, question.lower()):
        wishes.add("runs")
    if re.search(r"\b(?:list|show|which)\b", question.lower()):
        wishes.add("list")
    unknown += _foreign_models(text)
    return Reading(
        text=question,
        names={slot: tuple(dict.fromkeys(values)) for slot, values in names.items()},
        runs=named_runs,
        offsets=ages,
        spans=(*when, *around),
        components=components,
        layers=layers,
        edges=edges,
        heads=heads,
        proposals=proposals,
        findings=findings,
        condition=conditions[0] if conditions else None,
        limit=limits[0] if limits else None,
        group=_group(groups[0]) if groups else None,
        wishes=frozenset(wishes),
        article=bool(re.search(_ARTICLE, question.lower()))
        and not re.search(_MEANING, question.lower()),
        leftovers=tuple(dict.fromkeys(content_words(text.rest))),
        restricting=_restricting(text),
        unknown=tuple(dict.fromkeys(unknown)),
    )


def _names(text: Remaining, vocabulary: Vocabulary) -> tuple[dict[Slot, list[str]], bool]:
    """What the vocabulary has a wording for, and whether a kind of model was in the plural."""
    names: dict[Slot, list[str]] = {}
    plural = False
    for wording, (metric, operation) in ADJECTIVES.items():
        if text.has(wording):
            names.setdefault("metric", []).append(metric)
            text.rest += f" {'largest' if operation == 'max' else 'smallest'}"
    for match in text.take(vocabulary.pattern):
        for slot, value in vocabulary.named(match[0]):
            names.setdefault(slot, []).append(value)
            plural |= slot == "model" and value in FAMILIES and match[0] != value
    return names, plural


def _foreign_models(text: Remaining) -> list[str]:
    """Models of well-known families that memory lacks."""
    found = foreign_names(text.rest)
    for name in found:
        list(text.take(re.escape(name)))
    return found


def _restricting(text: Remaining) -> tuple[str, ...]:
    left = set(content_words(text.rest))
    return tuple(match[1] for match in re.finditer(_RESTRICTION, text.rest) if match[1] in left)


def _group(written: str) -> Group:
    groups: dict[str, Group] = {"layer": "layer", "kind": "kind", "model": "model"}
    return groups.get(written, "run")
