"""The second look at memory, and what makes it whole again: every damage is named, nothing else."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from kills import large_record
from memory_records import HashEmbedder, make_record

from zsei.errors import MemoryDamaged, UsageError
from zsei.llm.types import CallRecord
from zsei.memory import index, kept, place, rows
from zsei.memory.check import check
from zsei.memory.portable import export_runs, import_runs
from zsei.memory.rebuild import follow, rebuild
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory

RECORDS = [make_record(seed, model=f"model-{seed}") for seed in range(3)]


@pytest.fixture
def memory(home: Path) -> Memory:
    memory = Memory(home, embedder=HashEmbedder())
    for record in RECORDS:
        memory.add(record)
    refresh(memory)
    return memory


def everything(memory: Memory) -> dict[str, list[tuple[object, ...]]]:
    """All rows of all tables of ours, but for what an index leaves and the numbers of passages."""
    with memory.reading() as db:
        listed = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'chunk_*'"
        names = {row["name"] for row in db.execute(listed)} - {"state", "sqlite_sequence"}
        held = {name: [dict(row) for row in db.execute(f"SELECT * FROM {name}")] for name in names}
    for row in held["chunks"]:
        del row["number"]
    return {name: sorted(tuple(row.values()) for row in held[name]) for name in sorted(held)}


def test_a_healthy_memory_is_healthy(memory: Memory) -> None:
    health = check(memory.home)
    assert not health.damaged
    assert [run.run for run in health.runs] == [record.id for record in RECORDS]
    (space,) = health.spaces
    assert space.missing == 0
    with memory.reading() as db:
        chunks = db.execute("SELECT COUNT(*) FROM chunks").fetchone()[0]
    assert space.index == f"{space.vectors} vectors, counted, and a sample read back"
    assert health.passages == chunks
    with pytest.raises(UsageError, match="no memory"):
        check(memory.home / "elsewhere")
    assert not (memory.home / "elsewhere").exists()


ALTERED = {
    "a number": ("UPDATE measurements SET value = value + 1e-9 WHERE run = :run", "measurements"),
    "a severity": ("UPDATE findings SET severity = 0.5 WHERE run = :run", "findings"),
    "a verdict": ("UPDATE verdicts SET outcome = 'accepted' WHERE run = :run", "verdicts"),
    "a bound": ("UPDATE verdict_numbers SET note = '' WHERE run = :run", "verdict_numbers"),
    "a row": ("DELETE FROM components WHERE run = :run AND kind = 'mlp'", "components"),
    "a rank": ("UPDATE rankings SET score = -score WHERE run = :run", "rankings"),
    "a model": ("UPDATE runs SET model = 'another' WHERE id = :run", "runs"),
    "a passage": ("DELETE FROM chunks WHERE run = :run AND kind = 'summary'", "chunks"),
    "a proposal": ("UPDATE proposals SET params = '{}' WHERE run = :run", "proposals"),
    "a member": ("DELETE FROM finding_components WHERE run = :run", "finding_components"),
}


@pytest.mark.parametrize(("change", "table"), ALTERED.values(), ids=ALTERED.keys())
def test_rows_that_are_not_the_record_s_are_found_and_mended(
    memory: Memory, change: str, table: str
) -> None:
    before = everything(memory)
    with memory.writing() as db:
        db.execute(change, {"run": RECORDS[1].id})
    health = check(memory.home)
    wrong = [run for run in health.runs if run.problem]
    assert [run.run for run in wrong] == [RECORDS[1].id]
    assert f"{table} (" in wrong[0].problem
    assert wrong[0].mendable
    done = rebuild(memory)
    assert (done.runs, done.damaged, done.notes) == (3, (), ())
    assert everything(memory) == before
    assert not check(memory.home).damaged


def test_an_altered_record_is_named_and_not_taken_for_truth(memory: Memory) -> None:
    with memory.writing() as db:
        change = "UPDATE records SET body = replace(body, 'alike', 'alone') WHERE run = ?"
        db.execute(change, (RECORDS[1].id,))
    before = everything(memory)
    wrong = [run for run in check(memory.home).runs if run.problem]
    assert [(run.run, run.mendable) for run in wrong] == [(RECORDS[1].id, False)]
    done = rebuild(memory)
    assert done.damaged == (RECORDS[1].id,)
    assert everything(memory) == before


def test_words_and_vectors_that_do_not_fit_are_found_and_mended(memory: Memory) -> None:
    before = [hit.id for hit in retrieve(memory, "attend alike")]
    with memory.writing() as db:
        db.execute("INSERT INTO chunk_words (chunk_words) VALUES ('delete-all')")
    (problem,) = check(memory.home).problems
    assert "index of words" in problem
    rebuild(memory)
    assert not check(memory.home).damaged
    with memory.writing() as db:
        half = np.full(512, 0.5, dtype="<f4").tobytes()
        db.execute("UPDATE vectors SET vector = ? WHERE sha256 = (SELECT MIN(sha256) FROM vectors)", (half,))  # fmt: skip  # noqa: E501
        rows.moved(db)
    (problem,) = check(memory.home).problems
    assert "--embed" in problem
    done = rebuild(memory, embed=True)
    assert done.embedded > 0
    assert not check(memory.home).damaged
    assert [hit.id for hit in retrieve(memory, "attend alike")] == before


def test_rebuild_embeds_nothing_unless_asked(memory: Memory) -> None:
    assert isinstance(memory.embedder, HashEmbedder)
    embedded = memory.embedder.embedded
    shutil.rmtree(memory.home / "index")
    done = rebuild(memory)
    assert done.indexed == check(memory.home).passages
    assert (done.embedded, memory.embedder.embedded) == (0, embedded)
    assert everything(memory)["records"] == sorted(
        (r.id, body, sha) for r, body, sha in _bodies(memory)
    )


def _bodies(memory: Memory) -> list[tuple[object, str, str]]:
    with memory.reading() as db:
        held = {row["run"]: row for row in db.execute("SELECT * FROM records")}
    return [(r, r.model_dump_json(), held[r.id]["sha256"]) for r in RECORDS]


def tear(path: Path) -> None:
    """Overwrite pages of the largest record, as a bad disk would."""
    content = bytearray(path.read_bytes())
    at = content.find(b'"model":"model-1"')
    assert at > 0
    page = at // 4096 * 4096
    content[page : page + 64] = bytes(64)
    path.write_bytes(content)


def test_of_a_damaged_file_what_is_whole_is_named_and_saved(memory: Memory, tmp_path: Path) -> None:
    kept.close()
    tear(memory.path)
    before = memory.path.read_bytes()
    with pytest.raises(MemoryDamaged, match="--salvage"):
        Memory(memory.home)
    health = check(memory.home)
    assert health.damaged
    fine = {run.run for run in health.runs if not run.problem or run.mendable}
    assert {RECORDS[0].id, RECORDS[2].id} <= fine
    with pytest.raises(MemoryDamaged):
        export_runs(memory.home, tmp_path / "no.jsonl")
    saved = export_runs(memory.home, tmp_path / "saved.jsonl", salvage=True)
    assert set(saved.runs) == fine
    assert memory.path.read_bytes() == before
    fresh = Memory(tmp_path / "fresh", embedder=HashEmbedder())
    assert set(import_runs(fresh, tmp_path / "saved.jsonl").added) == fine
    for record in RECORDS:
        if record.id in fine:
            assert fresh.get(record.id) == record
    assert not check(fresh.home).damaged


def test_what_is_deleted_is_gone_and_nothing_else(memory: Memory) -> None:
    assert isinstance(memory.embedder, HashEmbedder)
    call = CallRecord(agent="flow", model="scripted", prompt_hash="0", outcome="ok")
    memory.log_calls([call], RECORDS[1].id)
    memory.log_calls([call], RECORDS[0].id)
    own = large_record(7, findings=3)
    before = everything(memory)
    memory.add(own)
    refresh(memory)
    embedded = memory.embedder.embedded
    assert memory.delete(own.id) == own.id
    assert follow(memory) == []
    assert everything(memory) == before  # its vectors too, and those it shared have stayed
    health = check(memory.home)
    assert not health.damaged
    assert f"{health.spaces[0].vectors} vectors, counted" in health.spaces[0].index
    memory.delete(RECORDS[1].id[:6])
    assert [run.run for run in check(memory.home).runs] == [RECORDS[0].id, RECORDS[2].id]
    assert (len(memory.calls(RECORDS[1].id)), len(memory.calls())) == (0, 1)
    assert memory.embedder.embedded == embedded
    for record in (RECORDS[0], RECORDS[2]):
        memory.delete(record.id)
    assert follow(memory) == []
    assert {name for name, held in everything(memory).items() if held} <= {"llm_calls"}
    raw = memory.path.read_bytes()
    assert b"model-1" not in raw
    with pytest.raises(UsageError):
        memory.delete("last")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(200, len(content), 997):
        content[at] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", ["data_level0.bin", "link_lists.bin", "index_metadata.pickle"])
def test_a_damaged_segment_is_never_opened(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, damage: Callable[[Path], None]
) -> None:
    """Opening one can crash the process or give wrong neighbours; its digest tells."""
    monkeypatch.setitem(place._GRAPH["hnsw"], "sync_threshold", 50)
    memory = Memory(home, embedder=HashEmbedder())
    memory.add(large_record(1, findings=120))
    before = [hit.id for hit in retrieve(memory, "alpha omega never active")]
    embedded = memory.embedder.embedded  # type: ignore[attr-defined]
    kept.close()
    (file,) = (home / "index").glob(f"*/*/{name}")
    damage(file)
    (space,) = check(home).spaces
    assert "not those that were written" in space.index
    opened = []
    monkeypatch.setattr(
        index.LocalPlace, "_client", lambda self, real=index.LocalPlace._client: (
            opened.append(self.path.exists()), real(self))[1]
    )  # fmt: skip
    assert [hit.id for hit in retrieve(memory, "alpha omega never active")] == before
    assert opened[0] is False  # a new folder: the damaged one lies aside
    assert len(list((home / "index").glob("*.broken-*"))) == 1
    assert memory.embedder.embedded == embedded + 1  # type: ignore[attr-defined]


def test_a_new_chroma_has_a_folder_of_its_own(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(memory.embedder, HashEmbedder)
    embedded = memory.embedder.embedded
    (old,) = (memory.home / "index").glob("v*[!k]")
    for change in (("version", lambda _: "9.7.1"), ("FORMAT", 99)):
        with monkeypatch.context() as patch:
            patch.setattr(place, *change)
            assert refresh(memory).indexed == check(memory.home).passages
    names = {path.name for path in (memory.home / "index").glob("v*") if path.is_dir()}
    assert len(names) == 3
    assert {"v99", f"v{place.FORMAT}"} == {name.split("-")[0] for name in names}
    assert any("chroma9.7" in name for name in names)
    assert refresh(memory).indexed == check(memory.home).passages  # the old one is still good
    assert old.is_dir()
    assert memory.embedder.embedded == embedded


def test_a_new_embedder_embeds_once_and_the_old_vectors_stay(memory: Memory) -> None:
    class Other(HashEmbedder):
        fingerprint = "another-space"

    other = Memory(memory.home, embedder=Other())
    assert isinstance(other.embedder, Other)
    refresh(other)
    with memory.reading() as db:
        gists = db.execute("SELECT COUNT(DISTINCT sha256) FROM chunks").fetchone()[0]
        spaces = db.execute("SELECT fingerprint, COUNT(*) FROM vectors GROUP BY 1").fetchall()
    assert other.embedder.embedded == gists
    assert {tuple(row) for row in spaces} == {
        (HashEmbedder.fingerprint, gists),
        ("another-space", gists),
    }
    refresh(other)
    assert other.embedder.embedded == gists
    assert len(check(memory.home).spaces) == 2


def test_a_child_of_a_process_that_uses_chroma_answers_too(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma hangs after a fork; the child searches exactly."""
    before = [hit.id for hit in retrieve(memory, "attend alike")]
    monkeypatch.setattr(kept._HELD, "process", -1)  # as a child sees it
    monkeypatch.setattr(index.LocalPlace, "_client", lambda _: pytest.fail("it was opened"))
    assert [hit.id for hit in retrieve(memory, "attend alike")] == before
    assert "forked" in refresh(memory).notes[0]


def test_a_second_table_row_counts_twice(home: Path) -> None:
    """The comparison is of multisets, against the slow and obvious one."""
    memory = Memory(home, embedder=HashEmbedder())
    memory.add(RECORDS[0])
    with closing(sqlite3.connect(memory.path)) as db:
        db.row_factory = sqlite3.Row
        body = db.execute("SELECT body FROM records").fetchone()["body"]
        for table, made in rows.tables(RECORDS[0], body, 1).items():
            held = [dict(row) for row in db.execute(f"SELECT * FROM {table}")]
            assert len(held) == len(made)
            for row in made:
                assert row in held
