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
    from zsei.errors import ZseiError
    from zsei.memory import open_memory
    from zsei.memory.documents import keep

    try:
        keep(open_memory(chosen), record)
    except ZseiError as error:
        print(f"zsei: The measurement was not kept in memory. {error}", file=sys.stderr)
