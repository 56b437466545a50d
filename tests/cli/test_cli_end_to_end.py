"""The real thing, from the command line, on a small model."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import zsei
from zsei.cli import main

TESTS = Path(__file__).parent.parent
DONE = (0, 3)
"""Random weights: the gate may well accept nothing."""


def zsei_process(*words: str, cwd: Path, home: Path) -> subprocess.Popen[str]:
    """A real `zsei` that can import the factories of the tests."""
    return subprocess.Popen(
        [sys.executable, "-m", "zsei", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "ZSEI_HOME": str(home), "PYTHONPATH": str(TESTS)},
    )


@pytest.fixture(scope="module")
def analysed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """A folder with one analysis in `memory` and `report`, and what --json printed of it."""
    folder = tmp_path_factory.mktemp("analysed")
    words = ("analyze", "factories:tiny_mlp", "--llm", "none", "--out", "report", "--json")
    with zsei_process(*words, cwd=folder, home=folder / "memory") as process:
        out, err = process.communicate(timeout=120)
    assert process.returncode in DONE, err
    return folder, json.loads(out)


@pytest.fixture
def in_its_folder(analysed: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> dict:
    folder, record = analysed
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ZSEI_HOME", str(folder / "memory"))
    return record


def test_json_is_the_record(analysed: tuple[Path, dict]) -> None:
    _, record = analysed
    keys = (
        "schema_version id provenance conditions components findings interpretations proposals "
        "verdicts validation failures timings"
    )
    assert set(keys.split()) <= record.keys()
    assert record["components"]
    assert record["findings"]
    for finding in record["findings"]:
        assert {"id", "code", "components", "severity", "evidence", "message"} <= finding.keys()
    assert zsei.AnalysisRecord.model_validate(record).provenance.model == "factories:tiny_mlp"


def test_out_holds_the_four_files(analysed: tuple[Path, dict]) -> None:
    folder, record = analysed
    written = {path.name for path in (folder / "report").iterdir()}
    assert written == {"record.json", "flow.graphml", "flow.json", "report.html"}
    assert json.loads((folder / "report" / "record.json").read_text()) == record
    assert record["id"] in (folder / "report" / "report.html").read_text()


def test_the_analysis_is_remembered(
    in_its_folder: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["id"] == in_its_folder["id"]
    assert main(["show", row["id"], "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == in_its_folder
    assert main(["show", "last"]) == 0
    assert "factories:tiny_mlp" in capsys.readouterr().out


def test_a_question_is_answered_from_it(
    in_its_folder: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "which neurons matter most?", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["voice"] == "rules"
    assert {citation["run"] for citation in answer["citations"]} == {in_its_folder["id"]}


def test_what_was_proposed_can_be_applied_and_loaded(
    in_its_folder: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    proposal = in_its_folder["proposals"][0]["id"]
    words = ["apply", "last", "--strategies", proposal, "--out", "smaller", "--json"]
    assert main(words) == 0
    body = json.loads(capsys.readouterr().out)
    assert body["applied"] == [proposal]
    smaller = zsei.load("smaller")
    size = sum(parameter.numel() for parameter in smaller.parameters())
    assert size == body["parameters"]["after"] < body["parameters"]["before"]
    width = in_its_folder["conditions"]["input_shape"]
    (shape,) = width.values()
    assert torch.isfinite(smaller(torch.zeros(shape))).all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["analyze", "no/such-folder/at-all"], "no/such-folder/at-all"),
        (["analyze", "no_such_module:factory"], "no_such_module"),
        (["analyze", "factories:nothing"], "nothing"),
        (["analyze", "demo:other"], "demo:minilm"),
        (["show", "r-nothing"], "r-nothing"),
        (["apply", "r-nothing", "--out", "x"], "r-nothing"),
        (["apply", "last", "--strategies", "p-nothing", "--out", "x"], "p-nothing"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(
    words: list[str],
    says: str,
    in_its_folder: dict,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(words) in (1, 2)
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert "does not know" not in err
    assert not Path("x").exists()


@pytest.mark.parametrize("delay", [0.5, 2.5, pytest.param(4.0, marks=pytest.mark.long)])
def test_ctrl_c_leaves_the_memory_whole(
    delay: float, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("analyze", "demo:minilm", "--out", "report")
    with zsei_process(*words, cwd=tmp_path, home=home) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert "Traceback" not in err
    assert not [path for path in tmp_path.iterdir() if path != home]
    assert main(["list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"runs": [], "documents": []}
