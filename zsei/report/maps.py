"""Maps: numbers for pairs, as tables whose colour is the number."""

from dataclasses import dataclass
from html import escape

from zsei.records import AnalysisRecord, Matrix
from zsei.report.scale import level
from zsei.report.text import number, short

NUMBERED = 16
"""Up to so many columns, cells show their numbers."""


@dataclass(frozen=True, kw_only=True)
class Map:
    """A matrix ready to be shown."""

    matrix: Matrix
    html: str
    negative: bool
    """Whether some cells are below zero, which have a colour of their own."""
    left_out: int
    """Rows and columns that are not shown."""


def maps(record: AnalysisRecord, most: int, size: int) -> tuple[Map, ...]:
    """The first maps of a record, up to `size` rows and columns each; empty ones are left out."""
    told = [m for m in record.matrices if any(v is not None for row in m.values for v in row)]
    return tuple(_map(matrix, size) for matrix in told[:most])


def _map(matrix: Matrix, size: int) -> Map:
    values = [row[:size] for row in matrix.values[:size]]
    told = [v for row in values for v in row if v is not None]
    largest = max((abs(v) for v in told), default=0.0)
    columns = matrix.columns[:size]
    names = _apart(columns)
    top = "".join(
        f'<th scope="col" title="{escape(short(full, 120))}">{escape(name)}</th>'
        for full, name in zip(columns, names, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row" title="{escape(short(full, 120))}">{escape(name)}</th>'
        + "".join(_cell(full, column, value, largest, len(columns))
                  for column, value in zip(columns, row, strict=True))
        + "</tr>"
        for full, name, row in zip(matrix.rows, _apart(matrix.rows[:size]), values, strict=False)
    )  # fmt: skip
    dense = " dense" if len(columns) > NUMBERED else ""
    return Map(
        matrix=matrix,
        html=(
            f'<table class="heat map{dense}"><thead><tr><td></td>{top}</tr></thead>'
            f"<tbody>{body}</tbody></table>"
        ),
        negative=any(v < 0 for v in told),
        left_out=max(0, len(matrix.rows) - size) + max(0, len(matrix.columns) - size),
    )


def _cell(row: str, column: str, value: float | None, largest: float, columns: int) -> str:
    # Names stand in the heads of rows and columns; in thousands of cells they would fill the page.
    dense = columns > NUMBERED
    names = "" if dense else f"{short(row, 60)}, {short(column, 60)}: "
    title = escape(f"{names}{number(value)}")
    if value is None:
        return f'<td class="none" title="{title}"></td>'
    shade = f"{'m' if value < 0 else 'q'}{level(value, largest)}"
    text = f"{value:.2g}" if columns <= NUMBERED else ""
    return f'<td class="{shade}" title="{title}">{text}</td>'


def _apart(names: tuple[str, ...], limit: int = 18) -> list[str]:
    """Names without the beginning that all of them share, up to a separator."""
    shared = 0
    for index, letters in enumerate(zip(*names, strict=False)):
        if len(set(letters)) > 1:
            break
        if letters[0] in "./":
            shared = index + 1
    if len(names) < 2:
        shared = 0
    return [short(name[shared:], limit) for name in names]
