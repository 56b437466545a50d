"""Keeps what a command measured; where that fails, the measurement is still printed."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsei.memory.document_lines import Document
    from zsei.settings import Settings


def kept(record: "Document", chosen: "Settings") -> None:
    """Keep a measurement in memory, where `zsei list`, `show` and `ask` find it.

    A memory that cannot be written takes no measurement away: one line on stderr says why.
    """
    from zsei.memory.keeping import kept_or_why

    if why := kept_or_why(record, chosen):
        print(f"zsei: {why}", file=sys.stderr)
