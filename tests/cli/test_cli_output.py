"""Results on stdout, everything else on stderr; exactly one object with --json."""

import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from cli_samples import install, sample_record

from zsei.cli import main
from zsei.cli.output import progress

NOISY = """
    import os, subprocess, sys, warnings
    sys.path.insert(0, {folder!r})
    import pytest
    from cli_samples import install, sample_record

    def noise():
        print("python")
        os.write(1, b"descriptor\\n")
        subprocess.run(["echo", "child"], check=True)
        warnings.warn("a warning")
        {trouble}

    fake = install(pytest.MonkeyPatch(), sample_record("accepted"))
    fake.during = noise
    from zsei.cli import main
    sys.exit(main(["analyze", *sys.argv[1:]]))
"""


def noisy(trouble: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A process whose pipeline prints in every way there is, then does what `trouble` says."""
    folder = str(Path(__file__).parent)
    program = textwrap.dedent(NOISY).format(folder=folder, trouble=trouble)
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=cwd
    )


@pytest.mark.parametrize("out", [(), ("--out", "report")])
def test_json_is_one_object_however_noisy_the_libraries(
    tmp_path: Path, out: tuple[str, ...]
) -> None:
    ended = noisy("pass", "--json", *out, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["id"] == sample_record().id
    for word in ("python", "descriptor", "child"):
        assert word in ended.stderr
        assert word not in ended.stdout


def test_an_error_with_json_is_one_object_too(tmp_path: Path) -> None:
    ended = noisy("raise RuntimeError('boom')", "--json", cwd=tmp_path)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["error"]["type"] == "RuntimeError"
    assert "boom" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_debug_shows_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSEI_DEBUG", "1")
    ended = noisy("raise RuntimeError('boom')", cwd=tmp_path)
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert ended.stdout == ""


def test_the_record_is_the_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = sample_record("accepted")
    install(monkeypatch, record)
    assert main(["analyze", "--json"]) == 0
    assert type(record).model_validate_json(capsys.readouterr().out) == record


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_shows_stage_and_time_left_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress() as advance:
        assert advance is not None
        advance("gate", 0.5, 65.0, "[3 of 8]")
    for word in ("gate", "50%", "1:05 left", "[3 of 8]"):
        assert word in terminal.getvalue()


def test_progress_is_off_where_nobody_sees_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with progress() as advance:  # under pytest stderr is no terminal
        assert advance is None
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress(quiet=True) as advance:
        assert advance is None
