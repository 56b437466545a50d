"""Measurements of speed, claims and profiles: kept whole, found again, asked about, carried on."""

import json
import sqlite3
from pathlib import Path

import pytest
from document_records import MINILM, claims, profile, speed
from memory_records import HashEmbedder, make_record

from zsei.errors import DataError, MemoryDamaged, OutputError, UsageError
from zsei.memory import Memory, ask_memory, schema
from zsei.memory.check import check
from zsei.memory.documents import (
    delete_document,
    documents,
    find_document,
    get_document,
    keep,
)
from zsei.memory.portable import export_runs, import_runs
from zsei.memory.rebuild import rebuild
from zsei.memory.search import refresh, retrieve

BF16 = "lower-precision (dtype=bfloat16)"
SDPA = "attention-backend (backend=sdpa)"
ALL = (speed(), claims(), profile())


@pytest.fixture
def memory(tmp_path: Path) -> Memory:
    memory = Memory(tmp_path / "home", embedder=HashEmbedder())
    for record in ALL:
        keep(memory, record)
    return memory


def test_what_is_kept_comes_back_whole_and_is_listed(memory: Memory) -> None:
    for record in ALL:
        found = get_document(memory, record.id[:5])
        assert found is not None
        assert found == record
    listed = documents(memory)
    assert [(row.id, row.kind, row.model) for row in listed] == [
        (record.id, kind, record.model)
        for record, kind in reversed(tuple(zip(ALL, ("speed", "claims", "profile"), strict=True)))
    ]
    assert [row.id for row in documents(memory, ["claims"])] == [claims().id]
    assert get_document(memory, "nothing") is None
    with pytest.raises(UsageError, match="kind among speed, profile, claims; 'speeds' is none"):
        documents(memory, ["speeds"])


def test_the_same_again_changes_nothing_and_a_later_one_stands(memory: Memory) -> None:
    keep(memory, speed())
    assert len(documents(memory)) == len(ALL)
    later = speed(created="2026-04-01T10:00:00Z", bf16=3.5)
    keep(memory, later)
    keep(memory, speed(created="2026-02-01T10:00:00Z", bf16=1.5))
    assert len(documents(memory, ["speed"])) == 3
    assert get_document(memory, later.id) == later
    answer = ask_memory("does bf16 help on MiniLM?", memory)
    assert [row["speed_up"] for row in answer.rows] == [3.5]


def test_which_speed_ups_held_is_answered_with_the_stored_numbers(memory: Memory) -> None:
    answer = ask_memory("which speed-ups held on MiniLM?", memory)
    trials = [t for t in speed().alone if t.verdict.outcome == "accepted"]
    together = speed().together
    assert together is not None
    expected = [together.trial, *trials]
    assert [row["speed_up"] for row in answer.rows] == [
        t.speed_up.median for t in expected if t.speed_up is not None
    ]
    assert {row["outcome"] for row in answer.rows} == {"accepted"}
    assert answer.rows[0]["product"] == together.product
    assert "the product of the single speed-ups is 2.26, which is no measurement" in answer.text
    assert [citation.run for citation in answer.citations] == [speed().id]
    said = "lower-precision (dtype=bfloat16) on models/all-MiniLM-L6-v2: 2.12 times as fast"
    assert f"{said} (1.91 to 2.34), mean cosine 0.99999, accepted [{speed().id}]" in answer.text


QUESTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("did the claim of 71x hold?", claims().id, ("whole",)),
    ("which claims held?", claims().id, ("vectorised",)),
    ("which claims did not hold?", claims().id, ("whole",)),
    ("which claims are undecided?", claims().id, ("two-cores",)),
    ("which claims could not be measured?", claims().id, ("card",)),
    ("did the combined claim hold?", claims().id, ("whole",)),
    ("does bf16 help on MiniLM?", speed().id, (BF16,)),
    ("how much faster is MiniLM with bfloat16?", speed().id, (BF16,)),
    ("did SDPA speed up all-MiniLM-L6-v2?", speed().id, (SDPA,)),
    ("show document 5aeed00 on bf16", speed().id, (BF16,)),
    ("did quantisation speed up MiniLM?", speed().id, ("int8",)),
    (
        "which speed-ups were rejected?",
        speed().id,
        ("lower-precision (dtype=float16)", "threads"),
    ),
    (
        "what is the fastest way to run MiniLM?",
        speed().id,
        (f"together ({BF16} + {SDPA})",),
    ),
    ("what is the peak memory of MiniLM?", profile().id, ("peak memory",)),
    ("where does the mlp of MiniLM spend its time?", profile().id,
     ("all mlp", "encoder.layer.0/mlp")),
    ("does the time of MiniLM scale with length?", profile().id, ("time over length",)),
)  # fmt: skip


@pytest.mark.parametrize(("question", "document", "subjects"), QUESTIONS)
def test_a_question_is_answered_by_the_rows_it_asks_for(
    memory: Memory, question: str, document: str, subjects: tuple[str, ...]
) -> None:
    answer = ask_memory(question, memory)
    assert tuple(row["subject"] for row in answer.rows) == subjects
    assert [citation.run for citation in answer.citations] == [document]
    assert answer.searched == len(ALL)
    assert answer.among == "measurements"


def test_where_the_time_goes_is_answered_hot_spots_first(memory: Memory) -> None:
    answer = ask_memory("where does MiniLM spend its time?", memory)
    kinds, parts = profile().kinds, profile().parts
    shares = [row["share"] for row in answer.rows if "share" in row]
    assert shares == [part.share for part in (*kinds, *parts) if part.share >= 0.05]
    assert len(shares) < len(kinds) + len(parts)  # those not worth it are left to the record
    assert answer.citations[0].run == profile().id


@pytest.mark.parametrize(
    "question",
    [
        "which speed-ups held on llama?", "did int4 speed up MiniLM?",
        "did the claim of 50x hold?", "did ONNX Runtime speed up MiniLM?", "does autocast help?",
        "which speed-ups held on demo:gpt2?",
        "where does gpt2 spend its time?",
    ],
)  # fmt: skip
def test_what_was_not_measured_is_refused(memory: Memory, question: str) -> None:
    answer = ask_memory(question, memory)
    assert answer.text.startswith("No ")
    assert (answer.rows, answer.citations) == ((), ())


def test_that_none_fits_cites_what_was_looked_at(tmp_path: Path) -> None:
    memory = Memory(tmp_path, embedder=HashEmbedder())
    record = speed().model_copy(update={"alone": speed().alone[2:], "together": None})
    keep(memory, record)
    answer = ask_memory("which speed-ups held on MiniLM?", memory)
    assert answer.text.startswith("None of ")
    assert answer.rows == ()
    assert [citation.run for citation in answer.citations] == [record.id]


def test_questions_about_analyses_are_answered_as_before(tmp_path: Path) -> None:
    """Documents beside analyses take no question from them."""
    analysed = make_record(1)
    alone = Memory(tmp_path / "alone", embedder=HashEmbedder())
    beside = Memory(tmp_path / "beside", embedder=HashEmbedder())
    for memory in (alone, beside):
        memory.add(analysed)
    for record in ALL:
        keep(beside, record)
    for question in (
        "which heads of demo:minilm matter most?", "effective rank of the mlp of layer 1?",
        "why was pruning heads rejected?", "which layers are redundant?", "how many analyses?",
        "how much faster without head 3 of layer 2?",
    ):  # fmt: skip
        ours, theirs = ask_memory(question, beside), ask_memory(question, alone)
        assert (ours.text, ours.rows) == (theirs.text, theirs.rows), question


def test_passages_are_found_by_their_words(memory: Memory) -> None:
    hits = retrieve(memory, "vectorised claim held", kinds=["measured"])
    assert hits[0].key == claims().id
    assert hits[0].run is None


def test_what_is_forgotten_leaves_no_trace(memory: Memory) -> None:
    refresh(memory)
    delete_document(memory, speed().id)
    assert get_document(memory, speed().id) is None
    with memory.reading() as db:
        assert find_document(db, speed().id) is None
        left = db.execute("SELECT COUNT(*) FROM chunks WHERE key = ?", (speed().id,)).fetchone()[0]
        orphans = db.execute(
            "SELECT COUNT(*) FROM vectors WHERE sha256 NOT IN (SELECT sha256 FROM chunks)"
        ).fetchone()[0]
    assert (left, orphans) == (0, 0)
    assert not check(memory.home).damaged


def test_carried_elsewhere_byte_for_byte_and_never_twice(memory: Memory, tmp_path: Path) -> None:
    memory.add(make_record(2))
    refresh(memory)
    file = tmp_path / "export.jsonl"
    sent = export_runs(memory.home, file)
    assert (len(sent.runs), sent.documents) == (1, len(ALL))
    elsewhere = Memory(tmp_path / "elsewhere", embedder=HashEmbedder())
    assert import_runs(elsewhere, file).documents == len(ALL)
    again = import_runs(elsewhere, file)
    assert (again.documents, again.vectors) == (0, 0)
    bodies = "SELECT id, kind, created, model, body, sha256 FROM documents ORDER BY number"
    with memory.reading() as ours, elsewhere.reading() as theirs:
        found = [tuple(row) for row in theirs.execute(bodies)]
        assert found == [tuple(row) for row in ours.execute(bodies)]
    assert not check(elsewhere.home).damaged
    chosen = export_runs(memory.home, tmp_path / "one.jsonl", [claims().id])
    assert (chosen.runs, chosen.documents) == ((), 1)


def test_a_line_that_is_no_document_is_refused(memory: Memory, tmp_path: Path) -> None:
    from zsei.memory import portable

    file = tmp_path / "made.jsonl"
    wrong = {"kind": "document", "type": "speed", "run": "x", "body": "{}"}
    portable._write(file, iter([wrong]))
    with pytest.raises(DataError, match="line 2 \\(document\\) does not fit"):
        import_runs(memory, file)
    assert len(documents(memory)) == len(ALL)


def test_damage_is_found_named_and_left_out_of_an_export(memory: Memory, tmp_path: Path) -> None:
    with memory.writing() as db:
        db.execute(
            "UPDATE documents SET body = replace(body, '2.125', '9.125') WHERE kind = 'speed'"
        )
    health = check(memory.home)
    assert health.damaged
    assert [(one.run, one.problem) for one in health.documents if one.problem] == [
        (speed().id, "its record is not what was written")
    ]
    with pytest.raises(MemoryDamaged, match=speed().id):
        get_document(memory, speed().id)
    with pytest.raises(MemoryDamaged, match="not what was written"):
        ask_memory("which speed-ups held on MiniLM?", memory)
    with pytest.raises(OutputError, match=f"of {speed().id} its record is not"):
        export_runs(memory.home, tmp_path / "whole.jsonl")
    assert not (tmp_path / "whole.jsonl").exists()
    done = export_runs(memory.home, tmp_path / "rest.jsonl", salvage=True)
    assert (done.documents, len(done.left_out)) == (2, 1)
    made = rebuild(memory)
    assert (made.documents, made.damaged) == (2, (speed().id,))


def test_passages_that_are_gone_are_made_again(memory: Memory) -> None:
    with memory.writing() as db:
        db.execute("DELETE FROM chunks WHERE key = ?", (profile().id,))
    wrong = [one for one in check(memory.home).documents if one.problem]
    assert [(one.run, one.mendable) for one in wrong] == [(profile().id, True)]
    rebuild(memory)
    assert not check(memory.home).damaged


def test_a_memory_of_the_schema_before_opens_and_keeps_documents(tmp_path: Path) -> None:
    memory = Memory(tmp_path, embedder=HashEmbedder())
    memory.add(make_record(3))
    with sqlite3.connect(memory.path) as db:  # as the third version of the schema left it
        db.execute("DROP TABLE documents")
        db.execute("PRAGMA user_version = 3")
    db.close()
    again = Memory(tmp_path, embedder=HashEmbedder())
    keep(again, speed())
    assert again.get(make_record(3).id) == make_record(3)
    assert get_document(again, speed().id) == speed()
    assert not check(tmp_path).damaged
    with sqlite3.connect(memory.path) as db:
        db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS) + 1}")
    db.close()
    with pytest.raises(UsageError, match="written by a newer ZSEI"):
        Memory(tmp_path)


def test_names_that_fit_twice_are_refused(memory: Memory) -> None:
    keep(memory, speed(id="s-5aeed0002222", model="other"))
    with pytest.raises(
        UsageError, match=r"only one fits; 's-5aeed' begins s-5aeed000.*, s-5aeed000"
    ):
        get_document(memory, "s-5aeed")
    assert json.loads(speed().model_dump_json())["model"] == MINILM


def test_the_commands_list_show_carry_and_forget(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from zsei.cli import main

    def run(*words: str, code: int = 0) -> str:
        assert main([*words]) == code
        return capsys.readouterr().out

    monkeypatch.setenv("ZSEI_HOME", str(memory.home))
    listed = json.loads(run("list", "--json"))
    assert [row["kind"] for row in listed["documents"]] == ["profile", "claims", "speed"]
    assert listed["runs"] == []
    (row,) = json.loads(run("list", "--kind", "claims", "--json"))["documents"]
    assert row["id"] == claims().id
    assert claims().id in run("list", "--kind", "claims")
    assert json.loads(run("show", speed().id, "--json")) == json.loads(speed().model_dump_json())
    assert "2.12 times as fast (1.91 to 2.34)" in " ".join(run("show", speed().id[:6]).split())
    assert "3 of 3 measurements are whole" in " ".join(run("memory", "check").split())
    run("memory", "export", str(tmp_path / "all.jsonl"))
    run("delete", claims().id, "--yes")
    assert run("show", claims().id, code=2) == ""
    assert "1 measurements" in run("memory", "import", str(tmp_path / "all.jsonl"))
    assert json.loads(run("show", claims().id, "--json"))["id"] == claims().id


def test_a_memory_that_cannot_be_written_takes_no_measurement_away(
    memory: Memory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from zsei.cli.keep import kept
    from zsei.settings import Settings

    other = speed(id="0ther0001111")
    kept(other, Settings(home=memory.home))
    assert get_document(memory, other.id) == other
    assert capsys.readouterr().err == ""
    (tmp_path / "file").write_text("no folder")
    kept(other, Settings(home=tmp_path / "file"))
    assert "The measurement was not kept in memory. Memory must be able" in capsys.readouterr().err
