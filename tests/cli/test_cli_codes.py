"""Every way an analysis can end has its exit code, and says why when it is not 0."""

import errno
import sqlite3
from pathlib import Path

import pytest
from cli_samples import install, sample_record

from zsei import errors
from zsei.cli import main
from zsei.records import Failure


@pytest.mark.parametrize(
    ("outcomes", "llm_failed", "code", "says"),
    [
        (("accepted", "rejected"), False, 0, ""),
        (("rejected", "inconclusive"), False, 3, "accepted nothing of the 2"),
        ((), False, 3, "Nothing was found that is worth proposing"),
        (("accepted",), True, 4, "no answer within 60 s"),
        (("rejected",), True, 4, "rules stood in"),
    ],
)
def test_how_an_analysis_ends(
    outcomes: tuple,
    llm_failed: bool,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    install(monkeypatch, sample_record(*outcomes, llm_failed=llm_failed))
    assert main(["analyze", "--json"]) == code
    err = capsys.readouterr().err
    assert says in err
    assert err.count("\n") == (1 if says else 0)


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (errors.DataError("Data must hold two samples, but one came."), 1, "two samples"),
        (errors.UsageError("No analysis is called 'x'."), 2, "called 'x'"),
        (errors.LLMTimeout("No answer within 60 s."), 4, "60 s"),
        (errors.MemoryDamaged("The record fails its check."), 5, "fails its check"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "free some space"),
        (MemoryError(), 1, "ran out"),
        (ZeroDivisionError("division by zero"), 1, "ZSEI_DEBUG=1"),
        (KeyboardInterrupt(), 130, "Interrupted"),
        (errors.DataError("two\nlines \x1b[31mand a colour"), 1, "two lines"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_how_an_error_ends(
    error: BaseException,
    code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise error

    install(monkeypatch, sample_record()).during = fail
    assert main(["analyze"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert "\x1b" not in err


def test_an_analysis_that_could_not_be_kept_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failure = Failure(stage="memory", what="the record was not kept", why="The disk is full.")
    record = sample_record("accepted").model_copy(update={"failures": (failure,)})
    install(monkeypatch, record)
    assert main(["analyze", "--json"]) == 1
    out, err = capsys.readouterr()
    assert type(record).model_validate_json(out) == record
    assert "not kept: The disk is full." in err


def test_every_error_of_ours_has_a_documented_code() -> None:
    ours = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    assert {kind.exit_code for kind in ours if issubclass(kind, errors.ZseiError)} == {1, 2, 4, 5}


def test_a_disk_that_fills_leaves_no_half_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = install(monkeypatch, sample_record("accepted"))

    def fill() -> None:
        if fake.calls[-1].name == "save":
            raise OSError(errno.ENOSPC, "No space left on device")

    fake.during = fill
    assert main(["analyze", "--out", str(tmp_path / "report")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert [call.name for call in fake.calls] == ["analyze", "save"]


def test_damaged_memory_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "--json"]) == 0
    (home / "memory.sqlite").write_bytes(b"this is no database" * 100)
    for words in (["list"], ["show", "last"], ["doctor"]):
        assert main(words) == 5, words
    assert "damaged" in capsys.readouterr().out
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(home / "memory.sqlite").execute("SELECT * FROM runs")
