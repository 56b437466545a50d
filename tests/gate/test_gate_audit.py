from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zsei.errors import MemoryDamaged, OutputError
from zsei.gate.audit import audit_key, audited, read_audit
from zsei.gate.judge import refused
from zsei.records import Verdict


def verdict(reason: str) -> Verdict:
    return refused("failed", "p-1", reason)


KEY = audit_key(epoch=3, model_hash="ab12", decision_id="p-1", level="moderate")


def test_the_key_is_epoch_model_decision_and_level() -> None:
    assert KEY == "3:ab12:p-1:moderate"


def test_replaying_a_key_returns_the_first_verdict_and_decides_nothing(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "audit.jsonl"
    first = audited(log, KEY, lambda: verdict("first"), note="by hand")
    before = log.read_bytes()

    def never() -> Verdict:
        raise AssertionError("decided twice")

    assert audited(log, KEY, never) == first == verdict("first")
    assert log.read_bytes() == before
    other = audited(log, KEY + "x", lambda: verdict("other"))
    assert log.read_bytes().startswith(before)
    entries = list(read_audit(log))
    assert [(e.key, e.verdict, e.note) for e in entries] == [
        (KEY, first, "by hand"),
        (KEY + "x", other, ""),
    ]


def test_a_write_cut_short_is_no_verdict_and_is_not_erased(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    audited(log, "a", lambda: verdict("a"))
    whole = log.read_bytes()
    for length in range(1, len(whole) - 1, 23):
        log.write_bytes(whole + whole[:length])
        assert [e.key for e in read_audit(log)] == ["a"]
        audited(log, "b", lambda: verdict("b"))
        assert [e.key for e in read_audit(log)] == ["a", "b"]
        assert log.read_bytes().startswith(whole + whole[:length])


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    audited(log, "a", lambda: verdict("a"))
    log.write_bytes(b"\xff\xfe{}\n" + log.read_bytes())
    with pytest.raises(MemoryDamaged, match=r"line 1 of `audit.jsonl`"):
        audited(log, "b", lambda: verdict("b"))


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        audited(tmp_path / "file" / "audit.jsonl", "a", lambda: verdict("a"))


def test_writers_agree_on_the_first_verdict(tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"

    def file_many(name: str) -> list[str]:
        return [audited(log, str(n), lambda: verdict(name)).reason for n in range(20)]

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(file_many, "abcd"))
    assert all(answer == answers[0] for answer in answers)
    assert sorted(int(e.key) for e in read_audit(log)) == list(range(20))
