"""Analyses as one file that can be carried elsewhere, and back into a memory.

Lines of JSON, each `{"sha256": ..., "content": {...}}` with the hash of its content as canonical
JSON: a head, then records, documents, calls and vectors, and a last line with the number of lines
and a hash over all their hashes, so that a cut file is noticed. Records travel as the text that was
stored, so they arrive byte for byte; vectors travel along, so that nothing is embedded again.
"""

import base64
import hashlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from zsei.errors import DataError, OutputError, UsageError
from zsei.llm.types import CallRecord
from zsei.memory import rows
from zsei.memory.check import known_runs
from zsei.memory.documents import find_document, insert, parsed
from zsei.memory.portable_contents import Content, contents, is_unit
from zsei.memory.schema import connect_to_read, named_errors
from zsei.memory.store import FILE, Memory, one_run
from zsei.records import AnalysisRecord, Record

FORMAT = 1


class Exported(Record):
    """What an export holds."""

    path: str
    runs: tuple[str, ...]
    calls: int
    vectors: int
    documents: int = 0
    """Measurements of speed, profiles and checked claims."""
    left_out: tuple[str, ...] = ()
    """Analyses and documents that are damaged and so were left out, and why; only when saving what
    is whole."""


class Imported(Record):
    """What an import added."""

    added: tuple[str, ...]
    kept: tuple[str, ...]
    """Analyses that were there before, with the same content."""
    different: tuple[str, ...]
    """Analyses that were there before under the same id with other content; ours stayed."""
    calls: int
    vectors: int
    documents: int = 0
    """Documents that were added; one that was there is not counted."""


def export_runs(
    home: Path, file: Path, runs: Sequence[str] = (), *, vectors: bool = True, salvage: bool = False
) -> Exported:
    """Write analyses to a new file, whole or not at all.

    Args:
        home: The folder of memory.
        file: The new file.
        runs: Names of analyses, as `Memory.get` takes them, and of documents; none is all.
        vectors: Whether the vectors of their passages travel along.
        salvage: Read a damaged memory and leave out what is not whole.

    Raises:
        UsageError: the file exists, or an analysis is not known.
        MemoryDamaged: memory is damaged, and `salvage` was not asked for.
        OutputError: the file cannot be written.
    """
    file, path = Path(file), Path(home) / FILE
    if file.exists():
        raise UsageError(f"An export is a new file, but {file} exists; name another or remove it.")
    if not path.is_file():
        raise UsageError(f"There is no memory in {home}; `zsei analyze` makes one.")
    if not salvage:
        Memory(home)  # looks for damage
    counts = {"record": 0, "document": 0, "call": 0, "vector": 0}
    with named_errors(path), closing(connect_to_read(path)) as db:
        db.execute("BEGIN")
        known = [run for run, _ in known_runs(db)]
        kept = {run: find_document(db, run) for run in runs}
        chosen = {one_run(run, list(reversed(known))) for run in runs if not kept[run]}
        ordered = [run for run in known if run in chosen or not runs]
        papers = {name for name in kept.values() if name} if runs else None
        left: dict[str, str] = {}
        _write(file, _counted(contents(db, ordered, papers, vectors, salvage, left), counts))
    return Exported(
        path=str(file),
        runs=tuple(run for run in ordered if run not in left),
        calls=counts["call"],
        vectors=counts["vector"],
        documents=counts["document"],
        left_out=tuple(f"{run}: {why}" for run, why in left.items()),
    )


def import_runs(memory: Memory, file: Path) -> Imported:
    """Add the analyses of an export that are missing, all of them or, when a line is not what was
    exported, none. A second time it adds nothing.

    Raises:
        DataError: the file is no export, was cut, or a line was altered; the message names it.
        UsageError: the file does not exist, or a newer ZSEI wrote it.
        OutputError: memory cannot be written.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(f"An export is read from a file, but {file} is none; mend the name.")
    for _ in _read(file):  # all lines are looked at before the first is added
        pass
    added, kept, different = list[str](), list[str](), list[str]()
    calls = vectors = papers = 0
    with memory.writing() as db:
        for content in _read(file):
            if content["kind"] == "record":
                _add(db, content["body"], added, kept, different)
            elif content["kind"] == "document":
                record = parsed(content["type"], content["body"])
                papers += insert(db, content["type"], record, content["body"])
            elif content["kind"] == "call" and content["run"] in added:
                call = CallRecord.model_validate_json(content["body"])
                db.execute(
                    "INSERT INTO llm_calls (run, agent, model, outcome, body) "
                    "VALUES (?, ?, ?, ?, ?)",
                    (content["run"], call.agent, call.model, call.outcome, content["body"]),
                )
                calls += 1
            elif content["kind"] == "vector":
                blob = base64.b64decode(content["data"])
                values = (content["fingerprint"], content["name"], blob)
                ours = db.execute("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", values)
                vectors += ours.rowcount
        if vectors:
            rows.moved(db)
    return Imported(
        added=tuple(added),
        kept=tuple(kept),
        different=tuple(different),
        calls=calls,
        vectors=vectors,
        documents=papers,
    )


def _add(
    db: sqlite3.Connection, body: str, added: list[str], kept: list[str], different: list[str]
) -> None:
    record = AnalysisRecord.model_validate_json(body)
    found = db.execute("SELECT body FROM records WHERE run = ?", (record.id,)).fetchone()
    if found is None:
        rows.write(db, record, body)
        added.append(record.id)
        return
    ours = AnalysisRecord.model_validate_json(found["body"])
    same = ours.without_timings() == record.without_timings()  # every run has its own timings
    (kept if same else different).append(record.id)


def _counted(contents: Iterator[Content], counts: dict[str, int]) -> Iterator[Content]:
    for content in contents:
        counts[content["kind"]] += 1
        yield content


def _write(file: Path, contents: Iterator[Content]) -> None:
    """All lines under another name, synced, then moved into place."""
    draft = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("x", encoding="ascii") as out:
            every, count = hashlib.sha256(), 0
            for content in chain([{"kind": "head", "format": FORMAT}], contents):
                every.update(_line(out, content).encode())
                count += 1
            _line(out, {"kind": "end", "lines": count, "lines_sha256": every.hexdigest()})
            out.flush()
            os.fsync(out.fileno())
        draft.rename(file)
    except OSError as error:
        raise OutputError(
            f"An export must be written whole, but {file}: {error.strerror or error}; free some "
            "space or name another file."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _line(out: Any, content: Content) -> str:
    """Write one line; returns its hash."""
    text = _canonical(content)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    out.write(f'{{"sha256":"{sha256}","content":{text}}}\n')
    return sha256


def _canonical(content: Content) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _read(file: Path) -> Iterator[Content]:
    """Every content line of an export, each compared with its hash; the last line ends it."""
    every, count, ended = hashlib.sha256(), 0, False
    try:
        with file.open(encoding="ascii") as lines:
            for number, line in enumerate(lines, 1):
                content, sha256 = _parsed(line, number, file)
                kind = content.get("kind")
                if ended or (number == 1) != (kind == "head"):
                    raise _refused(file, f"line {number} stands where it should not")
                if kind == "head" and content.get("format") != FORMAT:
                    raise UsageError(
                        f"{file} has format {content.get('format')!r} and this ZSEI reads "
                        f"{FORMAT}; upgrade ZSEI."
                    )
                if kind == "end":
                    told = (content.get("lines"), content.get("lines_sha256"))
                    if told != (count, every.hexdigest()):
                        raise _refused(file, "lines are missing or were added")
                    ended = True
                    continue
                every.update(sha256.encode())
                count += 1
                if kind != "head":
                    _look(content, number, file)
                    yield content
    except UnicodeDecodeError as error:
        raise _refused(file, "it is no text") from error
    if not ended:
        raise _refused(file, f"it ends after {count} lines without its last one: it was cut")


def _parsed(line: str, number: int, file: Path) -> tuple[Content, str]:
    try:
        parts = json.loads(line)
        content, sha256 = parts["content"], parts["sha256"]
        text = _canonical(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _refused(file, f"line {number} is no line of an export") from error
    if not isinstance(content, dict) or hashlib.sha256(text.encode()).hexdigest() != sha256:
        about = content.get("run") if isinstance(content, dict) else None
        named = f" (analysis {about})" if isinstance(about, str) else ""
        raise _refused(file, f"line {number}{named} is not what was exported")
    return content, sha256


def _look(content: Content, number: int, file: Path) -> None:
    """Refuse a line that does not fit, whoever made its hash."""
    try:
        if content["kind"] == "record":
            fits = AnalysisRecord.model_validate_json(content["body"]).id == content["run"]
        elif content["kind"] == "document":
            fits = parsed(content["type"], content["body"]).id == content["run"]
        elif content["kind"] == "call":
            CallRecord.model_validate_json(content["body"])
            fits = isinstance(content["run"], str)
        else:
            named = isinstance(content["fingerprint"], str) and len(content["name"]) == 64
            blob = base64.b64decode(content["data"], validate=True)
            fits = content["kind"] == "vector" and named and is_unit(blob)
    except (KeyError, TypeError, ValueError, ValidationError):
        fits = False
    if not fits:
        raise _refused(file, f"line {number} ({content.get('kind')}) does not fit this ZSEI")


def _refused(file: Path, problem: str) -> DataError:
    return DataError(
        f"{file} cannot be imported: {problem}. Nothing was added; export it again, or fetch the "
        "file again from where it came."
    )
