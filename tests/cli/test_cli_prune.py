"""`zsei prune`: options, exit codes, what is written where."""

import json
from pathlib import Path

import pytest

import zsei
from zsei.cli import main

WRONG = {
    "no budget": ([], "needs a size"),
    "two sizes": (["--params", "0.5", "--flops", "0.5"], "--params and --flops are two"),
    "a percentage": (["--params", "80"], "write 0.8"),
    "more than all": (["--latency", "1.5"], "--latency"),
    "unknown kind": (["--params", "0.5", "--kinds", "tails"], "heads, neurons"),
    "too few samples": (["--params", "0.5", "--samples", "1"], "'samples'"),
    "data that is not there": (["--params", "0.5", "--data", "missing.npz"], "missing.npz"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSEI_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_answered_in_one_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", "nothing:model", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


PRUNE = ["prune", "trained:trained_cnn", "--samples", "128", "--threads", "1", "--quiet"]


@pytest.mark.long
def test_a_model_is_pruned_saved_and_logged(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSEI_BOOTSTRAP", "200")
    words = ["--params", "0.9", "--max-drop", "0.2", "--kinds", "channels", "--only", "blocks.2"]
    assert main([*PRUNE, *words, "--out", "small", "--log", "log", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["accepted"] is not None
    assert json.loads(Path("small/prune.json").read_text()) == record
    assert Path("small/prune.html").read_text().startswith("<!DOCTYPE html>")
    after = sum(parameter.numel() for parameter in zsei.load("small").parameters())
    assert after <= 0.9 * record["parameters"]
    assert main(["log", "log", "--json"]) == 0
    steps = json.loads(capsys.readouterr().out)["steps"]
    assert [step["parameters"] for step in steps] == [record["parameters"], after]
    assert steps[1]["verdict"] == "accepted"
    assert main(["rollback", "log", "--to", "0", "--out", "back"]) == 0
    back = sum(parameter.numel() for parameter in zsei.load("back").parameters())
    assert back == record["parameters"]


def test_a_dry_run_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRUNE, "--flops", "0.9", "--dry-run", "--out", "small"]) == 0
    assert "nothing is cut" in capsys.readouterr().out
    assert not Path("small").exists()


def test_a_size_out_of_reach_ends_with_three_and_the_reason(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSEI_MIN_CHANNELS", "28")
    assert main([*PRUNE, "--params", "0.2", "--dry-run", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["reached"] is False
    assert "min_channels = 28" in err
    assert err.count("\n") == 1


def test_an_unknown_component_is_a_slip(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PRUNE, "--params", "0.9", "--keep", "blocks.9"]) == 2
    assert "blocks.2" in capsys.readouterr().err
