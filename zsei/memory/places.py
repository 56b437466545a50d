"""Places and analyses in a question: ids, paths, "head 2 of layer 3", "the last two runs"."""

import re
from collections.abc import Sequence
from typing import Literal

from zsei.memory.dates import Span
from zsei.memory.remaining import Remaining
from zsei.memory.vocabulary import Vocabulary
from zsei.memory.words import NUMBERS, content_words

Edge = Literal["first", "last"]

COUNT = rf"(\d+|{'|'.join(NUMBERS)})"
NOUN = r"(?:analys[ie]s|runs?|records?|results?|models?)"
_SMALL = {"zero": 0, "one": 1}
_ORDINALS = (
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
)  # fmt: skip
_ORDINAL = rf"({'|'.join(_ORDINALS[1:])}|\d+(?:st|nd|rd|th))"
_ONE = rf"(?:\d+|{'|'.join((*_SMALL, *NUMBERS))})"
_SERIES = (
    rf"({_ONE}\s*(?:to|through|-|\u2013)\s*{_ONE}"
    rf"|{_ONE}(?:\s*(?:,\s*and|,|and|or|&|\+|vs\.?|versus|with|against)\s*{_ONE})*)\b"
)


def tagged(text: Remaining, tag: str, known: Sequence[str], unknown: list[str]) -> tuple[str, ...]:
    """Ids such as `p-1f0c...`, or a beginning of them."""
    found: list[str] = []
    for match in text.take(rf"(?<![\w-]){tag}-\w+"):
        matches = [name for name in known if name.startswith(match[0])]
        found += matches
        if not matches:
            unknown.append(match[0])
    return tuple(dict.fromkeys(found))


def paths(
    text: Remaining, vocabulary: Vocabulary, unknown: list[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Component ids, or endings of them, and models named by a path."""
    components: list[str] = []
    models: list[str] = []
    for match in list(re.finditer(r"[\w~-]*\w(?:[./:#\\]+[\w-]*\w)+|[\w-]+", text.rest)):
        written = match[0]
        joined = re.search(r"[./:#\\]", written) is not None
        number = written.isdigit()  # a layer of `Sequential` is called "0", a place is "layer 0"
        word = not joined and (number or vocabulary.named(written) or not content_words(written))
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
    if all(len(piece) == 1 for piece in pieces):  # i.e.
        return False
    plain_words = all(vocabulary.named(p) or not content_words(p) for p in pieces)
    return len(pieces) > 2 or not plain_words


def places(text: Remaining) -> tuple[tuple[int, ...], tuple[int, ...], tuple[Edge, ...]]:
    """Layers, heads and the outermost layers, as in "heads 1 and 2 of layer 3" or L3H1.

    "Layer 3" is the id's number, which counts from 0; "the third layer" counts from the first.
    """
    layers: list[int] = []
    heads: list[int] = []
    for match in text.take(r"\bl(\d+)\s*[./-]?\s*h(\d+)\b"):
        layers.append(int(match[1]))
        heads.append(int(match[2]))
    numbered = ((r"(?:layer|block|blk|lyr)", layers), (r"head", heads))
    for noun, found in numbered:
        for match in text.take(rf"\b{noun}s?\s*(?:no\.?|number|nr\.?|#|idx|index)?\s*{_SERIES}"):
            found += _series(match[1])
        for match in text.take(rf"\b{_ORDINAL}\s+(?:attention\s+)?{noun}\b"):
            found.append(_ordinal(match[1]))
    layers += [int(match[1]) for match in text.take(r"\bl(\d{1,3})\b(?!\s*(?:norm|regulari))")]
    edges: list[Edge] = [
        "first" if match[1] == "first" else "last"
        for match in text.take(r"\b(first|last|final|deepest)\s+(?:layer|block)\b")
    ]
    return tuple(dict.fromkeys(layers)), tuple(dict.fromkeys(heads)), tuple(edges)


def _series(written: str) -> list[int]:
    """Numbers of "1, 2 and 4" or "1 to 3"."""
    if span := re.fullmatch(r"(\d+)\s*(?:to|through|-|\u2013)\s*(\d+)", written):
        first, last = int(span[1]), int(span[2])
        return list(range(first, last + 1)) if first <= last < first + 1000 else [first, last]
    words = re.findall(r"\w+", written)
    return [whole(word) for word in words if word.isdigit() or word in NUMBERS or word in _SMALL]


def _ordinal(written: str) -> int:
    digits = re.match(r"\d+", written)
    return int(digits[0]) - 1 if digits else _ORDINALS.index(written)


def offsets(text: Remaining, count: int) -> tuple[int, ...]:
    """Analyses named by their age: 0 the last, 1 the one before, -1 the first of all."""
    found: list[int] = []
    newest = r"(?:last|latest|newest|most recent|recent)"
    for match in text.take(rf"\b{newest}\s+{COUNT}(?:\s+{NOUN})?\b"):
        found += range(whole(match[1]))
    for match in text.take(rf"\b{COUNT}\s+{newest}(?:\s+{NOUN})?(?![\w-])"):
        found += range(whole(match[1]))
    if list(text.take(rf"\b(?:both|the two)(?:\s+{NOUN})\b|\bboth\b")):
        found += (0, 1)
    before = rf"(?:previous|second last|earlier)(?:\s+(?:{NOUN}|one)|(?=\s*(?:$|\W*$|and\b|to\b)))"
    found += [1 for _ in text.take(rf"\b{before}|\b(?:the )?one before\b")]
    found += [0 for _ in text.take(rf"\b{newest}(?:\s+(?:{NOUN}|one))?(?![\w-])")]
    oldest = rf"(?:oldest|earliest|very first)(?:\s+(?:{NOUN}|one))?"
    first = rf"first(?:\s+(?:ever\s+)?(?:{NOUN}|analy[sz]e\w*)|(?=\s+(?:and|to|with|vs)\b))"
    found += [-1 for _ in text.take(rf"\b(?:{oldest}|{first})(?![\w-])")]
    return tuple(sorted({offset for offset in found if offset < max(1, count)}))


def runs(
    text: Remaining, vocabulary: Vocabulary, unknown: list[str]
) -> tuple[tuple[str, ...], tuple[Span, ...]]:
    """Run ids, or beginnings of them; "before" such a one is a span of time."""
    found: list[str] = []
    spans: list[Span] = []
    for match in list(re.finditer(r"(?<![\w./:-])[\w-]{4,}(?![\w/:]|\.\w)", text.rest)):
        written = match[0]
        digits = any(letter.isdigit() for letter in written)
        begins = [run for run in vocabulary.runs if run.lower().startswith(written)]
        leading = text.rest[: match.start()]
        side = re.search(r"\b(before|older than|after|since|newer than)\s+(?:\w+\s+)?$", leading)
        if begins and (digits or len(written) >= 8 or written in begins):
            if side:
                older = side[1] in ("before", "older than")
                moments = [vocabulary.created[run] for run in begins]
                spans += [("", m) if older else (f"{m}\x00", "") for m in moments]
                text.rest = f"{leading[: side.start()]:{len(leading)}}{text.rest[match.start() :]}"
            else:
                found += begins
        elif digits and (
            re.search(r"(?:run|analysis|record)\s+$", leading)
            or re.fullmatch(r"(?:\w-)?[0-9a-f]{8,}", written)
        ):
            unknown.append(written)
        else:
            continue
        text.blank(match)
    return tuple(dict.fromkeys(found)), tuple(spans)


def whole(written: str) -> int:
    """A whole number in digits or as a word."""
    named = {**NUMBERS, **_SMALL}
    return named[written] if written in named else int(written)
