"""Read a question: which known names, numbers and wishes stand in it, and what is left over.

Each recogniser takes its words out of the text, so that nothing is read twice, and what no
recogniser took is reported: an answer must not pretend to have understood it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zsei.memory.vocabulary import Slot, Vocabulary
from zsei.memory.words import ADJECTIVES, FAMILIES, KNOWN_FAMILIES, NUMBERS, content_words

Comparison = Literal[">", ">=", "<", "<="]
Group = Literal["layer", "kind", "run", "model"]
Edge = Literal["first", "last"]
Wish = Literal[
    "why", "compare", "count", "max", "min", "mean", "sum", "important", "unimportant",
    "everywhere", "combined", "define", "similar", "summary", "judged", "proposed", "list", "runs",
]  # fmt: skip

_NUMBER = r"(\d+(?:\.\d+)?(?:e-?\d+)?)\s*(%)?"
_COUNT = rf"(\d+|{'|'.join(NUMBERS)})"
_SERIES = r"(\d+(?:\s*(?:,|and|or|&|,\s*and)\s*\d+)*)\b"
_NOUN = r"(?:analys[ie]s|runs?|records?|results?|models?)"
_ABOVE = r"above|over|more than|greater than|larger than|higher than|exceed(?:s|ing)?|>"
_BELOW = r"below|under|less than|smaller than|lower than|fewer than|<"

_CONDITIONS: tuple[tuple[str, Comparison], ...] = (
    (rf"(?:at least|>=|≥)\s*{_NUMBER}", ">="),
    (rf"(?:at most|<=|≤)\s*{_NUMBER}", "<="),
    (rf"(?:{_ABOVE})\s*{_NUMBER}", ">"),
    (rf"(?:{_BELOW})\s*{_NUMBER}", "<"),
)
_TOP = rf"\btop[\s-]+{_COUNT}\b"
_LIMIT = (
    rf"\b{_COUNT}\s+(?=(?:most|least|largest|smallest|highest|lowest|biggest|worst|best|strongest"
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
    ("similar", rf"{_NOUN}\s+(?:\w+\s+)?(?:like|similar to)(?: (?:this|that)(?: one)?)?"
                r"|(?:most )?similar"),
    ("compare", r"compar(?:e|es|ed|ing|ison)|versus|vs|diff|differ\w*"),
    ("why", r"why|reasons?|how come"),
    ("count", r"how many|number of|count(?: of)?"),
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
                   rf"|(?:all|every|each|any)(?: of)?(?: the| my| our)? {_NOUN}|analyses|models"),
    ("summary", r"summar\w+|overview|tell me about|report on|describe"),
    ("judged", r"verdicts?|gate|judged|outcomes?|decisions?|decided|tried|try|attempt\w*"
                r"|strateg(?:y|ies)"),
    ("proposed", r"propos(?:e|ed|al|als)|suggest(?:ed|ion|ions)?|recommend\w*"),
)  # fmt: skip
_RESTRICTION = (
    r"\b(?:of|in|for|on|at|with|during|under|by|using|from|after|before|than|without) "
    r"(?:(?:the|a|an|my|our|its|this|that|these|those|any|all) )*(\w+)"
)
_RUNS = r"\b(?:analys[ie]s|analy[sz]ed|runs?|models?)\b"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A question taken apart."""

    text: str
    names: Mapping[Slot, tuple[str, ...]]
    runs: tuple[str, ...]
    offsets: tuple[int, ...]
    """Analyses named by age: 0 the last, 1 the one before."""
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


class _Text:
    """The part of a question not yet understood, lower case."""

    def __init__(self, question: str) -> None:
        self.rest = question.lower()

    def take(self, pattern: str | re.Pattern[str]) -> Iterator[re.Match[str]]:
        """All matches from left to right, blanked out."""
        for match in list(re.finditer(pattern, self.rest)):
            self.blank(match)
            yield match

    def blank(self, match: re.Match[str]) -> None:
        """Blank out one match."""
        space = " " * (match.end() - match.start())
        self.rest = self.rest[: match.start()] + space + self.rest[match.end() :]

    def has(self, pattern: str) -> bool:
        """Whether the words stand in the text; they are blanked out."""
        return bool(list(self.take(rf"(?<![\w-])(?:{pattern})(?![\w-])")))


def read(question: str, vocabulary: Vocabulary) -> Reading:
    """Take a question apart with the names the store holds."""
    text = _Text(question)
    unknown: list[str] = []
    proposals = _tagged(text, "p", vocabulary.proposals, unknown)
    findings = _tagged(text, "f", vocabulary.findings, unknown)
    components, models = _paths(text, vocabulary, unknown)
    layers, heads, edges = _places(text)
    offsets = _offsets(text, len(vocabulary.runs))
    runs = _runs(text, vocabulary, unknown)
    conditions: list[tuple[Comparison, float]] = [
        (comparison, float(match[1]) / (100 if match[2] else 1))
        for pattern, comparison in _CONDITIONS
        for match in text.take(pattern)
    ]
    tops = [_whole(match[1]) for match in text.take(_TOP)]
    limits = tops + [_whole(match[1]) for match in text.take(_LIMIT)]
    groups = [match[1] for match in text.take(_GROUP)]
    wishes = set[Wish]()
    if tops:
        wishes.add("max")
    names, plural = _names(text, vocabulary)
    names.setdefault("model", []).extend(models)
    wishes |= {wish for wish, pattern in _WISHES if text.has(pattern)}
    if plural:
        wishes.add("everywhere")
    if re.search(_DEFINE, question.lower()):
        wishes.add("define")
        if re.search(r"mean\W*$", question.lower()):  # "what does saturation mean?"
            wishes.discard("mean")
    if re.search(_RUNS, question.lower()):
        wishes.add("runs")
    if re.search(r"\b(?:list|show|which)\b", question.lower()):
        wishes.add("list")
    unknown += _foreign_models(text)
    return Reading(
        text=question,
        names={slot: tuple(dict.fromkeys(values)) for slot, values in names.items()},
        runs=runs,
        offsets=offsets,
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


def _tagged(text: _Text, tag: str, known: Sequence[str], unknown: list[str]) -> tuple[str, ...]:
    """Ids such as `p-1f0c...`, or a beginning of them."""
    found: list[str] = []
    for match in text.take(rf"(?<![\w-]){tag}-\w+"):
        matches = [name for name in known if name.startswith(match[0])]
        found += matches
        if not matches:
            unknown.append(match[0])
    return tuple(dict.fromkeys(found))


def _paths(
    text: _Text, vocabulary: Vocabulary, unknown: list[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Component ids, or endings of them, and models named by a path."""
    components: list[str] = []
    models: list[str] = []
    for match in list(re.finditer(r"[\w~-]*\w(?:[./:#\\]+[\w-]*\w)+|[\w-]+", text.rest)):
        written = match[0]
        joined = re.search(r"[./:#\\]", written) is not None
        word = not joined and (vocabulary.named(written) or not content_words(written))
        matches = () if word else vocabulary.matching_components(written)
        if not joined and matches and matches[0].lower() != written:
            continue  # a single word must be the whole id
        if matches:
            components += matches
        elif written in vocabulary.models and joined:
            models.append(written)
        elif joined and _is_name(written, vocabulary):
            unknown.append(written)
        else:
            continue
        text.blank(match)
    return tuple(dict.fromkeys(components)), models


def _is_name(written: str, vocabulary: Vocabulary) -> bool:
    """Whether a word with dots or slashes is a name, not "and/or", "e.g." or a number."""
    if re.fullmatch(r"[\d.]+(?:e-?\d+)?%?", written):
        return False
    pieces = re.split(r"[./:#\\]+", written)
    plain_words = all(vocabulary.named(p) or not content_words(p) for p in pieces)
    return len(pieces) > 2 or not plain_words


def _places(text: _Text) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Edge, ...]]:
    """Layers, heads and the outermost layers, as in "heads 1 and 2 of layer 3" or L3H1."""
    layers: list[int] = []
    heads: list[int] = []
    for match in text.take(r"\bl(\d+)\s*\.?h(\d+)\b"):
        layers.append(int(match[1]))
        heads.append(int(match[2]))
    for match in text.take(rf"\b(?:layer|block)s?\s*#?{_SERIES}"):
        layers += [int(digits) for digits in re.findall(r"\d+", match[1])]
    for match in text.take(rf"\bheads?\s*#?{_SERIES}"):
        heads += [int(digits) for digits in re.findall(r"\d+", match[1])]
    edges: list[Edge] = [
        "first" if match[1] == "first" else "last"
        for match in text.take(r"\b(first|last|final|deepest)\s+(?:layer|block)\b")
    ]
    return tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(heads)), tuple(edges)


def _offsets(text: _Text, count: int) -> tuple[int, ...]:
    """Analyses named by their age."""
    found: list[int] = []
    newest = r"(?:last|latest|newest|most recent|recent)"
    for match in text.take(rf"\b{newest}\s+{_COUNT}(?:\s+{_NOUN})?\b"):
        found += range(_whole(match[1]))
    if list(text.take(rf"\b(?:both|the two)(?:\s+{_NOUN})\b|\bboth\b")):
        found += (0, 1)
    before = rf"(?:previous|second last|earlier)(?:\s+(?:{_NOUN}|one)|(?=\s*(?:$|\W*$|and\b|to\b)))"
    found += [1 for _ in text.take(rf"\b{before}|\b(?:the )?one before\b")]
    found += [0 for _ in text.take(rf"\b{newest}(?:\s+(?:{_NOUN}|one))?(?![\w-])")]
    return tuple(sorted({offset for offset in found if offset < max(1, count)}))


def _runs(text: _Text, vocabulary: Vocabulary, unknown: list[str]) -> tuple[str, ...]:
    """Run ids, or beginnings of them."""
    found: list[str] = []
    for match in list(re.finditer(r"(?<![\w./:-])[\w-]{4,}(?![\w/:]|\.\w)", text.rest)):
        written = match[0]
        digits = any(letter.isdigit() for letter in written)
        begins = [run for run in vocabulary.runs if run.lower().startswith(written)]
        told = re.search(r"(?:run|analysis|record)\s+$", text.rest[: match.start()])
        if begins and (digits or len(written) >= 8 or written in begins):
            found += begins
        elif digits and (told or re.fullmatch(r"(?:\w-)?[0-9a-f]{8,}", written)):
            unknown.append(written)
        else:
            continue
        text.blank(match)
    return tuple(dict.fromkeys(found))


def _names(text: _Text, vocabulary: Vocabulary) -> tuple[dict[Slot, list[str]], bool]:
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


def _foreign_models(text: _Text) -> list[str]:
    """Words built on a well-known family, such as bert-large or llama3, that memory lacks."""
    found = []
    for match in re.finditer(r"[a-z][\w.-]*\w", text.rest):
        pieces = re.split(r"[-_.]", match[0])
        if any(re.sub(r"\d+$", "", piece) in KNOWN_FAMILIES for piece in pieces):
            found.append(match[0])
            text.blank(match)
    return found


def _restricting(text: _Text) -> tuple[str, ...]:
    left = set(content_words(text.rest))
    return tuple(match[1] for match in re.finditer(_RESTRICTION, text.rest) if match[1] in left)


def _whole(written: str) -> int:
    return NUMBERS[written] if written in NUMBERS else int(written)


def _group(written: str) -> Group:
    groups: dict[str, Group] = {"layer": "layer", "kind": "kind", "model": "model"}
    return groups.get(written, "run")
