"""`zsei contracts`: schemas on the terminal and in files."""

import json
from pathlib import Path

import pytest

from zsei.cli import main
from zsei.service.schemas import PUBLISHED, schema_of


def test_all_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(PUBLISHED)


def test_one_is_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "StructuralAnalysisRequest"]) == 0
    assert json.loads(capsys.readouterr().out) == schema_of("StructuralAnalysisRequest")


def test_all_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "--out", str(tmp_path / "new")]) == 0
    written = {p.name: json.loads(p.read_text()) for p in (tmp_path / "new").iterdir()}
    assert written == {f"{name}.schema.json": schema_of(name) for name in PUBLISHED}
    assert len(capsys.readouterr().out.splitlines()) == len(PUBLISHED)


def test_what_is_none_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["contracts", "Request", "--out", str(tmp_path / "new")]) == 2
    assert "'Request' is none of them" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").write_text("")
    assert main(["contracts", "--out", str(tmp_path / "file")]) == 1
    assert "cannot be written" in capsys.readouterr().err
