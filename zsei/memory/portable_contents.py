"""What an export holds, in the order in which it stands there."""

import base64
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from zsei.errors import OutputError
from zsei.memory.check import whole
from zsei.memory.documents import PASSAGE
from zsei.memory.documents import whole as whole_document

Content = dict[str, Any]
"""What one line says."""


def contents(
    db: sqlite3.Connection, runs: Sequence[str], papers: Collection[str] | None, vectors: bool,
    salvage: bool, left: dict[str, str],
) -> Iterator[Content]:  # fmt: skip
    """Everything that travels, in the order in which it was made.

    Args:
        db: The memory.
        runs: Ids of analyses.
        papers: Ids of documents; None is all.
        vectors: Whether vectors travel along.
        salvage: Leave out what is not whole rather than fail.
        left: Gets what was left out, and why.

    Raises:
        OutputError: Something is not whole, and `salvage` was not asked for.
    """
    yield from _records(db, runs, left)
    _refuse(left, salvage)
    documents: dict[str, None] = {}
    for line in _documents(db, papers, salvage, left):
        yield line
        documents[line["run"]] = None
    _refuse(left, salvage)
    whole_runs = [run for run in runs if run not in left]
    for run in whole_runs:
        asked = "SELECT body FROM llm_calls WHERE run = ? ORDER BY number"
        for row in _rows(db, asked, (run,), salvage):
            yield {"kind": "call", "run": run, "body": row["body"]}
    if vectors:
        owners = [("run", run) for run in whole_runs]
        owners += [(f"kind = '{PASSAGE}' AND key", name) for name in documents]
        yield from _vectors(db, owners, salvage)


def _records(
    db: sqlite3.Connection, runs: Sequence[str], left: dict[str, str]
) -> Iterator[Content]:  # fmt: skip
    for run in runs:
        try:
            whole(db, run)
            asked = "SELECT body FROM records WHERE run = ?"
            body = db.execute(asked, (run,)).fetchone()["body"]
        except (ValueError, sqlite3.Error) as error:
            left[run] = str(error)
            continue
        yield {"kind": "record", "run": run, "body": body}


def _documents(
    db: sqlite3.Connection, papers: Collection[str] | None, salvage: bool, left: dict[str, str]
) -> Iterator[Content]:
    for row in _rows(db, "SELECT * FROM documents ORDER BY number", (), salvage):
        if papers is not None and row["id"] not in papers:
            continue
        try:
            whole_document(row)
        except ValueError as error:
            left[row["id"]] = str(error)
            continue
        yield {"kind": "document", "type": row["kind"], "run": row["id"], "body": row["body"]}


def _vectors(
    db: sqlite3.Connection, owners: Sequence[tuple[str, str]], salvage: bool
) -> Iterator[Content]:
    """Each vector once; `owners` are columns of `chunks` with a value."""
    sent: set[tuple[str, str]] = set()
    for column, name in owners:
        asked = (
            "SELECT DISTINCT fingerprint, sha256, vector FROM chunks JOIN vectors USING (sha256) "
            f"WHERE {column} = ? ORDER BY fingerprint, sha256"
        )
        for row in _rows(db, asked, (name,), salvage):
            key = (row["fingerprint"], row["sha256"])
            if key not in sent and is_unit(bytes(row["vector"])):
                sent.add(key)
                data = base64.b64encode(bytes(row["vector"])).decode()
                yield {"kind": "vector", "fingerprint": key[0], "name": key[1], "data": data}


def _refuse(left: dict[str, str], salvage: bool) -> None:
    """An error for what is not whole, unless it may be left out."""
    if left and not salvage:
        name, why = next(iter(left.items()))
        raise OutputError(
            f"An export holds whole records only, but of {name} {why}; `zsei memory export FILE "
            "--salvage` leaves such analyses out."
        )


def _rows(
    db: sqlite3.Connection, asked: str, values: Sequence[str], salvage: bool
) -> list[sqlite3.Row]:
    """All rows; of a damaged memory whatever can be read in one piece."""
    if not salvage:
        return db.execute(asked, values).fetchall()
    with suppress(sqlite3.Error):
        return db.execute(asked, values).fetchall()
    return []


def is_unit(blob: bytes) -> bool:
    """Whether a stored vector has the length 1."""
    vector = np.frombuffer(blob, "<f4") if len(blob) % 4 == 0 else np.zeros(0)
    return bool(abs(float(vector @ vector) - 1) < 1e-3)
