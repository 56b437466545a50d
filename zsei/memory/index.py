"""Chroma as an index over the vectors in SQLite: it may be deleted at any time.

Measured on chromadb 1.5.9: two writers lose vectors silently, a kill while it writes can make a
folder unreadable for ever, an open client never sees another's rows, and a damaged segment can
crash the process. So a client is open only under a lock and only for one piece of work, what was
written is counted and read back, and a mark file stays behind whenever a process dies inside:
such a folder is set aside unopened and built again from SQLite, without embedding.
"""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout

from zsei.memory.embedder import Vectors
from zsei.memory.store import Memory

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

COLLECTION = "zsei-chunks"
_FORMAT = 1
_BATCH = 1000
_SAMPLE = 8
_LOCK_SECONDS = 30.0
_REPAIRS = 2
"""Twice: a client that fails to open leaves a half-made one in Chroma's process-wide cache, which
only the next failing open clears."""
_GRAPH: Any = {
    "hnsw": {"space": "cosine", "ef_construction": 200, "ef_search": 200},
}
"""Wider search than the default, whose recall at 10 was 0.91 on 2,000 random vectors."""


_Result = TypeVar("_Result")


class IndexUnusable(Exception):
    """Chroma cannot be used here and now; exact search over SQLite stands in."""


def folder(home: Path, fingerprint: str) -> Path:
    """Where the index lies: another Chroma or another embedder is another folder."""
    major, minor, *_ = version("chromadb").split(".")
    return home / "index" / f"v{_FORMAT}-chroma{major}.{minor}-{fingerprint[:8]}"


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """What the index must hold: how many passages, and a sample (ids are hashes) of vectors."""

    count: int
    sample: Mapping[str, bytes]


def query(
    memory: Memory,
    fingerprint: str,
    vector: Vectors,
    *,
    runs: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    limit: int = 50,
) -> tuple[str, ...]:
    """Ids of the passages nearest to a unit vector [dimension], nearest first.

    Brings the index up to date first when the generation in SQLite has moved on. `runs` and
    `kinds` restrict the passages; None is no restriction, and run "" means knowledge cards.

    Raises:
        IndexUnusable: also a newly built index fails, or another process holds the lock.
    """
    path = folder(memory.home, fingerprint)
    if (runs is not None and not runs) or (kinds is not None and not kinds):
        return ()  # Chroma refuses an empty list

    def nearest() -> tuple[str, ...]:
        expected = _synchronised(memory, path, fingerprint)
        with _opened(path) as collection:
            _verify(collection, expected)
            near = collection.query(
                query_embeddings=[vector.tolist()],
                n_results=max(1, min(limit, expected.count)),
                where=_where(runs, kinds),
                include=[],
            )
            return tuple(near["ids"][0])

    return _repairing(path, nearest)


def synchronise(memory: Memory, fingerprint: str) -> int:
    """Bring the index in line with the vectors in SQLite; returns how many passages it holds.

    Raises:
        IndexUnusable: also a newly built index fails, or another process holds the lock.
    """
    path = folder(memory.home, fingerprint)
    return _repairing(path, lambda: _synchronised(memory, path, fingerprint).count)


def _repairing(path: Path, work: Callable[[], _Result]) -> _Result:
    """Do the work under the lock; where the index fails, set it aside and build it anew."""
    with _locked(path):
        for _ in range(_REPAIRS):
            try:
                return work()
            except IndexUnusable:
                _set_aside(path)
        return work()


def _synchronised(memory: Memory, path: Path, fingerprint: str) -> _Expected:
    """Make the index hold what SQLite holds, unless it is known to."""
    with memory.reading() as db:
        generation = _state(db, "generation")
        current = _state(db, f"indexed:{path.name}") if path.is_dir() else ""
        count = db.execute(f"SELECT COUNT(*) {_WANTED}", (fingerprint,)).fetchone()[0]
        few = f"SELECT id, vector {_WANTED} ORDER BY id LIMIT {_SAMPLE}"
        sample = {row["id"]: bytes(row["vector"]) for row in db.execute(few, (fingerprint,))}
        every = f"SELECT id, run, kind, component, metric, vector {_WANTED} ORDER BY id"
        rows = db.execute(every, (fingerprint,)).fetchall() if generation != current else []
    expected = _Expected(count=count, sample=sample)
    if generation == current:
        return expected
    with _opened(path) as collection:
        _write(collection, rows)
        _verify(collection, expected)
    with memory.writing() as db:
        key = f"indexed:{path.name}"
        db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, generation))
    return expected


def _write(collection: "Collection", rows: Sequence[sqlite3.Row]) -> None:
    """Delete what is gone and add what is new; an id names its content, so nothing changes."""
    held = set(collection.get(include=[])["ids"])
    gone = sorted(held - {row["id"] for row in rows})
    new = [row for row in rows if row["id"] not in held]
    for start in range(0, len(gone), _BATCH):
        collection.delete(ids=gone[start : start + _BATCH])
    for start in range(0, len(new), _BATCH):
        batch = new[start : start + _BATCH]
        collection.add(
            ids=[row["id"] for row in batch],
            embeddings=np.stack([np.frombuffer(row["vector"], "<f4") for row in batch]),
            metadatas=[_metadata(row) for row in batch],
        )


_WANTED = "FROM chunks JOIN vectors USING (sha256) WHERE fingerprint = ?"


def _state(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
    return str(row["value"]) if row else "0"


def _metadata(row: sqlite3.Row) -> dict[str, str]:
    # Chroma drops None and NaN silently and refuses dicts: strings only, "" for nothing.
    return {name: row[name] or "" for name in ("run", "kind", "component", "metric")}


def _where(runs: Sequence[str] | None, kinds: Sequence[str] | None) -> dict[str, Any] | None:
    chosen = {"run": runs, "kind": kinds}
    parts = [{name: {"$in": list(values)}} for name, values in chosen.items() if values is not None]
    return {"$and": parts} if len(parts) > 1 else (parts[0] if parts else None)


def _verify(collection: "Collection", expected: _Expected) -> None:
    count = collection.count()
    if count != expected.count:
        raise IndexUnusable(f"{count} passages in the index, {expected.count} in memory")
    if not count:
        return
    found = collection.get(ids=sorted(expected.sample), include=["embeddings"])
    vectors = dict(zip(found["ids"], np.asarray(found["embeddings"]), strict=True))
    for name, blob in expected.sample.items():
        if name not in vectors or not np.allclose(
            vectors[name], np.frombuffer(blob, "<f4"), atol=1e-6
        ):
            raise IndexUnusable(f"the index does not give back the vector of {name}")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(f"{path.name}.lock"), timeout=_LOCK_SECONDS)
        lock.acquire()
    except Timeout as error:
        raise IndexUnusable("another process holds the index") from error
    except OSError as error:
        raise IndexUnusable(f"the index cannot be written: {error}") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _opened(path: Path) -> Iterator["Collection"]:
    """The collection, for one piece of work under the lock; whatever fails is IndexUnusable."""
    mark = path.with_name(f"{path.name}.open")
    if mark.exists():  # whoever made it died inside: opening could fail for ever, or crash
        _set_aside(path)
    client: Any = None
    try:
        import chromadb
        from chromadb.config import Settings

        mark.touch()
        client = chromadb.PersistentClient(
            path=str(path), settings=Settings(anonymized_telemetry=False)
        )
        yield client.get_or_create_collection(
            COLLECTION, embedding_function=None, configuration=_GRAPH
        )
    except (IndexUnusable, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a panic in Chroma's Rust core is no Exception
        raise IndexUnusable(f"{type(error).__name__}: {error}") from error
    finally:
        if client is not None:
            client.close()
        mark.unlink(missing_ok=True)


def _set_aside(path: Path) -> None:
    """Rename a folder that cannot be trusted; only the latest such folder is kept."""
    try:
        if path.exists():
            for old in path.parent.glob(f"{path.name}.broken-*"):
                shutil.rmtree(old, ignore_errors=True)
            path.rename(path.with_name(f"{path.name}.broken-{time.time_ns()}"))
        path.with_name(f"{path.name}.open").unlink(missing_ok=True)
    except OSError as error:
        raise IndexUnusable(f"a broken index cannot be set aside: {error}") from error
