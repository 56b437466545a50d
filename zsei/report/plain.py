"""Lines and tables for a terminal, safe for any text.

Everything goes through `rich.text.Text`, never through rich's markup, and is cleaned first: neither
square brackets nor escape codes in a name or in a language model's words can style or move
anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from zsei.report.text import clean

COLORS = {
    "accepted": "green", "validated": "green", "exact": "green", "rejected": "red",
    "failed": "red", "not validated": "red", "agrees": "green", "disagrees": "red",
}  # fmt: skip
"""Colour of an outcome; everything else is open, and yellow."""
WIDEST = 34
"""Widest column but for the last, which takes what is left."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column's title and whether its cells are numbers, which stand to the right."""

    title: str
    right: bool = False


def columns(*titles: str) -> tuple[Column, ...]:
    """Columns from titles; one that ends in `>` holds numbers."""
    return tuple(Column(title=t.rstrip(">"), right=t.endswith(">")) for t in titles)


def outcome(name: str) -> Text:
    """An outcome in its colour."""
    return Text(name, style=COLORS.get(name, "yellow"))


def title(console: Console, text: str) -> None:
    """The heading of a part."""
    line(console, Text(text, style="bold cyan"))


def line(console: Console, text: Text | str) -> None:
    """One line, cut at the console's edge rather than broken."""
    shown = Text(text) if isinstance(text, str) else text
    console.print(shown, no_wrap=True, overflow="ellipsis", crop=True, highlight=False)


def paragraph(
    console: Console, text: str, style: str = "", *, indent: int = 0, limit: int = 1500
) -> None:
    """Text broken at the console's edge."""
    console.print(Padding(Text(clean(text, limit), style=style), (0, 0, 0, indent), expand=False))


def table(console: Console, heads: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> None:
    """A plain table without lines; what does not fit is cut in the last column."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    cells = [[Text(c) if isinstance(c, str) else c for c in row] for row in rows]
    room = console.width - 2
    for index, head in enumerate(heads):
        longest = max([cell_len(head.title), *(row[index].cell_len for row in cells)])
        last = index == len(heads) - 1
        width = max(8, min(longest, room)) if last else min(longest, WIDEST)
        room -= width + 2
        made.add_column(
            head.title, justify="right" if head.right else "left", width=width, no_wrap=True,
            overflow="ellipsis",
        )  # fmt: skip
    for row in cells:
        made.add_row(*row)
    console.print(Padding(made, (0, 0, 0, 2)), highlight=False, crop=True)
