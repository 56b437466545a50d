"""A question about measurements: speed-ups, claims, where the time goes; of which model, and what.

Only where memory holds documents of that kind; then they answer rather than the analyses.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zsei.memory.document_lines import KINDS, Kind
from zsei.memory.reading import Reading
from zsei.memory.remaining import Remaining
from zsei.memory.vocabulary import Vocabulary
from zsei.memory.words import content_words

_KINDS: Mapping[Kind, str] = {
    "claims": r"claims?|claimed|claiming|promis\w+|advertis\w+",
    "profile": r"profil\w+|hot[ -]?spots?|roofline|time (?:is |was )?(?:spent|lost)|"
               r"(?:spends?|spent|loses?|lost)(?: (?:most of )?(?:its|the|his) time)?|"
               r"(?:the |its )?time goes?|(?:costs?|takes?) (?:the )?most time|peak memory|"
               r"scal(?:es?|ing) with",
    "speed": r"speed[ -]?ups?|sped up|speeds? up|accelerat\w+|(?:how much )?(?:faster|fastest)|"
             r"quick(?:er|est)|times as fast|slowed",
}  # fmt: skip
_TECHNIQUES = (
    r"bf16|fp16|lower precision|int8|onnx(?: runtime)?|sdpa|flash|compile\w*|channels last|"
    r"autocast|inference mode|kv cache|fused optimi[sz]er|bucket|padding removal|"
    r"attention backends?|activation checkpointing|gradient accumulation"
)
"""Ways to be faster: their names alone ask for measurements of speed, `_SAME` applied."""
_SAME = (
    (r"b(?:rain )?float16", "bf16"), (r"half precision|float16", "fp16"),
    (r"quanti[sz]\w+|qint8", "int8"), (r"onnx ?runtime", "onnx runtime"),
    (r"torch\.compile|inductor", "compile"), (r"mixed precision", "autocast"),
    (r"flash[ _]attention", "flash"), (r"buckets?(?:ing)?", "bucket"), (r"[_-]", " "),
)  # fmt: skip
"""Wordings of one thing, so that a question and the name of a step meet."""
_TOGETHER = r"together|combin\w+|altogether|everything|in all|all of them|as a whole"
_GOOD = r"held|holds?|work(?:s|ed)?|accepted|pass(?:es|ed)?|helps?|helped|kept|pa(?:y|id) off|true"
_BAD = rf"(?:did ?n[o']?t|did not|do not|don'?t|not|never) (?:{_GOOD})|reject\w+|fail\w*|false"
_OPEN = r"undecided|not decided|inconclusive|open"
_NONE = r"not measurable|could not be measured|refused?|impossible|unavailable|inapplicable"
_OUTCOMES: Mapping[str, tuple[str, ...]] = {
    _NONE: ("refused", "not measurable here", "inapplicable"),
    _OPEN: ("not decided", "inconclusive"),
    _BAD: ("rejected", "failed", "not held", "left out"),
    _GOOD: ("accepted", "held"),
}
"""Words -> outcomes they ask for; the first that stands in a question counts."""
_AMOUNT = r"(\d+(?:\.\d+)?)\s*(?:x\b|×|times\b|-?fold\b|%|ms\b|percent\b)"
_PLACE = r"\b(?:layer|block|head)s? \d"
"""No speed-up is measured at one layer; an analysis may know of it."""
_ALL = r"\b(?:ever|all measurements|every measurement|history|so far|across)\b"
_WHICH = (
    r"^\W*(?:which|what|list|show|how many|name|were there|are there|is there|did any|do any)\b"
)
_RESTRICTION = (
    r"\b(?:of|in|for|on|at|with|by|using|from|does|did|is) (?:(?:the|a|an|my|our) )*(\w[\w.-]*)"
)
_GENERIC = frozenset(
    ("all", "base", "small", "large", "tiny", "mini", "medium", "model", "models", "demo", "with")
)
"""Parts of models' names that tell nothing."""
_SAID = (
    r"\b(?:bring|brought|reach|gain\w*|make|made|run|runs|running|time|much|way|best|technique|"
    r"measurements?|latency|steps?|parts?|give|gave)\b"
)
"""Words of such questions that say nothing more."""


@dataclass(frozen=True, kw_only=True)
class AboutDocuments:
    """What a question says of measurements."""

    kind: Kind
    documents: tuple[str, ...]
    """Ids that fit the models and kinds named, the newest first."""
    subjects: tuple[str, ...]
    """What they are about: steps of a speed-up, claims, components; empty names none."""
    outcomes: tuple[str, ...]
    amounts: tuple[float, ...]
    """The 71 of "the claim of 71x"."""
    together: bool
    everywhere: bool
    """All measurements rather than the newest of each model."""
    best: bool
    left: tuple[str, ...]
    """Words that say something and that nothing here recognised."""
    unknown: tuple[str, ...] = ()
    """Those among them that narrow the question."""


def read_documents(reading: Reading, vocabulary: Vocabulary) -> AboutDocuments | None:
    """What a question asks of documents; None when it is about none that memory holds."""
    if not vocabulary.documents or reading.proposals or reading.findings:
        return None
    text = Remaining(_plain(reading.text))
    ids = _ids(text, vocabulary)
    kind = _kind(text, ids, vocabulary)
    if kind is None:
        return None
    models = _models(text, (model for _, each, model in vocabulary.documents if each == kind))
    if "define" in reading.wishes and not (models or ids):
        return None
    if kind != "profile" and re.search(_PLACE, text.rest):
        return None
    subjects = _subjects(text, kind, vocabulary)
    amounts = tuple(float(match[1]) for match in text.take(_AMOUNT))
    together = text.has(_TOGETHER)
    everywhere = bool(list(text.take(_ALL)))
    best = text.has(r"fastest|best|most|largest|highest|biggest")
    outcomes = _outcomes(text, reading.text)
    list(text.take(_SAID))
    for pattern in _KINDS.values():
        text.has(pattern)
    left = tuple(dict.fromkeys(content_words(text.rest)))
    ways = rf"\b(?:{_TECHNIQUES})\b" if kind == "speed" else r"(?!)"
    unknown = [match[0] for match in text.take(ways)]
    unknown += [m[1] for m in re.finditer(_RESTRICTION, text.rest) if set(content_words(m[1]))]
    named = (*unknown, *reading.named("model"))
    if kind == "profile" and unknown and any(vocabulary.models.get(name) for name in named):
        return None  # a model that was analysed and not measured: the analyses may know
    fitting = tuple(
        name for name, each, model in vocabulary.documents
        if each == kind and (not models or model in models) and (not ids or name in ids)
    )  # fmt: skip
    return AboutDocuments(
        kind=kind, documents=fitting, subjects=subjects, outcomes=outcomes, amounts=amounts,
        together=together, everywhere=everywhere or bool(ids), best=best, left=left,
        unknown=tuple(dict.fromkeys(unknown)),
    )  # fmt: skip


def tokens(name: str) -> frozenset[str]:
    """The words by which a subject may be named: `lower-precision (dtype=bfloat16)` is bf16."""
    return frozenset(
        word[:7] for word in re.findall(r"[a-z][a-z0-9]+", _plain(name))
        if word not in ("dtype", "mode", "true", "false", "none", "claim", "params")
    )  # fmt: skip


def _plain(text: str) -> str:
    text = text.lower()
    for pattern, word in _SAME:
        text = re.sub(pattern, word, text)
    return text


def _ids(text: Remaining, vocabulary: Vocabulary) -> tuple[str, ...]:
    found = [match[0] for match in text.take(r"\b[0-9a-f]{6,}\b")]
    return tuple(
        name for name, _, _ in vocabulary.documents
        if any(name.rpartition("-")[2].startswith(part) for part in found)
    )  # fmt: skip


def _kind(text: Remaining, ids: Iterable[str], vocabulary: Vocabulary) -> Kind | None:
    """The kind that the words ask for, where memory holds one."""
    held = {kind for _, kind, _ in vocabulary.documents}
    for kind, pattern in _KINDS.items():
        pattern = f"{pattern}|{_TECHNIQUES}" if kind == "speed" else pattern
        if kind in held and re.search(rf"(?<![\w-])(?:{pattern})(?![\w-])", text.rest):
            return kind
    named = {kind for name, kind, _ in vocabulary.documents if name in set(ids)}
    return next((kind for kind in KINDS if kind in named), None)


def _models(text: Remaining, models: Iterable[str]) -> tuple[str, ...]:
    """Models that are named, whole or by a telling part: MiniLM is all-MiniLM-L6-v2."""
    found: list[str] = []
    labels: dict[str, list[str]] = {}
    for model in dict.fromkeys(models):
        short = re.split(r"[/\\:]", _plain(model).rstrip("/\\"))[-1]
        parts = [part for part in re.split(r"[\s._-]+", short) if re.search(r"[a-z]{3}", part)]
        for label in {_plain(model), short, *(p for p in parts if p not in _GENERIC)}:
            labels.setdefault(label, []).append(model)
    for label in sorted(labels, key=lambda label: (-len(label), label)):
        if text.has(re.escape(label)):
            found += labels[label]
    return tuple(dict.fromkeys(found))


def _subjects(text: Remaining, kind: Kind, vocabulary: Vocabulary) -> tuple[str, ...]:
    """What is named among the things measured; the words are taken out."""
    ordinary = {"time"} if kind == "profile" else {"speed", "model", "memory", "time", "layer"}
    words = {word: word[:7] for word in re.findall(r"[a-z][a-z0-9]+", text.rest)}
    asked = {short for word, short in words.items() if word in content_words(word)} - ordinary
    asked -= {"speedups", "faster", "claim", "claims", "claimed", "combine", "combined", "togethe"}
    found = [name for name in vocabulary.measured.get(kind, ()) if tokens(name) & asked]
    hit = {short for name in found for short in tokens(name)} & asked
    for word, short in words.items():
        if short in hit:
            list(text.take(rf"\b{word}\b"))
    return tuple(found)


def _outcomes(text: Remaining, question: str) -> tuple[str, ...]:
    """Outcomes that choose among lines; "did it hold?" asks for whatever came of it."""
    which = re.search(_WHICH, question.lower()) is not None
    chosen: tuple[str, ...] = ()
    for pattern, outcomes in _OUTCOMES.items():
        if text.has(pattern) and not chosen:
            chosen = outcomes
    return chosen if which else ()
