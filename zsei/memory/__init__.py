"""Every analysis is kept, and can be asked about: SQLite is the record, Chroma an index over it."""

from zsei.memory.ask import ask as ask_memory
from zsei.memory.ask import ask_in
from zsei.memory.chunks import cards_of
from zsei.memory.search import Coverage, refresh
from zsei.memory.store import Memory, RunRow, open_memory
from zsei.memory.thread import Thread

__all__ = [
    "Coverage",
    "Memory",
    "RunRow",
    "Thread",
    "ask_in",
    "ask_memory",
    "cards_of",
    "open_memory",
    "refresh",
]
