"""The tables of memory, an append-only list of migrations, and how the file is opened and checked.

The file is born whole: a new store is built under another name and moved into place, so an empty
or half-made `memory.sqlite` never comes from ZSEI and can be reported as damage.
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from filelock import FileLock, Timeout

from zsei.errors import MemoryDamaged, OutputError, UsageError

APPLICATION_ID = 0x5A534549  # "ZSEI": tells a memory from any other SQLite file
BUSY_SECONDS = 60.0
"""How long a process waits for another one's transaction."""

_FIRST = (
    """CREATE TABLE runs (
        id TEXT PRIMARY KEY, sequence INTEGER NOT NULL UNIQUE, created TEXT NOT NULL,
        model TEXT NOT NULL, model_class TEXT NOT NULL, family TEXT NOT NULL,
        model_hash TEXT NOT NULL, parameters INTEGER NOT NULL, fidelity TEXT NOT NULL,
        zsei TEXT NOT NULL, llm TEXT, dtype TEXT NOT NULL, device TEXT NOT NULL,
        seed INTEGER NOT NULL, objective TEXT NOT NULL, metric TEXT NOT NULL,
        replacement TEXT NOT NULL, safety TEXT NOT NULL, samples INTEGER NOT NULL,
        layers INTEGER NOT NULL, heads INTEGER NOT NULL)""",
    """CREATE TABLE records (
        run TEXT PRIMARY KEY REFERENCES runs ON DELETE CASCADE,
        body TEXT NOT NULL, sha256 TEXT NOT NULL)""",
    """CREATE TABLE components (
        run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, id TEXT NOT NULL,
        kind TEXT NOT NULL, path TEXT NOT NULL, layer INTEGER, parent TEXT, number INTEGER,
        PRIMARY KEY (run, id)) WITHOUT ROWID""",
    """CREATE TABLE measurements (
        run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, component TEXT NOT NULL,
        name TEXT NOT NULL, value REAL, unit TEXT NOT NULL, std REAL, n INTEGER NOT NULL,
        state TEXT NOT NULL, note TEXT NOT NULL,
        PRIMARY KEY (run, component, name)) WITHOUT ROWID""",
    "CREATE INDEX measurements_by_name ON measurements (name, run)",
    """CREATE TABLE rankings (
        run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, kind TEXT NOT NULL,
        criterion TEXT NOT NULL, position INTEGER NOT NULL, component TEXT NOT NULL,
        score REAL NOT NULL, PRIMARY KEY (run, kind, criterion, position)) WITHOUT ROWID""",
    """CREATE TABLE findings (
        run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, id TEXT NOT NULL,
        code TEXT NOT NULL, severity REAL NOT NULL, message TEXT NOT NULL,
        components TEXT NOT NULL, evidence TEXT NOT NULL, timed INTEGER NOT NULL,
        PRIMARY KEY (run, id)) WITHOUT ROWID""",
    """CREATE TABLE finding_components (
        run TEXT NOT NULL, finding TEXT NOT NULL, component TEXT NOT NULL,
        PRIMARY KEY (run, finding, component),
        FOREIGN KEY (run, finding) REFERENCES findings ON DELETE CASCADE) WITHOUT ROWID""",
    """CREATE TABLE proposals (
        run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, id TEXT NOT NULL,
        strategy TEXT NOT NULL, params TEXT NOT NULL, components TEXT NOT NULL,
        findings TEXT NOT NULL, rationale TEXT NOT NULL, source TEXT NOT NULL,
        priority INTEGER NOT NULL, PRIMARY KEY (run, id)) WITHOUT ROWID""",
    """CREATE TABLE verdicts (
        run TEXT NOT NULL REFERENCES runs ON DELETE CASCADE, position INTEGER NOT NULL,
        proposal TEXT NOT NULL, combined INTEGER NOT NULL, outcome TEXT NOT NULL,
        reason TEXT NOT NULL, stages TEXT NOT NULL,
        PRIMARY KEY (run, position)) WITHOUT ROWID""",
    """CREATE TABLE verdict_numbers (
        run TEXT NOT NULL, verdict INTEGER NOT NULL, phase TEXT NOT NULL,
        place INTEGER NOT NULL, name TEXT NOT NULL, value REAL, unit TEXT NOT NULL, std REAL,
        n INTEGER NOT NULL, state TEXT NOT NULL, note TEXT NOT NULL,
        PRIMARY KEY (run, verdict, phase, place),
        FOREIGN KEY (run, verdict) REFERENCES verdicts ON DELETE CASCADE) WITHOUT ROWID""",
    """CREATE TABLE chunks (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE,
        run TEXT REFERENCES runs ON DELETE CASCADE, kind TEXT NOT NULL, key TEXT NOT NULL,
        component TEXT NOT NULL, metric TEXT NOT NULL, text TEXT NOT NULL, gist TEXT NOT NULL,
        sha256 TEXT NOT NULL)""",
    "CREATE INDEX chunks_by_run ON chunks (run)",
    "CREATE VIRTUAL TABLE chunk_words USING fts5 (text, content='chunks', "
    "content_rowid='number', tokenize='porter unicode61')",
    "CREATE TRIGGER chunk_added AFTER INSERT ON chunks BEGIN "
    "INSERT INTO chunk_words (rowid, text) VALUES (new.number, new.text); END",
    "CREATE TRIGGER chunk_gone AFTER DELETE ON chunks BEGIN "
    "INSERT INTO chunk_words (chunk_words, rowid, text) "
    "VALUES ('delete', old.number, old.text); END",
    """CREATE TABLE vectors (
        fingerprint TEXT NOT NULL, sha256 TEXT NOT NULL, vector BLOB NOT NULL,
        PRIMARY KEY (fingerprint, sha256)) WITHOUT ROWID""",
    """CREATE TABLE llm_calls (
        number INTEGER PRIMARY KEY, run TEXT, agent TEXT NOT NULL, model TEXT NOT NULL,
        outcome TEXT NOT NULL, body TEXT NOT NULL)""",
    "CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
)

_SECOND = ("CREATE INDEX chunks_by_gist ON chunks (sha256)",)

_THIRD = (
    "ALTER TABLE runs ADD COLUMN training TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE runs ADD COLUMN epoch INTEGER",
    "ALTER TABLE runs ADD COLUMN step INTEGER",
    "CREATE INDEX runs_by_training ON runs (training, epoch)",
)
"""Where in a training run an analysis stands; '' for one that stands beside none."""

_FOURTH = (
    """CREATE TABLE documents (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL, kind TEXT NOT NULL, created TEXT NOT NULL,
        model TEXT NOT NULL, body TEXT NOT NULL, sha256 TEXT NOT NULL, UNIQUE (id, sha256))""",
)
"""Measurements of speed, profiles and checked claims, whole; `documents` says what is made of
them."""

MIGRATIONS: tuple[tuple[str, ...], ...] = (_FIRST, _SECOND, _THIRD, _FOURTH)
"""Append only: position in this list is the schema version a file carries."""


_UNWRITABLE = {
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
}


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into the errors a person is shown."""
    try:
        yield
    except Timeout as error:
        raise OutputError(
            f"Another process has held the lock of {path.parent} for {BUSY_SECONDS:.0f} s; "
            "wait for it to finish, or end it, and try again."
        ) from error
    except sqlite3.Error as error:
        raise _named(error, path) from error
    except OSError as error:
        raise OutputError(
            f"Memory must be able to write {path.parent} ({error.strerror or error}); free space, "
            "mend the permissions, or name another folder with ZSEI_HOME."
        ) from error


def _named(error: sqlite3.Error, path: Path) -> Exception:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return damaged(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return OutputError(
            f"Another process has been writing {path} for {BUSY_SECONDS:.0f} s; wait for it to "
            "finish, or end it, and try again."
        )
    if code in _UNWRITABLE:
        return OutputError(
            f"Memory must be able to write {path} ({error}); free space, mend the permissions, or "
            "name another folder with ZSEI_HOME. What was stored before is untouched."
        )
    return error


def damaged(path: Path, problem: str) -> MemoryDamaged:
    """The error for a store that fails its own check; the file itself is left as it is."""
    return MemoryDamaged(
        f"Memory {path} is damaged: {problem.strip()}. Nothing was changed in it: restore it from "
        "a backup, or save every record that is still whole with `zsei memory export FILE "
        f"--salvage`, move {path.name} and {path.name}-wal aside, and `zsei memory import FILE`."
    )


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for others, keeps foreign keys, and syncs every commit to disk."""
    name = f"file:{quote(str(path.resolve()))}?mode=rw"
    db = sqlite3.connect(name, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    db.row_factory = sqlite3.Row
    try:
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("PRAGMA synchronous = FULL")
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A connection for questions, also where the disk is full or cannot be written.

    In WAL mode even a reader makes a shared file. Where that fails and the log is empty, all there
    is stands in the one file, which is then read as it lies.
    """
    try:
        db = connect(path)
        try:
            db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except BaseException:
            db.close()
            raise
        return db
    except sqlite3.Error as error:
        log = path.with_name(path.name + "-wal")
        unwritable = getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNWRITABLE
        if not unwritable or (log.exists() and log.stat().st_size) or not path.is_file():
            raise
        name = f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1"
        db = sqlite3.connect(name, uri=True, isolation_level=None)
        db.row_factory = sqlite3.Row
        return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing, also when the body is interrupted by Ctrl-C."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield db
        db.execute("COMMIT")
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


def prepare(path: Path) -> None:
    """Create the store if there is none, bring its schema up to date, and check it.

    Raises:
        MemoryDamaged: the file is truncated, overwritten, or no ZSEI memory.
        OutputError: the folder cannot be written.
        UsageError: a newer ZSEI wrote it.
    """
    with named_errors(path), ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock"), timeout=BUSY_SECONDS))
        except Timeout:
            raise
        except OSError:
            if not path.is_file():
                raise
            # What cannot be written can still be asked; nobody is making it, for nobody could.
        if not path.exists():
            _create(path)
        if path.stat().st_size == 0:
            raise damaged(path, "the file is empty")
        with closing(connect_to_read(path)) as db:
            version = _check(db, path)
        if version < len(MIGRATIONS):
            with closing(connect(path)) as db:
                _migrate(db)


def _create(path: Path) -> None:
    journal = path.with_name(path.name + "-wal")
    if journal.exists() and journal.stat().st_size:
        # SQLite would replay this log onto the new file and ruin it.
        raise damaged(path, f"the file is gone but its log {journal.name} is there")
    new = path.with_name(path.name + ".new")
    for rest in (journal, path.with_name(path.name + "-shm"), *path.parent.glob(new.name + "*")):
        rest.unlink(missing_ok=True)
    new.touch()
    with closing(connect(new)) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA journal_mode = WAL")
        _migrate(db)
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _check(db: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file that is whole and ours."""
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise damaged(path, "it is an SQLite file, but not a ZSEI memory")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise UsageError(
            f"Memory {path} has schema {version}, written by a newer ZSEI; this one knows "
            f"{len(MIGRATIONS)}. Upgrade ZSEI, or name another folder with ZSEI_HOME."
        )
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise damaged(path, str(found))
    return int(version)


def _migrate(db: sqlite3.Connection) -> None:
    version = db.execute("PRAGMA user_version").fetchone()[0]
    for number in range(version, len(MIGRATIONS)):
        with transaction(db):
            for statement in MIGRATIONS[number]:
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {number + 1}")
