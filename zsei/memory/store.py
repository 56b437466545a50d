"""The record of all analyses: one SQLite file in which every number and every vector lives.

Each operation opens its own connection, so a `Memory` may be shared by threads, survive a fork,
and stand beside other processes on the same folder.
"""

import difflib
import hashlib
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from zsei.errors import OutputError, UsageError
from zsei.llm.types import CallRecord
from zsei.memory import rows
from zsei.memory.chunks import Card, chunks_of_cards
from zsei.memory.embedder import Embedder, SentenceEmbedder
from zsei.memory.place import server
from zsei.memory.schema import (
    connect,
    connect_to_read,
    damaged,
    named_errors,
    prepare,
    transaction,
)
from zsei.memory.vocabulary import Known
from zsei.records import AnalysisRecord, Record
from zsei.settings import Settings

if TYPE_CHECKING:
    from zsei.memory.matrix import Matrix

FILE = "memory.sqlite"


class RunRow(Record):
    """One analysis in a list."""

    id: str
    created: str
    model: str
    model_class: str
    family: str
    parameters: int
    objective: str
    metric: str
    safety: str
    seed: int
    llm: str | None
    training: str = ""
    """Name of the training run it stands in; empty for an analysis beside none."""
    epoch: int | None = None
    layers: int
    heads: int
    components: int
    findings: int
    proposals: int
    accepted: int


_RUNS = """
    SELECT id, created, model, model_class, family, parameters, objective, metric, safety, seed,
           llm, training, epoch, layers, heads,
           (SELECT COUNT(*) FROM components WHERE run = runs.id) AS components,
           (SELECT COUNT(*) FROM findings WHERE run = runs.id) AS findings,
           (SELECT COUNT(*) FROM proposals WHERE run = runs.id) AS proposals,
           (SELECT COUNT(*) FROM verdicts
            WHERE run = runs.id AND outcome = 'accepted' AND NOT combined) AS accepted
    FROM runs ORDER BY sequence DESC"""


class Memory:
    """Everything ZSEI has analysed, in `<home>/memory.sqlite`.

    Args:
        home: The folder; made when it does not exist.
        embedder_path: Folder of a sentence-transformers model; None is the MiniLM that ZSEI
            depends on. Nothing is loaded before a question needs it.
        embedder: Used instead of a folder; anything that satisfies `Embedder`.
        chroma_url: A Chroma server that holds the index; None keeps it in a folder beside memory.

    Raises:
        UsageError: `chroma_url` is no address, or a newer ZSEI wrote the memory.
        MemoryDamaged: the file fails its integrity check; nothing is changed in it.
        OutputError: the folder cannot be written.
    """

    def __init__(
        self,
        home: Path,
        embedder_path: Path | None = None,
        *,
        embedder: Embedder | None = None,
        chroma_url: str | None = None,
    ) -> None:
        if chroma_url is not None:
            server(chroma_url)
        self.chroma_url = chroma_url
        self.home = Path(home)
        self.path = self.home / FILE
        self.embedder: Embedder = embedder or SentenceEmbedder(embedder_path)
        self.matrix: Matrix | None = None
        """What `matrix.load` holds between questions."""
        self.known: Known | None = None
        """What `ask` knows of names between questions."""
        prepare(self.path)

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one question; all it reads is of one moment."""
        with named_errors(self.path), closing(connect_to_read(self.path)) as db:
            db.execute("BEGIN")
            yield db

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A connection in a transaction: all of it is kept, or nothing."""
        with named_errors(self.path), closing(connect(self.path)) as db, transaction(db):
            yield db

    def add(self, record: AnalysisRecord) -> None:
        """Keep an analysis; once this returns, neither a kill nor a power cut loses it.

        A record whose id is already there replaces only `timings` (and becomes the last one).

        Raises:
            OutputError: the disk is full or the folder read-only; what was there is untouched.
        """
        with self.writing() as db:
            found = db.execute("SELECT body FROM records WHERE run = ?", (record.id,)).fetchone()
            if found:
                old = self._read(record.id, found["body"])
                record = old.model_copy(update={"timings": record.timings})
                db.execute("DELETE FROM runs WHERE id = ?", (record.id,))
            rows.write(db, record, record.model_dump_json())

    def runs(self) -> tuple[RunRow, ...]:
        """All analyses, the last one first."""
        with self.reading() as db:
            return tuple(RunRow(**dict(row)) for row in db.execute(_RUNS))

    def get(self, run: str) -> AnalysisRecord:
        """The whole record of one analysis.

        Args:
            run: Its id, an unambiguous beginning of it, "last", or a checkpoint as `gpt@40` (the
                name of a training run and the epoch, or `gpt@last`).

        Raises:
            UsageError: no analysis, or more than one, goes by that name.
            MemoryDamaged: the stored record is not what was written.
        """
        with self.reading() as db:
            found = self.find(db, run)
            row = db.execute("SELECT body, sha256 FROM records WHERE run = ?", (found,)).fetchone()
        if hashlib.sha256(row["body"].encode()).hexdigest() != row["sha256"]:
            raise damaged(self.path, f"the record of {found} is not what was written")
        return self._read(found, row["body"])

    def delete(self, run: str) -> str:
        """Forget one analysis: its record, rows, passages, calls, and vectors nobody else uses.

        The index follows with the next question. The bytes of deleted rows are overwritten.

        Returns:
            The id of the analysis.

        Raises:
            UsageError: no analysis, or more than one, goes by that name.
        """
        with self.writing() as db:
            db.execute("PRAGMA secure_delete = ON")
            found = self.find(db, run)
            gists = "SELECT sha256 FROM chunks WHERE run = ?"
            hashes = {row["sha256"] for row in db.execute(gists, (found,))}
            db.execute("DELETE FROM runs WHERE id = ?", (found,))
            db.execute("DELETE FROM llm_calls WHERE run = ?", (found,))
            db.executemany(
                "DELETE FROM vectors WHERE sha256 = :name "
                "AND NOT EXISTS (SELECT 1 FROM chunks WHERE sha256 = :name)",
                [{"name": name} for name in sorted(hashes)],
            )
            rows.moved(db)
        return found

    def identity(self) -> str:
        """Eight hex digits of this memory's own, made once; they name its place on a server."""
        asked = "SELECT value FROM state WHERE key = 'memory'"
        with self.reading() as db:
            found = db.execute(asked).fetchone()
        if found is None:
            with self.writing() as db:
                made = ("memory", secrets.token_hex(4))
                db.execute("INSERT OR IGNORE INTO state VALUES (?, ?)", made)
                found = db.execute(asked).fetchone()
        return str(found["value"])

    def learn(self, cards: Iterable[Card]) -> None:
        """Make knowledge cards searchable; cards that are gone are forgotten."""
        wanted = {chunk.id: chunk for chunk in chunks_of_cards(cards)}
        listed = "SELECT id FROM chunks WHERE kind = 'knowledge'"
        with self.reading() as db:
            if {row["id"] for row in db.execute(listed)} == set(wanted):
                return
        # A disk that is full or cannot be written is no reason to refuse a question.
        with suppress(OutputError), self.writing() as db:
            known = {row["id"] for row in db.execute(listed)}
            gone = [(name,) for name in sorted(known - set(wanted))]
            db.executemany("DELETE FROM chunks WHERE id = ?", gone)
            rows.add_chunks(db, [chunk for name, chunk in wanted.items() if name not in known])

    def log_calls(self, calls: Iterable[CallRecord], run: str | None = None) -> None:
        """Keep the calls to a language model, of one analysis or of none."""
        with self.writing() as db:
            db.executemany(
                "INSERT INTO llm_calls (run, agent, model, outcome, body) VALUES (?, ?, ?, ?, ?)",
                [(run, c.agent, c.model, c.outcome, c.model_dump_json()) for c in calls],
            )

    def calls(self, run: str | None = None) -> tuple[CallRecord, ...]:
        """The calls of one analysis in order, or all there ever were."""
        with self.reading() as db:
            found = db.execute(
                "SELECT body FROM llm_calls WHERE ? IS NULL OR run = ? ORDER BY number", (run, run)
            )
            return tuple(CallRecord.model_validate_json(row["body"]) for row in found)

    def find(self, db: sqlite3.Connection, run: str) -> str:
        """The id of the one analysis that `run` names, as in `get`."""
        if "@" in run:
            return _checkpoint(db, run)
        known = [row["id"] for row in db.execute("SELECT id FROM runs ORDER BY sequence DESC")]
        return one_run(run, known)

    def _read(self, run: str, body: str) -> AnalysisRecord:
        try:
            return AnalysisRecord.model_validate_json(body)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            problem = f"the record of {run} cannot be read back (at {where})"
            raise damaged(self.path, problem) from error


def _checkpoint(db: sqlite3.Connection, name: str) -> str:
    """The newest analysis of a training run at an epoch, named as `gpt@40` or `gpt@last`."""
    training, _, epoch = name.rpartition("@")
    rows = db.execute(
        "SELECT id, epoch FROM runs WHERE training = ? ORDER BY epoch DESC, sequence DESC",
        (training,),
    ).fetchall()
    if not rows:
        known = [
            r[0] for r in db.execute("SELECT DISTINCT training FROM runs WHERE training != ''")
        ]
        told = f"known: {', '.join(sorted(known)[:5])}" if known else "none is in memory yet"
        raise UsageError(
            f"A checkpoint is named as RUN@EPOCH, and no training run is called {training!r}; "
            f"{told}. `zsei runs` shows all."
        )
    for row in rows:
        if epoch == "last" or epoch == str(row["epoch"]):
            return str(row["id"])
    epochs = sorted({row["epoch"] for row in rows})
    near = sorted(epochs, key=lambda e: abs(e - int(epoch)) if epoch.isdigit() else e)[:3]
    raise UsageError(
        f"The run {training} was analysed at {len(epochs)} epochs from {epochs[0]} to "
        f"{epochs[-1]}, and not at {epoch!r}; near: {', '.join(map(str, sorted(near)))}."
    )


def open_memory(settings: Settings) -> Memory:
    """The memory that the settings name; errors as for `Memory`."""
    return Memory(settings.home, settings.embedder, chroma_url=settings.chroma_url)


def one_run(run: str, known: Sequence[str]) -> str:
    """The one id that `run` names, among `known` with the last analysis first."""
    if not known:
        raise UsageError("No analysis is in memory yet; `zsei analyze` makes the first.")
    if run == "last":
        return known[0]
    matches = [run] if run in known else [name for name in known if run and name.startswith(run)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(
            f"A run must be named so that only one fits; {run!r} begins {', '.join(matches[:5])}."
        )
    near = difflib.get_close_matches(run, known, n=3, cutoff=0.5) or known[:5]
    raise UsageError(
        f"No analysis is called {run!r}; known: {', '.join(near)}"
        f"{' and others' if len(known) > len(near) else ''}. `zsei list` shows all, "
        'and "last" is the newest.'
    )
