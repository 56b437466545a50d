"""The page of a check of claims: one self-contained HTML file, each claim against its measurement.

As the report of an analysis: it loads nothing, its content security policy forbids every connection
and every script, and every text is cleaned, clipped and escaped.
"""

from pathlib import Path

from zsei.claims.record import VERDICTS, ClaimsRecord
from zsei.report import html
from zsei.report.claims_svg import claim_bar
from zsei.report.claims_text import about, counted, measured, worded


def write(record: ClaimsRecord, path: Path) -> Path:
    """Write the page to `path`; whole or not at all.

    Raises:
        OutputError: The folder does not exist, is not writable, or the disk is full.
    """
    return html.write_page(render(record), path)


def render(record: ClaimsRecord) -> str:
    """The page."""
    return html.page("claims.html.j2", ("report.css", "claims.css"), {
        "record": record,
        "about": about(record),
        "counted": counted(record),
        "anchors": {verdict: verdict.replace(" ", "-") for verdict in VERDICTS},
        "rows": tuple(
            (outcome, claim_bar(outcome), measured(outcome), worded(outcome))
            for outcome in record.outcomes
        ),
    })  # fmt: skip
