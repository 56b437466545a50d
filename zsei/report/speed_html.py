"""The page of a measurement of speed-ups: one self-contained HTML file, without a script."""

from pathlib import Path

from zsei.report import html
from zsei.report.speed_rows import grouped, row, rows, times
from zsei.report.speed_svg import speed_svg
from zsei.speed.record import SpeedRecord

PARTS_SHOWN = 60


def write(record: SpeedRecord, path: Path) -> Path:
    """Write the page to `path`; whole or not at all.

    Raises:
        OutputError: The folder does not exist, is not writable, or the disk is full.
    """
    return html.write_page(render(record), path)


def render(record: SpeedRecord) -> str:
    """The page."""
    together = record.together
    return html.page("speed.html.j2", ("report.css", "prune.css", "speed.css"), {
        "record": record,
        "chart": speed_svg(record),
        "rows": rows(record),
        "whole": None if together is None else row(together.trial),
        "parts": () if together is None else together.parts[:PARTS_SHOWN],
        "times": times,
        "refused": grouped(record.refused),
    })  # fmt: skip
