"""`zsei speed`: options, exit codes, what is written where."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_cli_speed import race_with
from torch import Tensor, nn

import zsei
from zsei.cli import main
from zsei.cli.speed import _command
from zsei.speed import speed_up as module
from zsei.speed.record import SpeedRecord

WRONG = {
    "an unknown device": (["--device", "tpu"], 1, "'tpu'"),
    "a card that is not there": (["--device", "cuda:99"], 1, "cuda:99"),
    "an unknown speed-up": (["--only", "warp"], 2, "'?warp'? is none of them"),
    "all of them left out": (["--only", "threads", "--without", "threads"], 2, "leave none"),
    "no divergence at all": (["--max-divergence", "0"], 2, "max_divergence"),
    "too few samples": (["--samples", "1"], 2, "'samples'"),
    "data that is not there": (["--data", "missing.npz"], 2, "missing.npz"),
    "memory without training": (["--save-memory"], 2, "--train"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("words", "code", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_answered_in_one_sentence(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["speed", "nothing:model", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(says, err)
    assert err.count("\n") == 1


def test_a_file_in_the_place_of_the_folder_is_refused_before_anything_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("mine")
    assert main(["speed", "nothing:model", "--out", "taken"]) == 2
    assert "taken" in capsys.readouterr().err
    assert (tmp_path / "taken").read_text() == "mine"


def test_the_command_of_a_record_names_all_that_was_asked() -> None:
    assert _command("demo:minilm", None, objective="auto", device="cpu", train=False) == (
        "zsei speed demo:minilm"
    )
    assert _command(
        "a model", ["x=y.csv"], device="cuda:1", only=["int8", "compile"], max_divergence=0.01,
        train=True,
    ) == (
        "zsei speed 'a model' --data x=y.csv --device cuda:1 --only int8 --only compile "
        "--max-divergence 0.01 --train"
    )  # fmt: skip


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.down = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(x)


def planted(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """The command measures a tiny model by a clock on which inference mode has this factor."""
    usual = module.speed_up
    data = torch.randn(64, 6, generator=torch.Generator().manual_seed(2))

    def stand_in(model: str, groups: Any, **options: Any) -> SpeedRecord:
        assert model == "small"
        assert groups is None
        return usual(Small(), data, **{**options, "race": race_with(factor)})

    monkeypatch.setattr(module, "speed_up", stand_in)


def test_what_is_accepted_is_saved_and_loads(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(monkeypatch, 0.5)
    words = ["speed", "small", "--only", "inference-mode", "--quiet"]
    assert main([*words, "--out", "fast", "--json"]) == 0
    record = SpeedRecord.model_validate(json.loads(capsys.readouterr().out))
    assert record.command == "zsei speed small --only inference-mode"
    assert {p.name for p in Path("fast").iterdir()} == {
        "speed.json",
        "speed-record.json",
        "speed.html",
    }
    model, x = Small().eval(), torch.randn(3, 6)
    assert torch.equal(zsei.load(model, speed="fast/speed.json")(x), model(x))


def test_nothing_accepted_ends_with_three_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(monkeypatch, 2.0)
    assert main(["speed", "small", "--only", "inference-mode", "--quiet", "--out", "slow"]) == 3
    out, err = capsys.readouterr()
    assert "rejected" in out
    assert "Nothing was accepted of the 1 speed-ups tried" in err
    assert not Path("slow/speed.json").exists()
    assert Path("slow/speed.html").exists()


def test_a_failed_measurement_leaves_the_folder_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any, **__: Any) -> SpeedRecord:
        raise zsei.ZseiError("The disk of this test is gone.")

    monkeypatch.setattr(module, "speed_up", broken)
    Path("kept").mkdir()
    Path("kept/notes.txt").write_text("mine")
    assert main(["speed", "small", "--out", "kept"]) == 1
    assert [p.name for p in Path("kept").iterdir()] == ["notes.txt"]
    assert "The disk of this test is gone." in capsys.readouterr().err
