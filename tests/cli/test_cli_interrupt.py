"""Ctrl-C ends the program at once, with exit code 130, one sentence, and nothing half written."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

WORKING = """
    import sys, time
    sys.path.insert(0, {folder!r})
    import pytest
    from cli_samples import install, sample_record
    import zsei.report.text  # an import after the interrupt could undo what `exec` does to it

    def swallow():
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            raise RuntimeError("a compiler failed")

    def work():
        if fake.calls[-1].name != {stage!r}:
            return
        print("working", file=sys.stderr, flush=True)
        {work}

    fake = install(pytest.MonkeyPatch(), sample_record("accepted"))
    fake.during = work
    from zsei.cli import main
    sys.argv[1:] = ["analyze", "--out", "report", *sys.argv[1:]]
    sys.exit(main())
"""

WAIT = "time.sleep(60)"
IN_EXEC = "exec('time.sleep(60)')"
SWALLOW = "swallow()"


def interrupted(cwd: Path, *words: str, stage: str, work: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a process that gets Ctrl-C while it works in `stage`."""
    folder = str(Path(__file__).parent)
    program = textwrap.dedent(WORKING).format(folder=folder, stage=stage, work=work)
    (cwd / "program.py").write_text(program)
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "program",
            *words,
        ],  # -m: there `exec` matters
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    ) as process:
        assert process.stderr is not None
        while process.stderr.readline() != "working\n":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    return process.returncode, out, err


@pytest.mark.parametrize(
    ("stage", "work"),
    [("analyze", WAIT), ("save", WAIT), ("analyze", IN_EXEC), ("analyze", SWALLOW)],
    ids=["while analysing", "while writing", "inside exec", "where a library makes it an error"],
)
def test_ctrl_c_is_answered(tmp_path: Path, stage: str, work: str) -> None:
    code, out, err = interrupted(tmp_path, stage=stage, work=work)
    assert (code, out, err) == (130, "", "zsei: Interrupted; nothing was left half written.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["program.py"]


def test_ctrl_c_with_json_is_one_object(tmp_path: Path) -> None:
    code, out, _ = interrupted(tmp_path, "--json", stage="analyze", work=WAIT)
    assert code == 130
    assert json.loads(out)["error"]["type"] == "Interrupted"


@pytest.mark.parametrize("delay", [0.01, 0.15, 0.4, 0.7, 1.0, 1.5])
def test_ctrl_c_while_starting_or_leaving(tmp_path: Path, delay: float) -> None:
    """Wherever the imports stand at that moment; only Python's own start is not ours to answer."""
    begin = "import sys; from zsei.cli import main; print(flush=True); sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", begin, "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert "Traceback" not in err
    assert process.returncode in (130, 0)  # 0: it was done before the signal came
