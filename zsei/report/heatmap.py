"""The layer by head heat map: one table, a row per attention, a cell per head."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from html import escape
from math import floor, log10

from zsei.records import AnalysisRecord, Component, Measurement
from zsei.report.scale import bounds, level
from zsei.report.text import measured, number, short, spread
from zsei.report.trust import Score, importance

KINDS = {
    "first_token_mass": "first token",
    "previous_token_mass": "previous token",
    "diagonal_mass": "diagonal",
}
"""Attention masses that name a head's kind."""
NUMBERED = 16
"""Up to so many columns, cells show their numbers."""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    """The map and what its caption needs."""

    html: str
    name: str
    """Measurement shown."""
    unit: str
    exponent: int
    """Cells show value x 10^-exponent; 0 when they show no numbers."""
    bounds: tuple[float, ...]
    """Where each colour begins."""
    heads: int
    removed: int
    missing: int
    """Heads of which the measurement was not taken or could not be told."""
    negative: int
    """Heads without which the model does better."""
    smallest_n: int
    largest_n: int


def heat_map(
    record: AnalysisRecord, removed: Collection[str] = (), *, titles: bool = True
) -> HeatMap | None:
    """Importance of every head; None for a model without heads.

    Args:
        record: The analysis.
        removed: Ids of heads that accepted proposals take away.
        titles: Whether each cell says its id, value and kind when hovered over.
    """
    heads = [c for c in record.components if c.kind == "head"]
    if not heads:
        return None
    score = importance(record, [h.id for h in heads])
    score = score or Score(name="sensitivity", unit="", values={})
    rows: dict[str, list[Component]] = {}
    for head in heads:
        rows.setdefault(head.parent or head.id.rpartition("/")[0], []).append(head)
    columns = max(len(members) for members in rows.values())
    largest = score.largest
    exponent = _exponent(largest) if columns <= NUMBERED else 0
    body = [
        _row(record, parent, members, columns, score, frozenset(removed), exponent, titles)
        for parent, members in rows.items()
    ]
    top = "".join(f'<th scope="col">{i}</th>' for i in range(columns))
    dense = " dense" if columns > NUMBERED else ""
    told = [m for m in score.values.values() if m.value is not None]
    return HeatMap(
        html=(
            f'<table class="heat{dense}"><thead><tr><th scope="col">layer</th>{top}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table>"
        ),
        name=score.name,
        unit=score.unit,
        exponent=exponent,
        bounds=bounds(largest),
        heads=len(heads),
        removed=sum(h.id in removed for h in heads),
        missing=len(heads) - len(told),
        negative=sum(m.value is not None and m.value < 0 for m in told),
        smallest_n=min((m.n for m in told), default=0),
        largest_n=max((m.n for m in told), default=0),
    )


def _exponent(largest: float) -> int:
    """Power of ten that brings the largest value to between 1 and 1000."""
    if largest <= 0 or 1 <= largest < 1000:
        return 0
    return floor(log10(largest)) - 1


def _row(
    record: AnalysisRecord,
    parent: str,
    members: list[Component],
    columns: int,
    score: Score,
    removed: Collection[str],
    exponent: int,
    titles: bool,
) -> str:
    layer = members[0].layer
    name = f"{layer}" if layer is not None else escape(short(parent, 24))
    cells: dict[int, str] = {}
    for position, head in enumerate(members):
        column = head.index if head.index is not None and head.index < columns else position
        cells[column] = _cell(record, head, score, head.id in removed, exponent, columns, titles)
    filled = "".join(cells.get(i, "<td></td>") for i in range(columns))
    return f'<tr><th scope="row" title="{escape(short(parent, 120))}">{name}</th>{filled}</tr>'


def _cell(
    record: AnalysisRecord,
    head: Component,
    score: Score,
    removed: bool,
    exponent: int,
    columns: int,
    titles: bool,
) -> str:
    measurement = score.values.get(head.id)
    value = None if measurement is None else measurement.value
    if value is None:
        shade, text = "none", "?"
    else:
        shade = f"{'m' if value < 0 else 'q'}{level(value, score.largest)}"
        text = f"{value / 10**exponent:.1f}" if columns <= NUMBERED else ""
    gone = " gone" if removed else ""
    title = f' title="{_title(record, head, measurement, removed)}"' if titles else ""
    return f'<td class="{shade}{gone}"{title}>{text}</td>'


def _title(
    record: AnalysisRecord, head: Component, measurement: Measurement | None, removed: bool
) -> str:
    """Id, value, spread, kind: what the cell says when hovered over."""
    lines = [short(head.id, 120)]
    known = "not measured"
    if measurement is not None:
        known = f"{measured(measurement)} ({spread(measurement)})"
    lines.append(known)
    exact = record.measured(head.id, "ablation_effect")
    if exact is not None and exact is not measurement:
        lines.append(f"ablation_effect {measured(exact)} ({spread(exact)})")
    masses = head_masses(record, head.id)
    if masses:
        lines.append("mass on " + ", ".join(f"{k} {number(v)}" for k, v in masses.items()))
    if removed:
        lines.append("accepted for removal")
    return escape("\n".join(lines))


def head_masses(record: AnalysisRecord, head: str) -> Mapping[str, float]:
    """Attention mass of a head by where it goes, largest first."""
    found = {
        label: m.value
        for name, label in KINDS.items()
        if (m := record.measured(head, name)) is not None and m.value is not None
    }
    return dict(sorted(found.items(), key=lambda item: -item[1]))
