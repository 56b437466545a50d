"""What a wrong call gets: one sentence on stderr, nothing on stdout, exit code 2."""

import json
from pathlib import Path
from typing import get_args

import pytest
from cli_samples import install, sample_record

from zsei.cli import main
from zsei.cli.analyze import Objective, Safety
from zsei.settings import SafetyLevel

WRONG = {
    "unknown command": (["analyse"], "Did you mean 'analyze'"),
    "unknown option": (["analyze", "--fast"], "--fast"),
    "unknown safety": (["analyze", "--safety", "reckless"], "'conservative', 'moderate'"),
    "unknown objective": (["analyze", "--objective", "beauty"], "'causal-lm'"),
    "seed is no number": (["analyze", "--seed", "x"], "--seed"),
    "seed below zero": (["analyze", "--seed", "-1"], "'seed'"),
    "budget of nothing": (["analyze", "--budget", "0"], "'budget'"),
    "no call at all": (["analyze", "--llm-calls", "0"], "ZSEI_LLM_CALL__MAX_CALLS"),
    "data that is not there": (["analyze", "--data", "prose=missing.txt"], "missing.txt"),
    "question missing": (["ask"], "question"),
    "out missing": (["apply", "last"], "--out"),
    "unknown run": (["show", "r-nothing"], "zsei analyze"),
}


@pytest.fixture(autouse=True)
def _never_gets_to_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = install(monkeypatch, sample_record())
    fake.during = lambda: pytest.fail("the analysis started")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_answered_in_one_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("zsei: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("words", "says"), [w for w in WRONG.values() if w[0][0] in ("analyze", "ask", "show")]
)
def test_with_json_an_error_is_one_object(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)
    assert error["error"].keys() == {"type", "message"}
    assert error["error"]["type"] == "UsageError"
    assert says in error["error"]["message"]


def test_two_groups_of_one_name_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("words")
    assert main(["analyze", "--data", "a=a.txt", "--data", "a.txt"]) == 2
    assert "two are called 'a'" in capsys.readouterr().err


@pytest.mark.parametrize("setting", ["ZSEI_SAFETY=reckless", "ZSEI_SEED=x"])
def test_a_bad_environment_variable_is_named(
    setting: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, value = setting.partition("=")
    monkeypatch.setenv(name, value)
    assert main(["list"]) == 2
    assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("toml", "says"), [("seed = ", "must be TOML"), ("sede = 1", "'sede'"), ("seed = -1", "'seed'")]
)
def test_a_bad_settings_file_is_named(
    toml: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zsei.toml").write_text(toml)
    assert main(["list"]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert "zsei.toml" in err


def test_a_file_cannot_be_the_output_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("")
    assert main(["analyze", "--out", "taken"]) == 2
    assert main(["apply", "last", "--out", "taken/deeper"]) == 2
    assert "is a file" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == ""


def test_the_options_are_those_of_the_settings() -> None:
    """They are written twice so that `zsei --help` need not load pydantic."""
    assert get_args(Safety) == get_args(SafetyLevel)
    assert get_args(Objective)[0] == "auto"
