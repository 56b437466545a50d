"""`zsei claims`: options, exit codes, what is written where."""

import json
from pathlib import Path

import pytest
from claims.claims_records import outcome, record

from zsei.cli import main

FILE = """
title: Promises
model: promised:net
workload: {batch: 8, samples: 32, threads: 1}
claims:
  - {id: one, kind: difference, steps: [{speedup: inference-mode}], at_most: 1e-5,
     quote: differences under 1e-5}
  - {id: two, kind: latency, at_most: 10}
"""
SCRIPT = """
import torch
from torch import nn


def net():
    return nn.Linear(6, 4), {"input": torch.randn(48, 6)}
"""
WRONG = {
    "no file": (["missing.yaml"], "'missing.yaml'"),
    "a folder for a file": (["."], "text file"),
    "too few rounds": (["claims.yaml", "--rounds", "3"], "--rounds"),
    "no threads": (["claims.yaml", "--threads", "0"], "--threads"),
    "no such claim": (["claims.yaml", "--only", "three"], "it has one, two"),
    "a file for a folder": (["claims.yaml", "--out", "claims.yaml"], "--out must name a folder"),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    Path("claims.yaml").write_text(FILE)
    Path("promised.py").write_text(SCRIPT)


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_call_is_answered_in_one_sentence(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["claims", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_a_device_that_is_not_here_is_an_error_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["claims", "claims.yaml", "--device", "cuda:99"]) == 1
    assert "cuda:99" in capsys.readouterr().err


def planted(monkeypatch: pytest.MonkeyPatch, one: str, two: str) -> None:
    """A check that gave these verdicts."""
    made = record(outcome(id="one", verdict=one, quote="differences under 1e-5"),
                  outcome(id="two", verdict=two))  # fmt: skip
    monkeypatch.setattr("zsei.claims.check.check_claims", lambda *_, **__: made)


@pytest.mark.parametrize(
    ("one", "two", "code", "strict", "says"),
    [
        ("held", "held", 0, 0, ""),
        ("held", "not held", 3, 3, "1 of 2 claims do not hold: two"),
        ("held", "not decided", 0, 3, "1 not decided"),
        ("not measurable here", "held", 0, 3, "1 not measurable here"),
        ("not decided", "not held", 3, 3, "do not hold: two; 1 not decided"),
    ],
)
def test_the_exit_code_says_whether_all_claims_hold(
    one: str, two: str, code: int, strict: int, says: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    planted(monkeypatch, one, two)
    assert main(["claims", "claims.yaml", "--quiet"]) == code
    out, err = capsys.readouterr()
    assert says in err
    assert bool(err) == bool(says)
    assert "differences under 1e-5" in out
    assert main(["claims", "claims.yaml", "--quiet", "--strict"]) == strict


def test_a_claim_is_measured_printed_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["claims", "claims.yaml", "--only", "one", "--json", "--out", "made", "--quiet"]
    assert main(words) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["outcomes"][0]["verdict"] == "held"
    assert record["outcomes"][0]["value"] == 0
    assert json.loads(Path("made/claims.json").read_text()) == record
    assert Path("made/claims.html").read_text().startswith("<!DOCTYPE html>")
