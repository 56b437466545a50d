"""A second look at memory: is every record what was written, and do the tables say the same?

The tables are made again from each record and compared row by row, so nothing is taken on trust.
Works on a damaged file too, and then says which records are still whole.
"""

import hashlib
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from zsei.errors import MemoryDamaged, OutputError, UsageError
from zsei.memory import documents, index, rows
from zsei.memory.chunks import chunks_of
from zsei.memory.place import IndexUnusable
from zsei.memory.schema import connect_to_read
from zsei.memory.store import FILE, Memory
from zsei.records import AnalysisRecord, Record


class RunHealth(Record):
    """One analysis: what is wrong with it, if anything."""

    run: str
    problem: str = ""
    mendable: bool = False
    """The record is whole and only what is derived from it is not: `zsei memory rebuild`."""


class IndexHealth(Record):
    """One vector space: how many passages have a vector, and what its Chroma index is like."""

    fingerprint: str
    vectors: int
    missing: int
    index: str


class Health(Record):
    """What `check` found."""

    path: str
    problems: tuple[str, ...]
    """About the file as a whole; those of single analyses stand with them."""
    runs: tuple[RunHealth, ...]
    passages: int
    spaces: tuple[IndexHealth, ...]
    documents: tuple[RunHealth, ...] = ()
    """Measurements of speed, profiles and claims, each as an analysis is looked at."""

    @property
    def damaged(self) -> bool:
        """Whether anything but an index, which mends itself, is wrong."""
        return bool(self.problems) or any(one.problem for one in (*self.runs, *self.documents))


def check(home: Path, chroma_url: str | None = None) -> Health:
    """Look at everything in the memory of a folder; changes nothing.

    Raises:
        UsageError: there is no memory in the folder, or a newer ZSEI wrote it.
    """
    path = Path(home) / FILE
    if not path.is_file():
        raise UsageError(f"There is no memory in {home}; `zsei analyze` makes one.")
    problems: list[str] = []
    memory = None
    try:
        memory = Memory(home, chroma_url=chroma_url)
    except MemoryDamaged as error:
        problems.append(str(error))
    runs: list[RunHealth] = []
    kept: tuple[RunHealth, ...] = ()
    passages, spaces = 0, ()
    try:
        with closing(connect_to_read(path)) as db:
            problems += _attempt(lambda: _pages(db))
            runs = [_run(db, run, sequence) for run, sequence in known_runs(db)]
            kept = tuple(_documents(db))
            problems += _attempt(lambda: _vectors(db))
            passages = db.execute("SELECT COUNT(*) FROM chunks").fetchone()[0]
            if memory is not None:
                spaces = tuple(_spaces(db, memory))
    except sqlite3.Error as error:
        problems.append(f"it cannot be read to its end: {error}")
    if memory is not None:
        problems += _attempt(lambda: _words(memory))
    return Health(
        path=str(path),
        problems=tuple(dict.fromkeys(problems)),
        runs=tuple(runs),
        passages=passages,
        spaces=spaces,
        documents=kept,
    )


def whole(db: sqlite3.Connection, run: str) -> AnalysisRecord:
    """The record of an analysis, when it is what was written.

    Raises:
        ValueError: it is not, and the message says how; sqlite3.Error when it cannot be read.
    """
    found = db.execute("SELECT body, sha256 FROM records WHERE run = ?", (run,)).fetchone()
    if found is None:
        raise ValueError("its record is gone")
    if hashlib.sha256(found["body"].encode()).hexdigest() != found["sha256"]:
        raise ValueError("its record is not what was written")
    try:
        record = AnalysisRecord.model_validate_json(found["body"])
    except ValidationError as error:
        where = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise ValueError(f"its record cannot be read back (at {where})") from error
    if record.id != run:
        raise ValueError(f"its record is that of {record.id}")
    return record


def _attempt(look: Callable[[], list[str]]) -> list[str]:
    try:
        return look()
    except sqlite3.Error as error:
        return [f"it cannot be read to its end: {error}"]


def known_runs(db: sqlite3.Connection) -> list[tuple[str, int]]:
    """Every analysis that can still be named, with its place; -1 where that is lost."""
    places: dict[str, int] = {}
    for asked in (
        "SELECT id AS run, sequence FROM runs ORDER BY sequence",
        "SELECT run, -1 AS sequence FROM records",
    ):
        with suppress(sqlite3.Error):
            for row in db.execute(asked):
                places.setdefault(row["run"], row["sequence"])
    return list(places.items())


def _pages(db: sqlite3.Connection) -> list[str]:
    found = [str(row[0]) for row in db.execute("PRAGMA integrity_check(20)")]
    lost = db.execute("PRAGMA foreign_key_check").fetchall()
    told = Counter(row["table"] for row in lost)
    return [
        *(line.strip() for line in found if line != "ok"),
        *(f"{count} rows of {table} belong to nothing" for table, count in sorted(told.items())),
    ]


def _words(memory: Memory) -> list[str]:
    """Whether the index of words fits the passages; asking SQLite for that is a write."""
    try:
        with suppress(OutputError), memory.writing() as db:
            db.execute("INSERT INTO chunk_words (chunk_words, rank) VALUES ('integrity-check', 1)")
    except MemoryDamaged:
        return ["the index of words does not fit the passages; `zsei memory rebuild` mends it"]
    return []


def _run(db: sqlite3.Connection, run: str, sequence: int) -> RunHealth:
    try:
        record = whole(db, run)
    except ValueError as error:
        return RunHealth(run=run, problem=str(error))
    except sqlite3.Error as error:
        return RunHealth(run=run, problem=f"its record cannot be read: {error}")
    try:
        unlike = _unlike(db, record, sequence)
    except sqlite3.Error as error:
        unlike = f"its rows cannot be read: {error}"
    return RunHealth(run=run, problem=unlike, mendable=bool(unlike))


def _unlike(db: sqlite3.Connection, record: AnalysisRecord, sequence: int) -> str:
    """In which tables the rows are not those that the record makes."""
    body = db.execute("SELECT body FROM records WHERE run = ?", (record.id,)).fetchone()["body"]
    expected = rows.tables(record, body, sequence)
    expected["chunks"] = [rows.passage(chunk) for chunk in chunks_of(record)]
    told = []
    for table, made in expected.items():
        key = "id" if table == "runs" else "run"
        held = [dict(row) for row in db.execute(f"SELECT * FROM {table} WHERE {key} = ?", (record.id,))]  # fmt: skip  # noqa: E501
        wanted, found = _counted(made), _counted(held)
        missing, unknown = (wanted - found).total(), (found - wanted).total()
        if missing or unknown:
            told.append(f"{table} ({missing} missing, {unknown} that are not the record's)")
    return f"its record is whole, but its rows are not: {', '.join(told)}" if told else ""


def _documents(db: sqlite3.Connection) -> Iterator[RunHealth]:
    """Every document that is kept: whole or not, and its newest with its passages."""
    rows_of: dict[str, list[sqlite3.Row]] = {}
    for row in db.execute("SELECT * FROM documents ORDER BY number"):
        rows_of.setdefault(row["id"], []).append(row)
    for name, found in rows_of.items():
        try:
            records = {row["number"]: documents.whole(row) for row in found}
        except ValueError as error:
            yield RunHealth(run=name, problem=str(error))
            continue
        made = documents.passages_of(records[documents.newest(db, name)["number"]])
        asked = "SELECT * FROM chunks WHERE kind = ? AND key = ?"
        held = [dict(row) for row in db.execute(asked, (documents.PASSAGE, name))]
        unlike = _counted([rows.passage(chunk) for chunk in made]) != _counted(held)
        told = "its record is whole, but its passages are not" if unlike else ""
        yield RunHealth(run=name, problem=told, mendable=unlike)


def _counted(table: list[dict[str, rows.Cell]]) -> Counter[tuple[tuple[str, rows.Cell], ...]]:
    """Rows without regard to order and to the number a passage happens to have."""

    def row(cells: Mapping[str, rows.Cell]) -> tuple[tuple[str, rows.Cell], ...]:
        return tuple(sorted((name, value) for name, value in cells.items() if name != "number"))

    is_passage = bool(table) and "gist" in table[0]
    return Counter(row(cells) if is_passage else tuple(sorted(cells.items())) for cells in table)


def _vectors(db: sqlite3.Connection) -> list[str]:
    """Every stored vector: finite, of length 1, as long as the others of its space."""
    lengths: dict[str, Counter[int]] = {}
    bad: Counter[str] = Counter()
    for row in db.execute("SELECT fingerprint, vector FROM vectors"):
        blob = bytes(row["vector"])
        vector = np.frombuffer(blob, "<f4") if len(blob) % 4 == 0 else np.zeros(0)
        lengths.setdefault(row["fingerprint"], Counter())[len(blob)] += 1
        if not abs(float(vector @ vector) - 1) < 1e-3:  # also when it is not finite
            bad[row["fingerprint"]] += 1
    mixed = {name for name, sizes in lengths.items() if len(sizes) > 1}
    return [
        *(f"{count} vectors of {name} are no unit vectors; `zsei memory rebuild --embed` makes them anew" for name, count in sorted(bad.items())),  # noqa: E501
        *(f"the vectors of {name} differ in length; `zsei memory rebuild --embed` makes them anew" for name in sorted(mixed)),  # noqa: E501
    ]  # fmt: skip


def _spaces(db: sqlite3.Connection, memory: Memory) -> Iterator[IndexHealth]:
    asked = "SELECT fingerprint, COUNT(*) AS count FROM vectors GROUP BY fingerprint"
    for row in db.execute(asked).fetchall():
        name = row["fingerprint"]
        without = db.execute(
            "SELECT COUNT(*) FROM chunks WHERE sha256 NOT IN "
            "(SELECT sha256 FROM vectors WHERE fingerprint = ?)",
            (name,),
        ).fetchone()[0]
        try:
            told = index.examine(memory, name)
        except IndexUnusable as error:
            told = f"cannot be used now ({error}); questions are answered by exact search"
        yield IndexHealth(fingerprint=name, vectors=row["count"], missing=without, index=told)
