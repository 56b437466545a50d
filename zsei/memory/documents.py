"""Documents: measurements of speed, profiles and checked claims, each kept whole beside the runs.

A document is stored as the JSON it was written as, with its hash. The same question measured twice
has one id and two documents; the newest stands for it. Passages for search are sentences made of
its numbers (`document_lines`), under kind "measured" with the document's id as key.
"""

import hashlib
import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from zsei.errors import UsageError
from zsei.memory import rows
from zsei.memory.chunks import Chunk
from zsei.memory.document_lines import KINDS, Kind, kind_of, lines_of
from zsei.memory.schema import damaged
from zsei.memory.store import Memory
from zsei.records import Record

if TYPE_CHECKING:
    from zsei.memory.document_lines import Document

PASSAGE = "measured"
"""Kind of the passages made of documents."""


class DocumentRow(Record):
    """One document in a list."""

    id: str
    kind: Kind
    created: str
    model: str


def keep(memory: Memory, record: "Document") -> None:
    """Keep a measurement; once this returns, neither a kill nor a power cut loses it.

    The very same record a second time changes nothing.

    Raises:
        OutputError: The disk is full or the folder read-only; what was there is untouched.
    """
    with memory.writing() as db:
        insert(db, kind_of(record), record, record.model_dump_json())


def insert(db: sqlite3.Connection, kind: Kind, record: "Document", body: str) -> bool:
    """Add a document and its passages; False when it was there.

    The caller holds the transaction.
    """
    values = (record.id, kind, record.created, record.model, body, _sha256(body))
    added = db.execute(
        "INSERT OR IGNORE INTO documents (id, kind, created, model, body, sha256) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        values,
    ).rowcount
    if added:
        renew_passages(db, record.id)
    return bool(added)


def renew_passages(db: sqlite3.Connection, name: str) -> None:
    """Make the passages of a document again, from the newest of its id."""
    db.execute("DELETE FROM chunks WHERE kind = ? AND key = ?", (PASSAGE, name))
    row = newest(db, name)
    rows.add_chunks(db, passages_of(parsed(row["kind"], row["body"])))


def passages_of(record: "Document") -> tuple[Chunk, ...]:
    """One passage for each sentence that a document makes."""
    made = [
        Chunk(
            kind=PASSAGE, run=None, key=record.id, metric=line.subject,
            text=f"model {line.model} | document {record.id}\n{line.text}", gist=line.gist,
        )
        for line in lines_of(record)
    ]  # fmt: skip
    return tuple({chunk.id: chunk for chunk in made}.values())


def documents(memory: Memory, kinds: Iterable[str] = KINDS) -> tuple[DocumentRow, ...]:
    """All documents of some kinds, the last one first.

    Raises:
        UsageError: There is no such kind.
    """
    wanted = tuple(kinds)
    unknown = [kind for kind in wanted if kind not in KINDS]
    if unknown:
        raise UsageError(
            f"A document must be of a kind among {', '.join(KINDS)}; {unknown[0]!r} is none."
        )
    with memory.reading() as db:
        found = db.execute("SELECT id, kind, created, model FROM documents ORDER BY number DESC")
        return tuple(DocumentRow(**dict(row)) for row in found if row["kind"] in wanted)


def find_document(db: sqlite3.Connection, name: str) -> str | None:
    """The id of the document that a name means: an id, or its beginning where only one fits.

    Raises:
        UsageError: Several documents, or a document and an analysis, begin like that.
    """
    known = [row["id"] for row in db.execute("SELECT DISTINCT id FROM documents")]
    if name in known:
        return name
    runs = [row["id"] for row in db.execute("SELECT id FROM runs")]
    fitting = [each for each in known if name and each.startswith(name)]
    others = [run for run in runs if name and run.startswith(name)]
    if not fitting or name in runs:
        return None
    if len(fitting) + len(others) > 1:
        raise UsageError(
            f"A document must be named so that only one fits; {name!r} begins "
            f"{', '.join([*fitting, *others][:5])}."
        )
    return fitting[0]


def get_document(memory: Memory, name: str) -> "Document | None":
    """The newest document of an id; None where no document goes by that name.

    Raises:
        UsageError: More than one thing begins like that.
        MemoryDamaged: What is stored is not what was written.
    """
    with memory.reading() as db:
        found = find_document(db, name)
        if found is None:
            return None
        row = newest(db, found)
    try:
        return whole(row)
    except ValueError as error:
        raise damaged(memory.path, f"of document {found}, {error}") from error


def delete_document(memory: Memory, name: str) -> None:
    """Forget all documents of an id, their passages, and vectors nobody else uses."""
    with memory.writing() as db:
        db.execute("PRAGMA secure_delete = ON")
        mine = "SELECT sha256 FROM chunks WHERE kind = ? AND key = ?"
        hashes = {row["sha256"] for row in db.execute(mine, (PASSAGE, name))}
        db.execute("DELETE FROM documents WHERE id = ?", (name,))
        db.execute("DELETE FROM chunks WHERE kind = ? AND key = ?", (PASSAGE, name))
        db.executemany(
            "DELETE FROM vectors WHERE sha256 = :name "
            "AND NOT EXISTS (SELECT 1 FROM chunks WHERE sha256 = :name)",
            [{"name": each} for each in sorted(hashes)],
        )
        rows.moved(db)


def newest(db: sqlite3.Connection, name: str) -> sqlite3.Row:
    """The row of the newest document of an id: the one created last, then the one added last."""
    return db.execute(
        "SELECT * FROM documents WHERE id = ? ORDER BY created DESC, number DESC LIMIT 1", (name,)
    ).fetchone()


def whole(row: sqlite3.Row) -> "Document":
    """A stored document, when it is what was written.

    Raises:
        ValueError: It is not, and the message says how.
    """
    if _sha256(row["body"]) != row["sha256"]:
        raise ValueError("its record is not what was written")
    try:
        record = parsed(row["kind"], row["body"])
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ValueError(f"its record cannot be read back (at {where})") from error
    if record.id != row["id"]:
        raise ValueError(f"its record is that of {record.id}")
    return record


def parsed(kind: str, body: str) -> "Document":
    """A document out of its JSON."""
    return type_of(kind).model_validate_json(body)


def type_of(kind: str) -> "type[Document]":
    """The record that a kind of document is.

    Raises:
        ValueError: There is no such kind.
    """
    if kind == "speed":
        from zsei.speed.record import SpeedRecord

        return SpeedRecord
    if kind == "profile":
        from zsei.profiling.record import ProfileRecord

        return ProfileRecord
    if kind == "claims":
        from zsei.claims.record import ClaimsRecord

        return ClaimsRecord
    raise ValueError(f"its kind {kind!r} is not known")


def _sha256(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()
