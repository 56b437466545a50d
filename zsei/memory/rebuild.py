"""Make again whatever is derived: tables and passages from the records, the index from vectors."""

import shutil
import sqlite3

from zsei.memory import documents, index, rows
from zsei.memory.check import whole
from zsei.memory.embedder import EmbedderUnavailable
from zsei.memory.place import IndexUnusable, Token
from zsei.memory.store import Memory
from zsei.records import Record


class Rebuilt(Record):
    """What `rebuild` made."""

    runs: int
    passages: int
    embedded: int
    """Passages whose vector was made anew."""
    indexed: int
    notes: tuple[str, ...] = ()
    """What could not be made, and why."""
    documents: int = 0
    damaged: tuple[str, ...] = ()
    """Analyses and documents whose record is not whole; their rows were left as they are."""


def rebuild(memory: Memory, *, embed: bool = False) -> Rebuilt:
    """Make tables, passages, the index of words and the Chroma index again.

    Each analysis is replaced in a transaction of its own, its record byte for byte what it was; a
    kill in the middle leaves some made again and the rest as they were.

    Args:
        memory: What to rebuild.
        embed: Make the vectors anew as well, rather than only the index over them.

    Raises:
        OutputError: the disk is full or cannot be written.
    """
    with memory.reading() as db:
        known = db.execute("SELECT id FROM runs ORDER BY sequence").fetchall()
    damaged: list[str] = []
    notes: list[str] = []
    with memory.writing() as db:  # first: what is deleted below is looked up in it by its words
        db.execute("INSERT INTO chunk_words (chunk_words) VALUES ('rebuild')")
        rows.moved(db)
    for row in known:
        with memory.writing() as db:
            problem = _again(db, row["id"])
        if problem:
            damaged.append(row["id"])
            notes.append(f"{row['id']}: {problem}")
    wrong = _documents(memory)
    damaged += wrong
    notes += [f"{name}: {problem}" for name, problem in wrong.items()]
    with memory.reading() as db:
        kept = db.execute("SELECT COUNT(DISTINCT id) FROM documents").fetchone()[0]
        passages = db.execute("SELECT COUNT(*) FROM chunks").fetchone()[0]
    embedded = indexed = 0
    if embed:
        try:
            embedded = _embed_all(memory)
        except EmbedderUnavailable as error:
            notes.append(f"no vectors were made: {error}")
    for fingerprint in _spaces(memory):
        try:
            indexed += index.synchronise(memory, fingerprint, anew=True)
        except IndexUnusable as error:
            notes.append(f"exact search instead of Chroma: {error}")
    for left in (memory.home / "index").glob("*.broken-*"):
        shutil.rmtree(left, ignore_errors=True)
    return Rebuilt(
        runs=len(known) - (len(damaged) - len(wrong)),
        documents=kept - len(wrong),
        passages=passages,
        embedded=embedded,
        indexed=indexed,
        notes=tuple(notes),
        damaged=tuple(damaged),
    )


def follow(memory: Memory) -> list[str]:
    """Bring every index that was built in line with memory; says where that must wait."""
    notes = []
    for fingerprint in _built(memory):
        try:
            index.synchronise(memory, fingerprint)
        except IndexUnusable as error:
            notes.append(f"the index follows later: {error}")
    return notes


def _again(db: sqlite3.Connection, run: str) -> str:
    """Replace the rows of one analysis by those its record makes; says why it cannot."""
    try:
        record = whole(db, run)
    except ValueError as error:
        return str(error)
    body = db.execute("SELECT body FROM records WHERE run = ?", (run,)).fetchone()["body"]
    sequence = db.execute("SELECT sequence FROM runs WHERE id = ?", (run,)).fetchone()["sequence"]
    db.execute("DELETE FROM runs WHERE id = ?", (run,))
    rows.write(db, record, body, sequence)
    return ""


def _documents(memory: Memory) -> dict[str, str]:
    """Make the passages of all documents again; those that are not whole, and why."""
    with memory.reading() as db:
        names = [row["id"] for row in db.execute("SELECT DISTINCT id FROM documents ORDER BY id")]
    wrong: dict[str, str] = {}
    for name in names:
        with memory.writing() as db:
            try:
                documents.whole(documents.newest(db, name))
            except ValueError as error:
                wrong[name] = str(error)
            else:
                documents.renew_passages(db, name)
    return wrong


def _embed_all(memory: Memory) -> int:
    """A new vector for every passage, in the place of the old ones only once all are there."""
    fingerprint = memory.embedder.fingerprint
    with memory.reading() as db:
        asked = "SELECT sha256, MIN(gist) AS gist FROM chunks GROUP BY sha256 ORDER BY sha256"
        wanted = db.execute(asked).fetchall()
    vectors = memory.embedder.embed([row["gist"] for row in wanted]) if wanted else ()
    made = [
        (fingerprint, row["sha256"], vector.astype("<f4").tobytes())
        for row, vector in zip(wanted, vectors, strict=True)
    ]
    with memory.writing() as db:
        db.execute("DELETE FROM vectors WHERE fingerprint = ?", (fingerprint,))
        db.executemany("INSERT INTO vectors VALUES (?, ?, ?)", made)
        rows.moved(db)
    return len(made)


def _spaces(memory: Memory) -> list[str]:
    """Vector spaces that have an index, or else the one with most vectors."""
    return _built(memory) or _known(memory)[:1]


def _built(memory: Memory) -> list[str]:
    """Vector spaces whose index was built by this Chroma, where the settings say it lies."""
    with memory.reading() as db:
        kept = {row["key"]: row["value"] for row in db.execute("SELECT * FROM state ORDER BY key")}
    tokens = {key: Token.model_validate_json(v) for key, v in kept.items() if key[:6] == "index:"}
    here = {key: index.place(memory, token.fingerprint).name for key, token in tokens.items()}
    return [token.fingerprint for key, token in tokens.items() if key == f"index:{here[key]}"]


def _known(memory: Memory) -> list[str]:
    with memory.reading() as db:
        counted = (
            "SELECT fingerprint FROM vectors GROUP BY fingerprint "
            "ORDER BY COUNT(*) DESC, fingerprint"
        )
        return [row["fingerprint"] for row in db.execute(counted)]
