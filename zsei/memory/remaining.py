"""The part of a question that is not understood yet: each recogniser takes its words out of it."""

import re
from collections.abc import Iterator


class Remaining:
    """A question in lower case; what was understood is blanked out, so nothing is read twice."""

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
