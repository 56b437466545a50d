"""Which components of an analysis a line of text speaks of: closed names, read by rules."""

import re
from collections.abc import Sequence

from zsei.errors import UsageError
from zsei.records import AnalysisRecord, Component, ComponentKind

_LIST = r"(\d+(?:\s*(?:,|and|&|to|with)\s*(?:and\s+)?\d+)*)"
_HEADS = re.compile(rf"\bheads?\s+{_LIST}\s+(?:of|in|at|from)\s+(?:the\s+)?(?:layer|block)\s+(\d+)")
_LAYER_HEADS = re.compile(rf"\b(?:layer|block)\s+(\d+),?\s+heads?\s+{_LIST}")
_KINDS: dict[str, ComponentKind] = {
    "mlp": "mlp", "mlps": "mlp", "feed-forward": "mlp", "attention": "attention",
    "self-attention": "attention", "experts": "experts", "heads": "attention",
    "neurons": "mlp",
}  # fmt: skip
"""Words for a part of a layer; "the heads" and "the neurons" are those of its attention or MLP."""
_PART = re.compile(
    rf"\b({'|'.join(_KINDS)})\s+(?:of|in|at|from)\s+(?:the\s+)?(?:layers?|blocks?)\s+{_LIST}"
)
_LAYERS = re.compile(rf"\b(?:layers?|blocks?)\s+{_LIST}")
_POINTING = re.compile(r"\b(?:it|them|these|those|both|that)\b")
_LISTED = 6


def components_in(text: str, record: AnalysisRecord, shown: Sequence[str] = ()) -> tuple[str, ...]:
    """Ids of the components a text names, in its order, each once.

    Ids as they stand in the record; "heads 1 and 3 of layer 2"; "the mlp of layer 4"; "layers 2 and
    4"; "it", "them" for what was shown last.

    Args:
        text: What somebody wrote.
        record: Whose components may be named.
        shown: What "it" means.

    Raises:
        UsageError: It names a head, part or layer that this analysis does not have, or one that
            it has several of.
    """
    found: list[tuple[int, tuple[str, ...]]] = []
    rest = text

    def take(match: re.Match[str], names: tuple[str, ...]) -> None:
        nonlocal rest
        found.append((match.start(), names))
        rest = rest[: match.start()] + " " * len(match.group()) + rest[match.end() :]

    for match in _ids(record).finditer(text):
        take(match, (match.group(),))
    for pattern, layer, heads in ((_HEADS, 2, 1), (_LAYER_HEADS, 1, 2)):
        for match in pattern.finditer(rest.lower()):
            where = int(match[layer])
            take(match, tuple(_head(record, where, index) for index in _numbers(match[heads])))
    for match in _PART.finditer(rest.lower()):
        kind = _KINDS[match[1]]
        names = [_one(record, kind, layer, match[1]) for layer in _numbers(match[2])]
        take(match, tuple(names))
    for match in _LAYERS.finditer(rest.lower()):
        take(match, tuple(_one(record, "layer", n, "layer") for n in _numbers(match[1])))
    if not found and points_back(rest):
        known = {component.id for component in record.components}
        return tuple(name for name in shown if name in known)
    return tuple(dict.fromkeys(name for _, names in sorted(found) for name in names))


def points_back(text: str) -> bool:
    """Whether a text speaks of what was shown last."""
    return _POINTING.search(text.lower()) is not None


def _ids(record: AnalysisRecord) -> re.Pattern[str]:
    """Ids as whole words, longest first; plain words such as "head" are no ids in a sentence."""
    names = [c.id for c in record.components if not c.id.isalpha()]
    listed = sorted(names, key=len, reverse=True)
    return re.compile(rf"(?<![\w./#])(?:{'|'.join(map(re.escape, listed)) or '(?!)'})(?![\w/#])")


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers of a list such as "1, 2 and 5"; "1 to 4" stands for all between."""
    spans = re.findall(r"(\d{1,5})\s*to\s*(\d{1,5})", text)
    between = [n for a, b in spans for n in range(int(a), min(int(b), int(a) + 999) + 1)]
    alone = [int(n[:9]) for n in re.findall(r"\d+", text)]
    return tuple(dict.fromkeys([*between, *alone]) if between else dict.fromkeys(alone))


def _head(record: AnalysisRecord, layer: int, index: int) -> str:
    heads = [c for c in record.components if c.kind == "head" and c.layer == layer]
    return _only([c for c in heads if c.index == index], f"head {index} of layer {layer}", heads)


def _one(record: AnalysisRecord, kind: ComponentKind, layer: int, word: str) -> str:
    same = [c for c in record.components if c.kind == kind]
    what = f"layer {layer}" if kind == "layer" else f"{word} of layer {layer}"
    return _only([c for c in same if c.layer == layer], what, same)


def _only(found: Sequence[Component], what: str, others: Sequence[Component]) -> str:
    """The one component that fits.

    Raises:
        UsageError: There is none, or more than one.
    """
    if len(found) == 1:
        return found[0].id
    named = [c.id for c in found or others][:_LISTED]
    if found:
        raise UsageError(
            f"There are several: {what} may be {', '.join(named)}; name one by its id."
        )
    known = f"there are {', '.join(named)} ..." if named else "it has none at all"
    raise UsageError(f"This analysis has no {what}; {known}")
