"""Chroma as an index over the vectors in SQLite: it may be deleted at any time.

SQLite says what the index must hold: a generation number that moves with every change, and beside
it a token of the last index that was written, counted and read back. A question uses the index
only when both fit; otherwise it is brought up to date, or set aside and built again from the stored
vectors, without embedding. Where it lies and how it is opened: `place`.
"""

import secrets
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from zsei.errors import OutputError
from zsei.memory.embedder import Vectors
from zsei.memory.place import (
    FORMAT,
    IndexAway,
    IndexUnusable,
    LocalPlace,
    Place,
    ServerPlace,
    Token,
    folder,
)
from zsei.memory.store import Memory

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

_BATCH = 1000
_SAMPLE = 8
_WIDER = 10
"""How many times as many to look at where only some analyses or kinds are asked about."""
_QUESTION_SECONDS = 2.0
"""How long a question waits for another process; exact search answers instead."""
_BUILD_SECONDS = 60.0
_REPAIRS = 2
"""Twice: a client that fails to open leaves a half-made one in Chroma's process-wide cache, which
only the next failing open clears."""

_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class _Expected:
    """What the index must hold: so many vectors, and a sample of them (ids are hashes)."""

    token: Token
    sample: Mapping[str, bytes]


def place(memory: Memory, fingerprint: str) -> Place:
    """Where the index of this memory and this embedder lies."""
    if memory.chroma_url is None:
        return LocalPlace(path=folder(memory.home, fingerprint))
    name = f"zsei-v{FORMAT}-{fingerprint[:8]}-{memory.identity()}"
    return ServerPlace(url=memory.chroma_url, home=memory.home, collection=name)


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
    `kinds` restrict the passages; None is no restriction, and run "" means knowledge cards. They
    are looked for among the nearest of all, so a narrow restriction may leave fewer than `limit`.

    Raises:
        IndexUnusable: also a newly built index fails, it cannot be reached, or another process
            holds the lock.
    """
    at = place(memory, fingerprint)
    filtered = runs is not None or kinds is not None

    def nearest() -> list[str]:
        expected = _synchronised(memory, at, fingerprint)
        with at.reading(expected.token) as collection:
            _verify(collection, expected)
            near = collection.query(
                query_embeddings=[vector.tolist()],
                n_results=max(1, min(limit * (_WIDER if filtered else 1), expected.token.count)),
                include=[],
            )
            return list(near["ids"][0])

    hashes = _repairing(at, memory, nearest, _QUESTION_SECONDS)
    return _passages(memory, hashes, runs, kinds)[:limit]


def _passages(
    memory: Memory, hashes: Sequence[str], runs: Sequence[str] | None, kinds: Sequence[str] | None
) -> tuple[str, ...]:
    """Ids of the passages that have these vectors and fit, in the order of the vectors."""
    order = {sha256: place for place, sha256 in enumerate(hashes)}
    with memory.reading() as db:
        found = db.execute(
            "SELECT id, COALESCE(run, '') AS run, kind, sha256 FROM chunks "
            f"WHERE sha256 IN ({', '.join('?' * len(order))})",
            tuple(order),
        ).fetchall()
    fitting = [
        row
        for row in found
        if (runs is None or row["run"] in runs) and (kinds is None or row["kind"] in kinds)
    ]
    fitting.sort(key=lambda row: (order[row["sha256"]], row["id"]))
    return tuple(row["id"] for row in fitting)


def synchronise(memory: Memory, fingerprint: str, *, anew: bool = False) -> int:
    """Bring the index in line with the vectors in SQLite; returns how many passages it covers.

    Args:
        memory: Whose vectors.
        fingerprint: In which space.
        anew: Whether to build it again even where nothing is wrong with it.

    Raises:
        IndexUnusable: also a newly built index fails, it cannot be reached, or another process
            holds the lock.
    """
    at = place(memory, fingerprint)

    def work() -> int:
        expected = _synchronised(memory, at, fingerprint)
        with at.reading(expected.token) as collection:
            _verify(collection, expected)
        with memory.reading() as db:
            covered = (
                "SELECT COUNT(*) FROM chunks JOIN vectors USING (sha256) WHERE fingerprint = ?"
            )
            return int(db.execute(covered, (fingerprint,)).fetchone()[0])

    if anew:
        with at.locked(_BUILD_SECONDS):
            _drop(at, memory)
    return _repairing(at, memory, work, _BUILD_SECONDS)


def examine(memory: Memory, fingerprint: str) -> str:
    """What the index is like as it lies there, in a few words; changes nothing.

    Raises:
        IndexUnusable: it cannot be reached, or another process holds the lock.
    """
    at = place(memory, fingerprint)
    anew = "the next question builds it anew"
    with at.locked(_BUILD_SECONDS):
        with memory.reading() as db:
            known, sample = _token(db, at), _sampled(db, fingerprint)
            current = known is not None and known.generation == _state(db, "generation")
        if known is None:
            return f"not built; {anew}"
        if at.content() != known.content:
            return f"its files are not those that were written; {anew}"
        if not current:
            return f"{known.count} vectors, behind memory; the next question brings it up to date"
        try:
            with at.reading(known) as collection:
                _verify(collection, _Expected(token=known, sample=sample))
        except IndexAway:
            raise
        except IndexUnusable as error:
            return f"{error}; {anew}"
    return f"{known.count} vectors, counted, and a sample read back"


def _repairing(at: Place, memory: Memory, work: Callable[[], _Result], seconds: float) -> _Result:
    """Do the work under the lock; where the index fails, set it aside and build it anew."""
    with at.locked(seconds):
        for _ in range(_REPAIRS):
            try:
                return work()
            except IndexAway:
                raise
            except IndexUnusable:
                _drop(at, memory)
        return work()


def _drop(at: Place, memory: Memory) -> None:
    at.set_aside()
    _record(memory, "DELETE FROM state WHERE key = ?", (f"index:{at.name}",))


def _synchronised(memory: Memory, at: Place, fingerprint: str) -> _Expected:
    """Make the index hold what SQLite holds, unless it is known to."""
    with memory.reading() as db:
        generation, known = _state(db, "generation"), _token(db, at)
        sample = _sampled(db, fingerprint)
        if known is not None and known.generation == generation:
            return _Expected(token=known, sample=sample)
        every = f"SELECT sha256 AS id, vector {_WANTED} ORDER BY sha256"
        rows = db.execute(every, (fingerprint,)).fetchall()
    if at.content() != (known.content if known is not None else None):
        raise IndexUnusable("its files are not those that were written and read back")
    with at.writing() as collection:
        _write(collection, rows)
    token = Token(
        fingerprint=fingerprint,
        generation=generation,
        count=len(rows),
        content=at.content(),
        nonce=secrets.token_hex(8),
    )
    expected = _Expected(token=token, sample=sample)
    with at.reading(token) as collection:
        _verify(collection, expected)
    values = (f"index:{at.name}", token.model_dump_json())
    _record(memory, "INSERT OR REPLACE INTO state VALUES (?, ?)", values)
    return expected


def _record(memory: Memory, statement: str, values: tuple[str, ...]) -> None:
    try:
        with memory.writing() as db:
            db.execute(statement, values)
    except OutputError as error:
        raise IndexAway(f"what became of the index cannot be recorded: {error}") from error


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
        )


_WANTED = (
    "FROM vectors WHERE fingerprint = ? "
    "AND EXISTS (SELECT 1 FROM chunks WHERE chunks.sha256 = vectors.sha256)"
)
"""One entry for all passages that mean the same: among hundreds of equal vectors, each the others'
only neighbours, the search finds no way out."""


def _state(db: sqlite3.Connection, key: str) -> str:
    row = db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
    return str(row["value"]) if row else "0"


def _token(db: sqlite3.Connection, at: Place) -> Token | None:
    told = _state(db, f"index:{at.name}")
    return Token.model_validate_json(told) if told != "0" else None


def _sampled(db: sqlite3.Connection, fingerprint: str) -> dict[str, bytes]:
    few = f"SELECT sha256 AS id, vector {_WANTED} ORDER BY sha256 LIMIT {_SAMPLE}"
    return {row["id"]: bytes(row["vector"]) for row in db.execute(few, (fingerprint,))}


def _verify(collection: "Collection", expected: _Expected) -> None:
    count = collection.count()
    if count != expected.token.count:
        raise IndexUnusable(f"{count} vectors in the index, {expected.token.count} in memory")
    if not count:
        return
    found = collection.get(ids=sorted(expected.sample), include=["embeddings"])
    vectors = dict(zip(found["ids"], np.asarray(found["embeddings"]), strict=True))
    for name, blob in expected.sample.items():
        if name not in vectors or not np.allclose(
            vectors[name], np.frombuffer(blob, "<f4"), atol=1e-6
        ):
            raise IndexUnusable(f"the index does not give back the vector of {name}")
