"""`zsei profile`: options, exit codes, what is written where."""

import json
from pathlib import Path

import pytest
import torch

from zsei.cli import main
from zsei.profiling.record import ProfileRecord

PROFILE = ["profile", "profile_model:small", "--batch", "4", "--threads", "1", "--quiet"]

MODEL = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    return model, {"input": torch.randn(8, 6)}
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZSEI_HOME", str(tmp_path / "home"))
    monkeypatch.syspath_prepend(tmp_path)
    Path("profile_model.py").write_text(MODEL, encoding="utf-8")
    # Known ceilings are read and not measured.
    from zsei.timing.ceilings import FILE, Ceilings
    from zsei.timing.device import processor

    known = Ceilings(
        device=processor(), torch=torch.__version__, threads=1, peak={"float32": 1e10},
        bandwidth=1e9,
    )  # fmt: skip
    Path("home").mkdir()
    kept = {"schema_version": 1, "ceilings": [known.model_dump(mode="json")]}
    (Path("home") / FILE).write_text(json.dumps(kept), encoding="utf-8")


def test_a_profile_is_written_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PROFILE, "--out", "found", "--json"]) == 0
    record = ProfileRecord.model_validate_json(capsys.readouterr().out)
    assert ProfileRecord.model_validate_json(Path("found/profile.json").read_text()) == record
    assert {path.name for path in Path("found").iterdir()} == {
        "profile.json", "profile.html", "trace.json",
    }  # fmt: skip
    assert record.batch_size == 4
    assert record.roof.peak == 1e10
    assert record.command == "zsei profile profile_model:small --batch 4 --threads 1"
    events = json.loads(Path("found/trace.json").read_text())["traceEvents"]
    assert sum(event["ph"] == "X" and event["tid"] == 1 for event in events) == len(record.calls)

    # A folder that holds something is refused, and stays as it was.
    before = Path("found/profile.json").read_bytes()
    assert main([*PROFILE, "--out", "found"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--out must be new or empty, but found holds files" in err
    assert Path("found/profile.json").read_bytes() == before


def test_tables_show_hot_spots_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PROFILE, "--no-growth", "--top", "1"]) == 0
    out, _ = capsys.readouterr()
    titles = ("By kind", "Hot spots", "Slowest calls", "Memory")
    assert [line for line in out.splitlines() if line in (*titles, "Growth")] == list(titles)
    assert "more calls; --top shows them." in out
    assert max(len(line) for line in out.splitlines()) <= 100


WRONG = {
    "a device that is none": (["--device", "tpu"], 1, "A device is cpu, cuda or cuda:N"),
    "a card beyond those there are": (["--device", "cuda:99"], 1, "'cuda:99' was asked for"),
    "no samples": (["--batch", "0"], 2, "'batch_size'"),
    "data that is not there": (["--data", "missing.npz"], 2, "missing.npz"),
    "no rows": (["--top", "0"], 2, "--top"),
}


@pytest.mark.parametrize(("words", "code", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_answered_before_anything_is_loaded(
    words: list[str], code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["profile", "nothing:model", *words, "--out", "new"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert not Path("new").exists()


def test_a_batch_that_the_data_cannot_fill_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*PROFILE, "--batch", "64", "--out", "new"]) == 1
    assert "A batch of 64 needs 128 different samples" in capsys.readouterr().err
    assert not Path("new").exists()


def test_data_that_do_not_fit_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    import numpy as np

    np.savez("other.npz", input=np.zeros((8, 5), dtype=np.float32) + np.arange(8)[:, None])
    assert main([*PROFILE, "--data", "other.npz"]) == 1
    assert "The model's forward must run on the data" in capsys.readouterr().err
