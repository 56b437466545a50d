"""Keeps a measurement where a failure to keep it must not take it away."""

from typing import TYPE_CHECKING

from zsei.errors import ZseiError
from zsei.memory import open_memory
from zsei.memory.documents import keep
from zsei.settings import Settings

if TYPE_CHECKING:
    from zsei.memory.document_lines import Document


def kept_or_why(record: "Document", settings: Settings) -> str:
    """Keep a measurement, where `zsei list`, `show` and `ask` find it; why not, where it fails."""
    try:
        keep(open_memory(settings), record)
    except ZseiError as error:
        return f"The measurement was not kept in memory. {error}"
    return ""
