"""Where a Chroma index lies: a folder of its own, or a collection on a server that a team shares.

Both do the same five things: say whether there is something, give a lock, give a collection for one
piece of work to write or to read, and put what cannot be trusted out of the way.
"""

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.error import URLError
from urllib.parse import SplitResult, urlsplit
from urllib.request import urlopen

from filelock import FileLock, Timeout

from zsei.errors import UsageError
from zsei.memory import kept
from zsei.records import Record

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

COLLECTION = "zsei-chunks"
FORMAT = 3
_ANSWER_SECONDS = 2.0
"""How long a server may take to say that it is there; a question waits no longer."""
_WORK_SECONDS = 20.0
"""How long a server may take with one request; a thousand vectors took it 1 to 2 s."""
_AWAY_SECONDS = 30.0
"""How long a server that did not answer is not asked again."""
_GRAPH: Any = {
    "hnsw": {"space": "cosine", "ef_construction": 200, "ef_search": 800, "max_neighbors": 32},
}
"""A wide search. Of 10,000 vectors of findings that say much the same it found 0.96 of the 10
nearest; what it misses are the few that are unlike all others."""


class IndexUnusable(Exception):
    """Chroma cannot be used here and now; exact search over SQLite stands in."""


class IndexAway(IndexUnusable):
    """Nothing says that the index is wrong: it cannot be reached, so there is nothing to mend."""


class Token(Record):
    """What SQLite knows of an index: written at this generation, counted and read back."""

    fingerprint: str
    generation: str
    count: int
    content: str | None
    """Digest of its segment files."""
    nonce: str
    """So that an index built anew is never taken for the one before it."""


class Place(Protocol):
    """Where an index lies."""

    @property
    def name(self) -> str:
        """Names format, embedder and Chroma: another of them is another index."""
        ...

    def content(self) -> str | None:
        """A digest of what damage makes dangerous to open; None where there is no such thing."""
        ...

    def locked(self, seconds: float) -> AbstractContextManager[None]:
        """The right to use the index; IndexUnusable when it does not come within `seconds`."""
        ...

    def writing(self) -> AbstractContextManager["Collection"]:
        """The collection, opened for this piece of work and closed after it."""
        ...

    def reading(self, token: Token) -> AbstractContextManager["Collection"]:
        """The collection as it was when `token` was made; may stay open for the next question."""
        ...

    def set_aside(self) -> None:
        """Out of the way with it, so that it can be built anew."""
        ...


def folder(home: Path, fingerprint: str) -> Path:
    """Where a local index lies: another Chroma or another embedder is another folder."""
    major, minor, *_ = version("chromadb").split(".")
    return home / "index" / f"v{FORMAT}-chroma{major}.{minor}-{fingerprint[:8]}"


def server(url: str) -> SplitResult:
    """The parts of a Chroma server's address.

    Raises:
        UsageError: it is no http(s) address of a host.
    """
    try:
        parts = urlsplit(url)
        more = parts.path.strip("/") or parts.query or parts.fragment or parts.username
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not more:
            return parts
    except ValueError:  # a port that is no number
        pass
    raise UsageError(
        f"chroma_url must be http://HOST:PORT or https://HOST:PORT, but it is {url!r}; mend "
        "ZSEI_CHROMA_URL or zsei.toml, or leave it out for an index in the memory folder."
    )


@dataclass(frozen=True, kw_only=True)
class LocalPlace:
    """A folder beside memory.

    Measured on chromadb 1.5.9: two writers lose vectors silently, a kill while it writes can make
    a folder unreadable for ever, an open client never sees another's rows, and a damaged segment
    can crash the process. So all use is under a lock; a mark file stays behind whenever a process
    dies inside, and such a folder is set aside unopened; so is one whose segment files are not
    those that were written.
    """

    path: Path

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    @property
    def _mark(self) -> Path:
        return self.path.with_name(f"{self.path.name}.open")

    def content(self) -> str | None:
        """SHA-256 over the segments that were flushed: only a flush writes them, never a reader.

        A segment without metadata was never flushed: Chroma makes it anew whenever it opens.
        """
        if not self.path.is_dir():
            return None
        whole = hashlib.sha256()
        flushed = sorted(path.parent for path in self.path.glob("*/index_metadata.pickle"))
        for file in (file for segment in flushed for file in sorted(segment.iterdir())):
            with file.open("rb") as opened:
                whole.update(f"{file.name}\x1f{file.stat().st_size}\x1f".encode())
                while piece := opened.read(1 << 20):
                    whole.update(piece)
        return whole.hexdigest()[:16]

    @contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """A file lock beside the folder."""
        with _file_lock(self.path, seconds):
            yield

    @contextmanager
    def writing(self) -> Iterator["Collection"]:
        """A client of its own, closed before the mark goes: what is kept open has written nothing.

        A lock alone is not enough: with clients kept open, three of three runs lost a batch.
        """
        with self._marked():
            kept.close()
            yield kept.opened((str(self.path), "writing"), self._client, COLLECTION, _GRAPH)
            kept.close()

    @contextmanager
    def reading(self, token: Token) -> Iterator["Collection"]:
        """The client that is kept open, as long as nobody has written since."""
        key = (str(self.path), token.nonce)
        with self._marked():
            if not kept.holds(key) and self.content() != token.content:
                raise IndexUnusable("its files are not those that were written and read back")
            if not self.path.is_dir():
                raise IndexUnusable("its folder is gone")
            yield kept.opened(key, self._client, COLLECTION, _GRAPH)

    def set_aside(self) -> None:
        """Rename the folder; only the latest such folder is kept."""
        kept.close()
        try:
            if self.path.exists():
                for old in self.path.parent.glob(f"{self.path.name}.broken-*"):
                    shutil.rmtree(old, ignore_errors=True)
                broken = self.path.with_name(f"{self.path.name}.broken-{time.time_ns()}")
                self.path.rename(broken)
            self._mark.unlink(missing_ok=True)
        except OSError as error:
            raise IndexUnusable(f"a broken index cannot be set aside: {error}") from error

    @contextmanager
    def _marked(self) -> Iterator[None]:
        """A mark for as long as the work takes; whatever fails inside is IndexUnusable."""
        if self._mark.exists():  # whoever made it died inside: opening could fail, or crash
            raise IndexUnusable("a process died while it used the index")
        try:
            self._mark.touch()
            yield
        except (IndexUnusable, KeyboardInterrupt, SystemExit, GeneratorExit):
            kept.close()
            raise
        except BaseException as error:  # a panic in Chroma's Rust core is no Exception
            kept.close()
            raise IndexUnusable(f"{type(error).__name__}: {error}") from error
        finally:
            with suppress(OSError):
                self._mark.unlink(missing_ok=True)

    def _client(self) -> Any:
        import chromadb
        from chromadb.config import Settings

        quiet = Settings(anonymized_telemetry=False)
        return chromadb.PersistentClient(path=str(self.path), settings=quiet)


@dataclass(frozen=True, kw_only=True)
class ServerPlace:
    """A collection on a Chroma server, one for each memory: its name carries the memory's own id.

    So memories of a team share a server without ever deleting each other's passages, and those
    who share one memory share its collection.
    """

    url: str
    home: Path
    collection: str

    @property
    def name(self) -> str:
        """Address and collection."""
        return f"{self.url.rstrip('/')}#{self.collection}"

    def content(self) -> str | None:
        """The server guards its own files."""
        return None

    @contextmanager
    def locked(self, seconds: float) -> Iterator[None]:
        """Among the processes on this folder; the server itself takes care of the rest."""
        with _file_lock(self.home / "index" / self.collection, seconds):
            yield

    @contextmanager
    def writing(self) -> Iterator["Collection"]:
        """The collection; an id names its content, so what two write at once is the same."""
        with self._answering():
            kept.close()
            yield kept.opened((self.name, ""), self._client, self.collection, _GRAPH)
            kept.close()

    @contextmanager
    def reading(self, token: Token) -> Iterator["Collection"]:
        """The connection that is kept open, as long as nobody has built the index anew."""
        with self._answering():
            yield kept.opened((self.name, token.nonce), self._client, self.collection, _GRAPH)

    def set_aside(self) -> None:
        """Delete this memory's collection, and nothing else on the server."""
        kept.close()
        with self._answering():
            from chromadb.errors import NotFoundError

            with suppress(NotFoundError):
                kept.opened((self.name, ""), self._client, self.collection, _GRAPH)
                kept.delete_collection(self.collection)
            kept.close()

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """What the server says is wrong can be mended; that it says nothing cannot."""
        if kept.is_away(self.url):
            raise IndexAway(f"{self.url} did not answer a moment ago")
        try:
            yield
        except (IndexUnusable, KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except BaseException as error:
            kept.close()
            from chromadb.errors import ChromaError

            if isinstance(error, ChromaError):
                raise IndexUnusable(f"{type(error).__name__}: {error}") from error
            kept.note_away(self.url, _AWAY_SECONDS)
            raise IndexAway(f"{self.url} does not answer: {error}") from error

    def _client(self) -> Any:
        parts = server(self.url)
        try:  # Chroma's own client would wait for ever
            with urlopen(f"{self.url.rstrip('/')}/api/v2/heartbeat", timeout=_ANSWER_SECONDS):
                pass
        except (OSError, URLError) as error:
            raise ConnectionError(str(error)) from error
        import chromadb
        from chromadb.config import Settings

        tls = parts.scheme == "https"
        client = chromadb.HttpClient(
            host=str(parts.hostname),
            port=parts.port or (443 if tls else 80),
            ssl=tls,
            settings=Settings(anonymized_telemetry=False),
        )
        for session in kept.sessions(client):  # made without any limit of time
            session.timeout = _WORK_SECONDS
        return client


@contextmanager
def _file_lock(path: Path, seconds: float) -> Iterator[None]:
    """The lock of one index among processes, and among the threads of this one."""
    with kept.alone(seconds) as alone:
        if not alone:
            raise IndexUnusable("this process uses another index, or was forked from one that does")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=seconds)
            lock.acquire()
        except Timeout as error:
            raise IndexUnusable("another process holds the index") from error
        except OSError as error:
            raise IndexUnusable(f"the index cannot be written: {error}") from error
        try:
            yield
        finally:
            lock.release()
