"""Finds whole names in a text: `layer.1` is no part of `layer.12` and none of `my.layer.1`."""

import re
from collections.abc import Iterable
from functools import lru_cache

_START = re.compile(r"(?<![\w./#-])[^\s\x00-\x1f]")
_END = re.compile(r"(?![\w/#]|[.-]\w)")
Found = tuple[int, int, str]
"""Where a name begins and ends, and which it is."""


class WholeNames:
    """Many names, looked for together."""

    def __init__(self, names: Iterable[str], *, plural: bool = False) -> None:
        """Arrange the names.

        Args:
            names: All of them; of several that begin at one place the longest is found.
            plural: Whether an "s" may stand behind.
        """
        self._endings = ("s", "") if plural else ("",)
        self._by_start: dict[str, list[str]] = {}
        for name in sorted({name for name in names if name}, key=lambda name: (-len(name), name)):
            self._by_start.setdefault(name[:2], []).append(name)
        for short in [start for start in self._by_start if len(start) == 1]:
            for start in [start for start in self._by_start if start[0] == short != start]:
                self._by_start[start] += self._by_start[short]  # the shortest, so the last

    def find(self, text: str) -> list[Found]:
        """All names in a text from left to right, none inside another."""
        found: list[Found] = []
        behind = 0
        for match in _START.finditer(text):
            start = match.start()
            if start < behind:
                continue
            name = self._at(text, start)
            if name is not None:
                found.append(name)
                behind = name[1]
        return found

    def _at(self, text: str, start: int) -> Found | None:
        known = self._by_start
        for name in known.get(text[start : start + 2]) or known.get(text[start], ()):
            if text.startswith(name, start):
                for ending in self._endings:
                    end = start + len(name) + len(ending)
                    if text.startswith(ending, start + len(name)) and _END.match(text, end):
                        return start, end, name
        return None


@lru_cache(maxsize=16)
def whole_names(names: frozenset[str], *, plural: bool = False) -> WholeNames:
    """Names arranged once: those of the cards are the same for every record."""
    return WholeNames(names, plural=plural)


def marked(text: str, found: Iterable[Found], mark: str) -> str:
    """The text with a mark for every character of what was found."""
    pieces, behind = [], 0
    for start, end, _ in found:
        pieces += [text[behind:start], mark * (end - start)]
        behind = end
    return "".join((*pieces, text[behind:]))


def lower(text: str) -> str:
    """The text in lower case, character by character, so that places stay the same."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(small if len(small := c.lower()) == 1 else c for c in text)
