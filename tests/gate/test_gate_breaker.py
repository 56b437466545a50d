import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from zsei.cli import main
from zsei.errors import OutputError
from zsei.gate.audit import read_audit
from zsei.gate.breaker import (
    Breaker,
    close_breaker,
    decide_once,
    note_failure,
    note_success,
    note_verdict,
    read_breaker,
)
from zsei.gate.judge import refused
from zsei.records import Outcome, Verdict


def verdict(outcome: Outcome, reason: str = "why") -> Verdict:
    return Verdict(proposal_id="p-1", outcome=outcome, reason=reason)


def decided(home: Path, key: str, outcome: Outcome = "accepted") -> Verdict:
    return decide_once(home, key, "p-1", lambda: verdict(outcome, f"{outcome} {key}"))


def never() -> Verdict:
    raise AssertionError("decided behind an open breaker")


def test_three_failures_in_a_row_open_it_and_only_the_command_closes_it(home: Path) -> None:
    assert read_breaker(home) == Breaker()
    assert [note_failure(home, reason).open for reason in "ab"] == [False, False]
    opened = note_failure(home, "c")
    assert (opened.open, opened.failures, opened.reasons) == (True, 3, ("a", "b", "c"))
    assert note_success(home) == opened
    assert note_failure(home, "d") == opened
    refusal = decide_once(home, "k", "p-1", never)
    assert refusal.outcome == "inapplicable"
    assert "open: a; b; c. `zsei breaker close` closes it" in refusal.reason
    assert list(read_audit(home / "audit.jsonl")) == []
    assert main(["breaker", "close"]) == 0
    assert read_breaker(home) == Breaker()
    assert decided(home, "k").outcome == "accepted"


def test_a_success_begins_the_count_anew(home: Path) -> None:
    for outcome in ("failed", "failed", "accepted", "failed", "failed"):
        note_verdict(home, verdict(outcome))
    assert read_breaker(home).failures == 2
    assert not read_breaker(home).open


@pytest.mark.parametrize("between", ["rejected", "inapplicable", "inconclusive"])
def test_the_gate_doing_its_work_neither_counts_nor_begins_anew(
    home: Path, between: Outcome
) -> None:
    for number in range(10):
        decided(home, f"n{number}", between)
    assert read_breaker(home) == Breaker()
    for number in range(3):
        decided(home, f"f{number}", "failed")
        decided(home, f"b{number}", between)
    assert read_breaker(home).open


def test_a_replayed_key_gives_its_first_verdict_and_counts_once(home: Path) -> None:
    first = decided(home, "a", "failed")
    for _ in range(5):
        assert decide_once(home, "a", "p-1", never) == first
    assert read_breaker(home).failures == 1
    decided(home, "b", "failed")
    decided(home, "c", "failed")
    assert read_breaker(home).open
    assert decide_once(home, "a", "p-1", never) == first


def test_an_exception_is_a_failure_and_passes_through(home: Path) -> None:
    def broken() -> Verdict:
        raise ValueError("no such thing")

    for _ in range(3):
        with pytest.raises(ValueError, match="no such thing"):
            decide_once(home, "a", "p-1", broken)
    assert read_breaker(home).reasons == ("ValueError: no such thing",) * 3
    assert decide_once(home, "a", "p-1", never).outcome == "inapplicable"


def test_an_interrupt_is_no_failure(home: Path) -> None:
    def interrupted() -> Verdict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide_once(home, "a", "p-1", interrupted)
    assert read_breaker(home) == Breaker()


def test_another_process_that_files_first_is_the_one_that_counts(home: Path) -> None:
    def slower() -> Verdict:
        decided(home, "a", "failed")
        return verdict("accepted")

    assert decide_once(home, "a", "p-1", slower).outcome == "failed"
    assert read_breaker(home).failures == 1


@pytest.mark.parametrize("damage", [b"", b"{", b'{"open": false, "extra": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_an_open_breaker_and_is_kept(home: Path, damage: bytes) -> None:
    note_failure(home, "a")
    path = home / "breaker.json"
    path.write_bytes(damage)
    assert read_breaker(home).open
    assert note_success(home).open
    refusal = decide_once(home, "k", "p-1", never)
    assert "cannot be read (it is damaged), so nothing says that it is closed" in refusal.reason
    assert path.read_bytes() == damage
    assert close_breaker(home).open
    assert read_breaker(home) == Breaker()
    assert (home / "breaker.damaged.json").read_bytes() == damage


def test_a_file_that_cannot_be_opened_is_an_open_breaker(home: Path) -> None:
    (home / "breaker.json").mkdir(parents=True)
    assert read_breaker(home).open
    with pytest.raises(OutputError, match=r"`breaker.json` cannot be written"):
        close_breaker(home)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"`breaker.json` cannot be written"):
        note_failure(tmp_path / "file", "a")


def test_an_interrupted_write_leaves_the_state_before(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_failure(home, "a")
    before = (home / "breaker.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            note_failure(home, "b")
    assert (home / "breaker.json").read_bytes() == before
    assert sorted(p.name for p in home.iterdir()) == ["breaker.json", "breaker.json.lock"]
    assert note_failure(home, "b").reasons == ("a", "b")


def test_no_failure_is_lost_when_two_write_at_once(tmp_path: Path) -> None:
    """Each holds a lock of its own on the file, as two processes do."""
    with ThreadPoolExecutor(2) as pool:
        for number in range(10):
            folder = tmp_path / str(number)
            list(pool.map(lambda reason, at=folder: note_failure(at, reason), "ab"))
            assert sorted(read_breaker(folder).reasons) == ["a", "b"]


def test_the_command_shows_and_closes(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)

    def said(*words: str) -> str:
        assert main(["breaker", *words]) == 0
        return capfd.readouterr().out

    closed = "The circuit breaker is closed, 0 of 3 failures in a row.\n"
    assert said() == said("status") == closed
    assert not home.exists()
    for reason in ("one", "two\x1b[31m", "three"):
        note_failure(home, reason)
    assert said().startswith("The circuit breaker is open: one; two")
    assert "\x1b" not in said()
    assert json.loads(said("status", "--json"))["failures"] == 3
    assert read_breaker(home).open
    assert said("close") == "It was open; the" + closed[3:]
    assert said("close") == closed
    assert main(["breaker", "open"]) == 2


Note = Callable[[Path], Breaker]


@pytest.mark.parametrize(
    "note", [note_success, lambda home: note_verdict(home, verdict("accepted"))]
)
def test_a_success_without_a_failure_before_writes_nothing(home: Path, note: Note) -> None:
    note(home)
    assert not (home / "breaker.json").exists()


def test_a_refusal_carries_no_bounds_and_no_stages() -> None:
    refusal = refused("inapplicable", "p-1", "the circuit breaker is open")
    assert (refusal.bounds, refusal.stages) == ((), ())
