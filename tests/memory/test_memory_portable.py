"""Analyses carried elsewhere: byte for byte, all or nothing, and never twice."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from memory_records import HashEmbedder, make_record

from zsei.errors import DataError, UsageError
from zsei.llm.types import CallRecord
from zsei.memory.check import check
from zsei.memory.portable import export_runs, import_runs
from zsei.memory.search import refresh, retrieve
from zsei.memory.store import Memory
from zsei.records import Timings

HOSTILE = "a\u2028b\x00\x1b[31m'); DROP TABLE runs;--\U0001f4a5"
RECORDS = [make_record(seed, model=HOSTILE if seed == 1 else f"model-{seed}") for seed in range(3)]


@pytest.fixture
def memory(home: Path) -> Memory:
    memory = Memory(home, embedder=HashEmbedder())
    for record in RECORDS:
        memory.add(record)
    call = CallRecord(agent="flow", model="scripted", prompt_hash="0", outcome="ok")
    memory.log_calls([call], RECORDS[1].id)
    refresh(memory)
    return memory


@pytest.fixture
def file(memory: Memory, tmp_path: Path) -> Path:
    export_runs(memory.home, tmp_path / "export.jsonl")
    return tmp_path / "export.jsonl"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Memory:
    return Memory(tmp_path / "elsewhere", embedder=HashEmbedder())


def test_every_line_carries_its_hash(file: Path) -> None:
    """The slow and obvious way: any tool can check the file."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        text = json.dumps(line["content"], sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest() == line["sha256"]
    kinds = [line["content"]["kind"] for line in lines]
    assert kinds[:5] == ["head", "record", "record", "record", "call"]
    assert set(kinds[5:-1]) == {"vector"}
    end = lines[-1]["content"]
    hashes = "".join(line["sha256"] for line in lines[:-1]).encode()
    assert (end["kind"], end["lines"]) == ("end", len(lines) - 1)
    assert end["lines_sha256"] == hashlib.sha256(hashes).hexdigest()


def test_what_arrives_is_what_was_sent(memory: Memory, file: Path, elsewhere: Memory) -> None:
    done = import_runs(elsewhere, file)
    assert done.added == tuple(record.id for record in RECORDS)
    for record in RECORDS:
        assert elsewhere.get(record.id).model_dump_json() == record.model_dump_json()
    assert [row.id for row in elsewhere.runs()] == [row.id for row in memory.runs()]
    assert elsewhere.calls(RECORDS[1].id) == memory.calls(RECORDS[1].id)
    assert not check(elsewhere.home).damaged
    hits = [hit.id for hit in retrieve(elsewhere, "attend alike")]
    assert hits == [hit.id for hit in retrieve(memory, "attend alike")]
    assert isinstance(elsewhere.embedder, HashEmbedder)
    assert elsewhere.embedder.embedded == 1  # the question: vectors travelled along


def test_importing_twice_adds_nothing(file: Path, elsewhere: Memory) -> None:
    import_runs(elsewhere, file)
    again = import_runs(elsewhere, file)
    assert (again.added, again.different, again.calls, again.vectors) == ((), (), 0, 0)
    assert again.kept == tuple(record.id for record in RECORDS)
    assert len(elsewhere.calls()) == 1


def test_what_is_here_under_the_same_id_stays(file: Path, elsewhere: Memory) -> None:
    later = RECORDS[0].model_copy(update={"timings": Timings(created="2027-01-01T00:00:00Z")})
    other = RECORDS[2].model_copy(update={"findings": ()})
    elsewhere.add(later)
    elsewhere.add(other)
    done = import_runs(elsewhere, file)
    assert (done.added, done.kept) == ((RECORDS[1].id,), (RECORDS[0].id,))
    assert done.different == (RECORDS[2].id,)
    assert elsewhere.get(later.id) == later
    assert elsewhere.get(other.id) == other


def test_only_what_was_asked_for_is_sent(memory: Memory, tmp_path: Path, elsewhere: Memory) -> None:
    name = RECORDS[1].id
    done = export_runs(memory.home, tmp_path / "one.jsonl", [name[:7]], vectors=False)
    assert (done.runs, done.vectors, done.calls) == ((name,), 0, 1)
    assert import_runs(elsewhere, tmp_path / "one.jsonl").added == (name,)
    with pytest.raises(UsageError, match="No analysis"):
        export_runs(memory.home, tmp_path / "none.jsonl", ["nonsense"])
    with pytest.raises(UsageError, match="exists"):
        export_runs(memory.home, tmp_path / "one.jsonl")
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"one.jsonl"}
    assert not list(tmp_path.glob(".*"))


def _cut(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[:-1])


def _torn(text: str) -> str:
    return text[: len(text) // 2]


def _altered(text: str) -> str:
    return text.replace("attend alike", "attend alone", 1)


def _dropped(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(lines[:2] + lines[3:])


def _doubled(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join([*lines[:3], lines[2], *lines[3:]])


def _headless(text: str) -> str:
    return "".join(text.splitlines(keepends=True)[1:])


def _more(text: str) -> str:
    return text + text.splitlines(keepends=True)[1]


def _forged(text: str) -> str:
    """A changed record with a hash that fits it: the last line gives it away."""
    lines = text.splitlines()
    content = json.loads(lines[1])["content"]
    content["body"] = content["body"].replace("attend alike", "attend alone")
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    sha256 = hashlib.sha256(body.encode()).hexdigest()
    lines[1] = f'{{"sha256":"{sha256}","content":{body}}}'
    return "\n".join(lines) + "\n"


DAMAGE = {
    "cut": (_cut, "it was cut"),
    "torn": (_torn, "no line of an export"),
    "altered": (_altered, RECORDS[0].id),
    "dropped": (_dropped, "missing"),
    "doubled": (_doubled, "missing or were added"),
    "headless": (_headless, "line 1"),
    "more": (_more, "stands where it should not"),
    "forged": (_forged, "missing or were added"),
    "no text": (lambda _: "\xff\xfe", "no text"),
    "something else": (lambda _: "{}\n", "line 1"),
    "numbers": (lambda _: "1\n2\n", "line 1"),
    "nothing": (lambda _: "", "0 lines"),
    "deep": (lambda _: "[" * 100_000, "line 1"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_adds_nothing(
    file: Path, elsewhere: Memory, damage: Callable[[str], str], says: str
) -> None:
    file.write_text(damage(file.read_text()), encoding="utf-8")
    with pytest.raises(DataError, match=says) as refused:
        import_runs(elsewhere, file)
    assert "Nothing was added" in str(refused.value)
    assert elsewhere.runs() == ()


def _line(content: dict[str, object]) -> str:
    body = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return f'{{"sha256":"{hashlib.sha256(body.encode()).hexdigest()}","content":{body}}}\n'


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "record", "run": "r", "body": "{}"},
        {"kind": "record", "run": "other", "body": RECORDS[0].model_dump_json()},
        {"kind": "vector", "fingerprint": "f", "name": "0" * 64, "data": "AAAA"},
        {"kind": "vector", "fingerprint": "f", "name": "0" * 64, "data": "!"},
        {"kind": "vector", "fingerprint": 1, "name": "0" * 64, "data": "AACAPw=="},
        {"kind": "call", "run": "r", "body": "{}"},
        {"kind": "order"},
        {},
    ],
)
def test_a_line_of_anything_else_is_refused(
    file: Path, elsewhere: Memory, content: dict[str, object]
) -> None:
    file.write_text(_line({"kind": "head", "format": 1}) + _line(content))
    with pytest.raises(DataError, match="line 2"):
        import_runs(elsewhere, file)
    assert elsewhere.runs() == ()


def test_a_newer_format_is_said(file: Path, elsewhere: Memory, tmp_path: Path) -> None:
    file.write_text(_line({"kind": "head", "format": 2}))
    with pytest.raises(UsageError, match="upgrade ZSEI"):
        import_runs(elsewhere, file)
    with pytest.raises(UsageError, match="mend the name"):
        import_runs(elsewhere, tmp_path / "not-there")
