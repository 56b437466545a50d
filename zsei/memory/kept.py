"""The one Chroma client that a process keeps open between questions.

Opening a folder costs 0.4 s at 10,000 passages and a query 2 ms, so the client stays. It is one for
the whole process, since Chroma itself keeps one system per folder and process: two holders would
share its memory, and neither could see what another process wrote.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

Key = tuple[str, str]
"""Where the index lies, and the token of its content: another content is another client."""


@dataclass
class _Process:
    """What this process holds."""

    guard: threading.RLock = field(default_factory=threading.RLock)
    process: int | None = None
    """The process that opened the first client; a child of it must not touch Chroma: it hangs."""
    key: Key | None = None
    client: Any = None
    collection: Any = None
    away: dict[str, float] = field(default_factory=dict)


_HELD = _Process()


@contextmanager
def alone(seconds: float) -> Iterator[bool]:
    """The right to use Chroma among the threads of this process; False when it is not given."""
    if _HELD.process not in (None, os.getpid()) or not _HELD.guard.acquire(timeout=seconds):
        yield False
        return
    try:
        _HELD.process = os.getpid()
        yield True
    finally:
        _HELD.guard.release()


def holds(key: Key) -> bool:
    """Whether the client under `key` is open."""
    return _HELD.key == key


def opened(key: Key, make: Callable[[], Any], name: str, configuration: Any) -> "Collection":
    """The collection under `key`, kept from the last time or opened now."""
    if _HELD.key != key:
        close()
        _HELD.client = make()
        _HELD.collection = _HELD.client.get_or_create_collection(
            name, embedding_function=None, configuration=configuration
        )
        _HELD.key = key
    return _HELD.collection


def delete_collection(name: str) -> None:
    """Delete a collection by the client that is open."""
    _HELD.client.delete_collection(name)


def close() -> None:
    """Let the client go, whatever state it is in."""
    client, _HELD.client, _HELD.collection, _HELD.key = _HELD.client, None, None, None
    if client is not None:
        try:
            for session in sessions(client):  # Chroma leaves them open
                session.close()
            client.close()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:  # a panic in Chroma's Rust core is no Exception; it is gone anyway
            return


def sessions(client: Any) -> list[Any]:
    """The HTTP sessions behind a client of a server, its own and its admin's; none of a folder."""
    holders = (client, getattr(client, "_admin_client", None))
    found = [getattr(getattr(each, "_server", None), "_session", None) for each in holders]
    return [session for session in found if session is not None]


def is_away(url: str) -> bool:
    """Whether a server failed to answer a moment ago."""
    return time.monotonic() < _HELD.away.get(url, 0.0)


def note_away(url: str, seconds: float) -> None:
    """Do not ask this server again for so long."""
    _HELD.away[url] = time.monotonic() + seconds
