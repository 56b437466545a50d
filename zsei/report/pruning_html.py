"""The page of a prune: one self-contained HTML file with the trade-off curve and the verdict.

As the report of an analysis: it loads nothing, its content security policy forbids every connection
and every script, and every text is cleaned, clipped and escaped.
"""

from pathlib import Path

from zsei.pruning.records import PruneRecord
from zsei.report import html
from zsei.report.pruning import labelled, limit_of, mark
from zsei.report.pruning_svg import curve_svg

TAKEN_SHOWN = 400
"""Rows of what goes; a model of more places has the rest in prune.json."""


def write(record: PruneRecord, path: Path) -> Path:
    """Write the page of a prune to `path`; whole or not at all.

    Raises:
        OutputError: The folder does not exist, is not writable, or the disk is full.
    """
    return html.write_page(render(record), path)


def render(record: PruneRecord) -> str:
    """The page."""
    shown = record.chosen or record.points[-1]
    return html.page("prune.html.j2", ("report.css", "prune.css"), {
        "record": record,
        "curve": curve_svg(record),
        "shown": shown,
        "taken": shown.taken[:TAKEN_SHOWN],
        "limit": limit_of(record),
        "labelled": labelled(record),
        "marks": {point.number: mark(record, point) for point in record.points},
        "verdicts": tuple(zip(record.tried, record.verdicts, strict=True)),
    })  # fmt: skip
