"""Commands that look after memory: what they print, and what they end with."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hostile import HOSTILE
from memory.memory_records import HashEmbedder, make_record

from zsei.cli import main
from zsei.memory.search import refresh
from zsei.memory.store import Memory

RECORDS = [make_record(seed, model=f"model-{seed}") for seed in range(3)]
Json = Callable[..., dict]


@pytest.fixture
def memory(home: Path) -> Memory:
    memory = Memory(home, embedder=HashEmbedder())
    for record in RECORDS:
        memory.add(record)
    return memory


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Json:
    """Run a command with --json and give its one object."""

    def run(*words: str, code: int = 0) -> dict:
        assert main([*words, "--json"]) == code
        out = capsys.readouterr().out
        assert out.count("\n") == 1
        return json.loads(out)

    return run


def test_check_says_what_is_whole(
    memory: Memory, run: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    refresh(memory)
    body = run("memory", "check")
    assert not body["damaged"]
    assert [each["run"] for each in body["runs"]] == [record.id for record in RECORDS]
    assert "a sample read back" in body["spaces"][0]["index"]
    with memory.writing() as db:
        db.execute("UPDATE records SET sha256 = '' WHERE run = ?", (RECORDS[1].id,))
        db.execute("DELETE FROM measurements WHERE run = ?", (RECORDS[0].id,))
    body = run("memory", "check", code=5)
    assert body["damaged"]
    assert [bool(each["problem"]) for each in body["runs"]] == [True, True, False]
    assert main(["memory", "check"]) == 5
    out = " ".join(capsys.readouterr().out.split())
    assert "1 of 3 analyses are whole" in out
    assert f"Whole: {RECORDS[2].id}" in out
    assert "`zsei memory rebuild` mends it" in out
    body = run("memory", "rebuild", code=5)
    assert (body["runs"], body["damaged"]) == (2, [RECORDS[1].id])
    body = run("memory", "check", code=5)
    assert [bool(each["problem"]) for each in body["runs"]] == [False, True, False]


def test_check_of_a_file_that_is_no_memory(memory: Memory, run: Json) -> None:
    memory.path.write_bytes(b"something else " * 1000)
    body = run("memory", "check", code=5)
    assert body["problems"]
    assert body["runs"] == []


def test_check_of_a_newer_memory_is_one_sentence(
    memory: Memory, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(memory.path)) as db:
        db.execute("PRAGMA user_version = 99")
    for words in (["memory", "check"], ["list"], ["memory", "export", "x.jsonl"], ["ask", "what?"]):
        assert main(words) == 2
        (sentence,) = capsys.readouterr().err.strip().splitlines()
        assert "newer ZSEI" in sentence
        assert "Upgrade" in sentence


def test_export_and_import_are_one_round(
    memory: Memory, run: Json, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = str(tmp_path / "all.jsonl")
    body = run("memory", "export", file)
    assert body["runs"] == [record.id for record in RECORDS]
    one = run("memory", "export", str(tmp_path / "one.jsonl"), "--run", "last", "--no-vectors")
    assert one["runs"] == [RECORDS[2].id]
    assert run("memory", "export", file, code=2)["error"]["type"] == "UsageError"
    monkeypatch.setenv("ZSEI_HOME", str(tmp_path / "elsewhere"))
    assert run("memory", "import", file)["added"] == [record.id for record in RECORDS]
    assert run("memory", "import", file)["added"] == []
    assert not run("memory", "check")["damaged"]
    text = Path(file).read_text()
    Path(file).write_text(text.replace("alike", "alone"))
    error = run("memory", "import", file, code=1)["error"]
    assert error["type"] == "DataError"
    assert RECORDS[0].id in error["message"]


def test_rebuild_is_told(memory: Memory, run: Json, capsys: pytest.CaptureFixture[str]) -> None:
    refresh(memory)
    body = run("memory", "rebuild")
    assert (body["runs"], body["embedded"], body["damaged"]) == (3, 0, [])
    assert body["indexed"] == body["passages"]
    assert main(["memory", "rebuild"]) == 0
    assert "3 analyses made again" in capsys.readouterr().out


def test_delete_asks_or_is_told_so(
    memory: Memory,
    run: Json,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert "--yes" in run("delete", "last", code=2)["error"]["message"]
    assert main(["delete", "last"]) == 2
    assert len(memory.runs()) == 3
    capsys.readouterr()
    assert run("delete", "last", "--yes") == {"deleted": RECORDS[2].id, "notes": []}
    assert [row.id for row in memory.runs()] == [RECORDS[1].id, RECORDS[0].id]
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    for answer, left in ((False, 2), (True, 1)):
        monkeypatch.setattr("typer.confirm", lambda *_, answer=answer, **__: answer)
        assert main(["delete", RECORDS[0].id]) == (0 if answer else 1)
        assert len(memory.runs()) == left
    assert f"Forgotten: {RECORDS[0].id}" in capsys.readouterr().out


def test_compare_shows_what_moved(
    memory: Memory, run: Json, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = RECORDS[0].id, RECORDS[1].id
    body = run("compare", first, second)
    assert (body["first"], body["second"], body["model"]) == (first, second, "another model")
    assert body["moved"]
    assert main(["compare", first, "last"]) == 0
    out = capsys.readouterr().out
    assert "Moved beyond their spread" in out
    assert "seed" in out
    assert run("compare", first, first)["moved"] == []
    assert run("compare", first, "nothing", code=2)["error"]["type"] == "UsageError"


def test_similar_says_why(memory: Memory, run: Json, capsys: pytest.CaptureFixture[str]) -> None:
    body = run("similar", RECORDS[0].id)
    assert body["run"] == RECORDS[0].id
    assert {each["run"] for each in body["similar"]} == {r.id for r in RECORDS[1:]}
    assert len(run("similar", "last", "--limit", "1")["similar"]) == 1
    assert main(["similar", "last"]) == 0
    assert "profile" in capsys.readouterr().out


def test_hostile_names_are_only_shown(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    memory = Memory(home, embedder=HashEmbedder())
    for seed, text in enumerate(HOSTILE):
        memory.add(make_record(seed, model=text, family=text, layers=2, heads=1))
    for words in (["compare"], ["similar"], ["memory", "check"]):
        runs = [row.id for row in memory.runs()[:2]] if words == ["compare"] else []
        runs = ["last"] if words == ["similar"] else runs
        assert main([*words, *runs]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\u202e" not in out
    assert main(["memory", "export", str(tmp_path / "x.jsonl")]) == 0
