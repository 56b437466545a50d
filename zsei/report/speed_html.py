"""The page of a measurement of speed-ups: one self-contained HTML file, without a script."""

from pathlib import Path

from markupsafe import Markup

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
    names = ("report.css", "prune.css", "speed.css")
    style = "".join((html.TEMPLATES / name).read_text(encoding="utf-8") for name in names)
    together = record.together
    return (
        html.environment()
        .get_template("speed.html.j2")
        .render(
            record=record,
            style=Markup(style),
            policy=html.policy(style, ""),
            chart=speed_svg(record),
            rows=rows(record),
            whole=None if together is None else row(together.trial),
            parts=() if together is None else together.parts[:PARTS_SHOWN],
            times=times,
            refused=grouped(record.refused),
        )
    )
