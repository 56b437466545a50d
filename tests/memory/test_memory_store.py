"""The record store: what goes in comes out, whatever happens in between."""

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from memory_records import HashEmbedder, make_record

from zsei.errors import MemoryDamaged, OutputError, UsageError
from zsei.llm.types import CallRecord
from zsei.memory import rows, schema, store
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Timings


@pytest.fixture
def memory(home: Path) -> Memory:
    return Memory(home, embedder=HashEmbedder())


def test_a_record_comes_back_byte_for_byte(memory: Memory) -> None:
    record = make_record(7)
    memory.add(record)
    assert memory.get(record.id).model_dump_json() == record.model_dump_json()


def test_every_number_in_the_tables_is_the_record_s(memory: Memory) -> None:
    record = make_record(3)
    memory.add(record)
    expected = {
        (component, m.name): m.value for component, ms in record.measurements.items() for m in ms
    }
    expected |= {(c.id, "parameters"): float(c.parameters) for c in record.components}
    expected |= {(c.id, "flops"): float(c.flops) for c in record.components}
    expected |= {(c, "seconds"): value for c, value in record.timings.components.items()}
    with memory.reading() as db:
        found = {
            (row["component"], row["name"]): row["value"]
            for row in db.execute("SELECT * FROM measurements")
        }
    assert found == expected


def test_runs_are_listed_last_first(memory: Memory) -> None:
    records = [make_record(0), make_record(1, model="tiny-gpt2", family="gpt2", heads=2)]
    for record in records:
        memory.add(record)
    listed = memory.runs()
    assert [row.id for row in listed] == [record.id for record in reversed(records)]
    for row, record in zip(listed, reversed(records), strict=True):
        assert row.model == record.provenance.model
        assert row.parameters == record.provenance.parameters
        assert row.layers == 3
        assert row.heads == sum(c.kind == "head" for c in record.components)
        assert row.components == len(record.components)
        assert row.findings == len(record.findings) + len(record.timings.findings)
        assert row.proposals == len(record.proposals)
        assert row.accepted == len(record.accepted())


def test_the_same_id_replaces_timings_only(memory: Memory) -> None:
    first, between = make_record(0), make_record(1)
    memory.add(first)
    memory.add(between)
    later = Timings(created="2026-02-02T00:00:00Z", components={"encoder.layer.0/mlp": 9.0})
    changed = first.model_copy(update={"timings": later, "findings": ()})
    memory.add(changed)
    kept = memory.get(first.id)
    assert kept.without_timings() == first.without_timings()
    assert kept.timings == later
    assert [row.id for row in memory.runs()] == [first.id, between.id]
    with memory.reading() as db:
        seconds = db.execute(
            "SELECT value FROM measurements WHERE name = 'seconds' AND run = ?", (first.id,)
        ).fetchall()
        timed = db.execute("SELECT COUNT(*) FROM findings WHERE timed AND run = ?", (first.id,))
        assert [row["value"] for row in seconds] == [9.0]
        assert timed.fetchone()[0] == 0


def test_adding_again_makes_the_same_passages(memory: Memory) -> None:
    listed = "SELECT id, run, kind, key, text FROM chunks ORDER BY id"

    def passages() -> list[tuple[object, ...]]:
        with memory.reading() as db:
            return [tuple(row) for row in db.execute(listed)]

    memory.add(make_record(0))
    before = passages()
    memory.add(make_record(0))
    assert passages() == before
    assert before


def test_a_run_is_found_by_its_beginning_and_as_the_last(memory: Memory) -> None:
    records = [make_record(seed) for seed in range(3)]
    for record in records:
        memory.add(record)
    assert memory.get("last").id == records[-1].id
    assert memory.get(records[0].id[:8]).id == records[0].id


def test_an_unknown_run_is_answered_with_the_known_ones(memory: Memory) -> None:
    with pytest.raises(UsageError, match="No analysis is in memory yet"):
        memory.get("last")
    record = make_record(0)
    memory.add(record)
    with pytest.raises(UsageError, match=record.id):
        memory.get("nothing-like-it")
    mistyped = record.id[:-1] + ("0" if record.id[-1] != "0" else "1")
    with pytest.raises(UsageError, match=record.id):
        memory.get(mistyped)
    with pytest.raises(UsageError, match=record.id):
        memory.get("")


def test_an_ambiguous_run_is_answered_with_those_that_fit(memory: Memory) -> None:
    first = make_record(0).model_copy(update={"id": "abc111"})
    second = make_record(1).model_copy(update={"id": "abc222"})
    memory.add(first)
    memory.add(second)
    with pytest.raises(UsageError, match="abc222, abc111"):
        memory.get("abc")


def test_names_written_by_strangers_are_data(memory: Memory) -> None:
    hostile = "x'); DROP TABLE runs; --\x00\u202e<script>\U0001f4a5"
    record = make_record(0, model=hostile)
    memory.add(record)
    assert memory.get("last").provenance.model == hostile
    assert len(memory.runs()) == 1


def test_interruption_in_the_middle_keeps_what_was_there(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make_record(0)
    memory.add(kept)
    for stop in (KeyboardInterrupt, MemoryError):

        def interrupted(*_: object, stop: type[BaseException] = stop) -> None:
            raise stop

        with monkeypatch.context() as patch:
            patch.setattr(rows, "add_chunks", interrupted)
            for record in (make_record(1), kept):
                with pytest.raises(stop):
                    memory.add(record)
    assert [row.id for row in memory.runs()] == [kept.id]
    assert memory.get(kept.id) == kept
    memory.add(make_record(1))
    assert len(memory.runs()) == 2


def test_a_full_disk_is_said_and_loses_nothing(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make_record(0)
    memory.add(kept)

    def full(path: Path) -> sqlite3.Connection:
        db = schema.connect(path)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 3}")
        return db

    with monkeypatch.context() as patch:
        patch.setattr(store, "connect", full)
        with pytest.raises(OutputError, match="full"):
            memory.add(make_record(1))
    again = Memory(memory.home, embedder=HashEmbedder())
    assert [row.id for row in again.runs()] == [kept.id]
    assert again.get(kept.id) == kept


def test_a_folder_that_cannot_be_written_is_said(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="ZSEI_HOME"):
        Memory(tmp_path / "file" / "home", embedder=HashEmbedder())

    def read_only(path: Path) -> sqlite3.Connection:
        db = schema.connect(path)
        db.execute("PRAGMA query_only = ON")
        return db

    monkeypatch.setattr(store, "connect", read_only)
    with pytest.raises(OutputError, match="readonly"):
        memory.add(make_record(0))


def _truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 // 4096 * 4096])


def _overwritten(path: Path) -> None:
    path.write_bytes(b"not a database at all, " * 1000)


def _emptied(path: Path) -> None:
    path.write_bytes(b"")


def _torn(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096, 3):
        content[page * 4096 : page * 4096 + 200] = bytes(range(200))
    path.write_bytes(content)


def _replaced(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
    db.close()


@pytest.mark.parametrize("damage", [_truncated, _overwritten, _emptied, _torn, _replaced])
def test_damage_is_noticed_on_opening_and_left_as_it_is(
    memory: Memory, damage: Callable[[Path], None]
) -> None:
    for seed in range(3):
        memory.add(make_record(seed))
    damage(memory.path)
    before = hashlib.sha256(memory.path.read_bytes()).hexdigest()
    with pytest.raises(MemoryDamaged, match="restore"):
        Memory(memory.home, embedder=HashEmbedder())
    assert hashlib.sha256(memory.path.read_bytes()).hexdigest() == before


def test_a_log_without_its_store_is_damage(memory: Memory) -> None:
    memory.add(make_record(0))
    memory.path.with_name("memory.sqlite-wal").write_bytes(b"left behind")
    memory.path.unlink()
    with pytest.raises(MemoryDamaged, match="log"):
        Memory(memory.home, embedder=HashEmbedder())


def test_a_record_changed_behind_our_back_is_damage(memory: Memory) -> None:
    record = make_record(0)
    memory.add(record)
    with memory.writing() as db:
        db.execute("UPDATE records SET body = replace(body, 'demo:minilm', 'demo:minllm')")
    with pytest.raises(MemoryDamaged, match=record.id):
        memory.get(record.id)


def test_a_store_from_the_future_is_not_touched(memory: Memory) -> None:
    with memory.writing() as db:
        db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    with pytest.raises(UsageError, match="newer ZSEI"):
        Memory(memory.home, embedder=HashEmbedder())


def test_an_older_store_is_brought_up_to_date(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = make_record(0)
    memory.add(record)
    newer = (*schema.MIGRATIONS, ("ALTER TABLE runs ADD COLUMN remark TEXT",))
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    again = Memory(memory.home, embedder=HashEmbedder())
    assert again.get("last") == record
    with again.reading() as db:
        assert db.execute("SELECT remark FROM runs").fetchone()["remark"] is None
        assert db.execute("PRAGMA user_version").fetchone()[0] == len(newer)


def test_leftovers_of_an_interrupted_birth_are_cleared(home: Path) -> None:
    home.mkdir(parents=True)
    for name in ("memory.sqlite.new", "memory.sqlite.new-wal", "memory.sqlite-shm"):
        (home / name).write_bytes(b"half")
    memory = Memory(home, embedder=HashEmbedder())
    memory.add(make_record(0))
    assert len(memory.runs()) == 1


def test_calls_to_a_language_model_are_kept_in_order(memory: Memory) -> None:
    calls = [
        CallRecord(agent="librarian", model="scripted", prompt_hash=f"{n}", outcome="ok")
        for n in range(3)
    ]
    memory.log_calls(calls[:2], run="r1")
    memory.log_calls(calls[2:])
    assert memory.calls() == tuple(calls)
    assert memory.calls("r1") == tuple(calls[:2])


def test_a_record_without_anything_in_it_can_be_kept(memory: Memory) -> None:
    full = make_record(0)
    bare = AnalysisRecord(
        id="bare", provenance=full.provenance, conditions=full.conditions, components=()
    )
    memory.add(bare)
    assert memory.get("bare") == bare
