"""Find passages by meaning and by words, and join both rankings.

Words: FTS5 BM25. Meaning: Chroma over the stored vectors; exact search over the same vectors where
Chroma cannot be used or finds too few; nothing where no embedder can be loaded. Candidates of
either are compared exactly with the stored vectors, then fused by reciprocal rank (Cormack, Clarke
and Büttcher, SIGIR 2009): score = Σ 1 / (60 + rank).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zsei.errors import OutputError
from zsei.memory import index, matrix, rows
from zsei.memory.embedder import EmbedderUnavailable, Vectors
from zsei.memory.store import Memory
from zsei.memory.words import content_words

_RANK_OFFSET = 60
_CANDIDATES = 50


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A passage found, and how near it is."""

    id: str
    run: str | None
    kind: str
    key: str
    text: str
    score: float
    """Reciprocal-rank score; larger is nearer."""
    cosine: float | None
    """Cosine of question and passage; None without an embedder."""


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What `refresh` found and made: which means of search a question can use."""

    chunks: int
    vectors: int
    indexed: int
    notes: tuple[str, ...] = ()
    """Why a means of search cannot be used; empty when all can."""


def refresh(memory: Memory) -> Coverage:
    """Embed the passages that have no vector yet and bring the Chroma index up to date.

    Never fails for want of an embedder or of Chroma: `notes` says what stands in.
    """
    notes: list[str] = []
    vectors = indexed = 0
    try:
        _embed_missing(memory)
        with memory.reading() as db:
            counted = (
                "SELECT COUNT(*) FROM chunks JOIN vectors USING (sha256) WHERE fingerprint = ?"
            )
            vectors = db.execute(counted, (memory.embedder.fingerprint,)).fetchone()[0]
        indexed = index.synchronise(memory, memory.embedder.fingerprint)
    except EmbedderUnavailable as error:
        notes.append(f"search by words only: {error}")
    except index.IndexUnusable as error:
        notes.append(f"exact search instead of Chroma: {error}")
    with memory.reading() as db:
        chunks = db.execute("SELECT COUNT(*) FROM chunks").fetchone()[0]
    return Coverage(chunks=chunks, vectors=vectors, indexed=indexed, notes=tuple(notes))


def retrieve(
    memory: Memory,
    question: str,
    *,
    runs: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    limit: int = 5,
) -> tuple[Hit, ...]:
    """The passages nearest to a question, best first.

    Args:
        memory: Where to look.
        question: In plain words.
        runs: Only passages of these analyses ("" means knowledge cards); None is all.
        kinds: Only these kinds of passage; None is all.
        limit: How many at most.
    """
    words = _by_words(memory, question, runs, kinds)
    cosines = _by_meaning(memory, question, runs, kinds, words)
    meaning = sorted(cosines, key=lambda name: (-cosines[name], name))
    fused: dict[str, float] = {}
    for ranking in (words, meaning):
        for rank, name in enumerate(ranking, start=1):
            fused[name] = fused.get(name, 0.0) + 1 / (_RANK_OFFSET + rank)
    best = sorted(fused, key=lambda name: (-fused[name], name))[:limit]
    with memory.reading() as db:
        marks = ", ".join("?" * len(best))
        found = {
            row["id"]: row
            for row in db.execute(
                f"SELECT id, run, kind, key, text FROM chunks WHERE id IN ({marks})", best
            )
        }
    return tuple(
        Hit(**dict(found[name]), score=fused[name], cosine=cosines.get(name))
        for name in best
        if name in found
    )


def _by_words(
    memory: Memory, question: str, runs: Sequence[str] | None, kinds: Sequence[str] | None
) -> list[str]:
    terms = content_words(question) or re.findall(r"\w+", question.lower())
    if not terms:
        return []
    matching = " OR ".join(f'"{term}"' for term in dict.fromkeys(terms))
    where, values = _where(runs, kinds)
    with memory.reading() as db:
        found = db.execute(
            "SELECT chunks.id FROM chunk_words JOIN chunks ON chunks.number = chunk_words.rowid "
            f"WHERE chunk_words MATCH ? {where} ORDER BY bm25(chunk_words), chunks.id LIMIT ?",
            (matching, *values, _CANDIDATES),
        )
        return [row["id"] for row in found]


def _by_meaning(
    memory: Memory,
    question: str,
    runs: Sequence[str] | None,
    kinds: Sequence[str] | None,
    words: Sequence[str],
) -> dict[str, float]:
    """Cosines of the passages nearest to the question and of those found by words.

    Empty without an embedder.
    """
    try:
        _embed_missing(memory)
        asked = memory.embedder.embed([question])[0]
        fingerprint = memory.embedder.fingerprint
    except EmbedderUnavailable:
        return {}
    try:
        near = index.query(memory, fingerprint, asked, runs=runs, kinds=kinds, limit=_CANDIDATES)
        if len(near) >= _CANDIDATES or (runs is None and kinds is None):
            return _cosines(memory, asked, {*words, *near})
    except index.IndexUnusable:
        pass
    held = matrix.load(memory, fingerprint)
    near = matrix.nearest(held, asked, runs, kinds, _CANDIDATES)
    return _cosines(memory, asked, {*words} - near.keys()) | near


def _cosines(memory: Memory, asked: Vectors, names: set[str]) -> dict[str, float]:
    chosen = sorted(names)
    marks = ", ".join("?" * len(chosen))
    # CROSS: passages first; the other way round SQLite would look at every vector.
    with memory.reading() as db:
        stored = db.execute(
            "SELECT chunks.id, vector FROM chunks CROSS JOIN vectors USING (sha256) "
            f"WHERE fingerprint = ? AND chunks.id IN ({marks})",
            (memory.embedder.fingerprint, *chosen),
        ).fetchall()
    if not stored:
        return {}
    cosines = np.stack([np.frombuffer(row["vector"], "<f4") for row in stored]) @ asked
    return {row["id"]: float(cosine) for row, cosine in zip(stored, cosines, strict=True)}


def _where(runs: Sequence[str] | None, kinds: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    parts: Mapping[str, Sequence[str] | None] = {"COALESCE(chunks.run, '')": runs, "kind": kinds}
    chosen = {name: tuple(values) for name, values in parts.items() if values is not None}
    text = "".join(
        f" AND {name} IN ({', '.join('?' * len(values))})" for name, values in chosen.items()
    )
    return text, tuple(value for values in chosen.values() for value in values)


def _embed_missing(memory: Memory) -> int:
    """Give every passage a vector in the space of the embedder at hand; returns how many lack one.

    On a disk that is full or cannot be written nothing is kept, and some go without.
    """
    fingerprint = memory.embedder.fingerprint
    held = memory.matrix
    with memory.reading() as db:
        found = db.execute("SELECT value FROM state WHERE key = 'generation'").fetchone()
        now = (fingerprint, str(found["value"]) if found else "0")
        if held is not None and held.whole and (held.fingerprint, held.generation) == now:
            return 0
        missing = db.execute(
            "SELECT sha256, MIN(gist) AS gist FROM chunks WHERE sha256 NOT IN "
            "(SELECT sha256 FROM vectors WHERE fingerprint = ?) GROUP BY sha256 ORDER BY sha256",
            (fingerprint,),
        ).fetchall()
    if not missing:
        return 0
    vectors = memory.embedder.embed([row["gist"] for row in missing]).astype("<f4")
    try:
        with memory.writing() as db:
            db.executemany(
                "INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)",
                [
                    (fingerprint, row["sha256"], vector.tobytes())
                    for row, vector in zip(missing, vectors, strict=True)
                ],
            )
            rows.moved(db)
    except OutputError:
        return len(missing)
    return 0
