"""How the command line starts: fast, light, and helpful."""

import os
import subprocess
import sys

import pytest

from zsei import __version__
from zsei.cli import main

COMMANDS = ("analyze", "ask", "list", "show", "explain", "apply", "breaker", "doctor")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "zsei", *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )


def test_help_names_every_command_and_exit_code() -> None:
    ended = run("--help")
    assert ended.returncode == 0
    assert ended.stderr == ""
    for word in (*COMMANDS, "Exit codes", "130"):
        assert word in ended.stdout


def test_help_takes_less_than_four_tenths_of_a_second() -> None:
    """Processor time, the least of three: what a busy machine adds is not ours."""

    def cost() -> float:
        before = os.times()
        run("--help")
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])  # user and system time of children

    assert min(cost() for _ in range(3)) < 0.4


def test_the_module_and_the_script_are_one_program() -> None:
    ended = run("--version")
    assert (ended.returncode, ended.stdout) == (0, f"zsei {__version__}\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "Usage: zsei" in capsys.readouterr().out


def test_no_command_shows_the_help_and_is_a_usage_error() -> None:
    ended = run()
    assert ended.returncode == 2
    assert "analyze" in ended.stdout


def test_no_color_is_honoured() -> None:
    colours = ("\x1b[1;3", "\x1b[3")
    assert any(code in run("--help", FORCE_COLOR="1", NO_COLOR="").stdout for code in colours)
    assert not any(code in run("--help", FORCE_COLOR="1", NO_COLOR="1").stdout for code in colours)


def test_a_reader_that_leaves_is_no_error_worth_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "zsei", "--help"]
        ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")
