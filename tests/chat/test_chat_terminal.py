"""`zsei chat` as somebody at a terminal meets it, and as a program behind a pipe does."""

import io
import json
import os
import signal
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from chat.chat_subjects import copied
from chat.slow_factory import WAIT

from zsei.chat.records import Exchange
from zsei.cli import main
from zsei.memory import Memory
from zsei.records import AnalysisRecord
from zsei.report.text import number

TESTS = Path(__file__).parent.parent
PROMPT, CONFIRM = "zsei> ", r"Run it\? \[y/N\] "


@pytest.fixture
def stored(home: Path) -> AnalysisRecord:
    """An analysis in memory whose model comes from a factory that can wait."""
    _, record = copied(home)
    source = record.provenance.model_copy(update={"model": "chat.slow_factory:encoder"})
    changed = record.model_copy(update={"id": "r-51deadbeef00", "provenance": source})
    Memory(home).add(changed)
    return changed


def environment(home: Path, **more: str) -> dict[str, str]:
    paths = [str(TESTS), str(TESTS.parent)]
    return {
        **os.environ, "ZSEI_HOME": str(home), "PYTHONPATH": os.pathsep.join(paths),
        "ZSEI_EMBEDDER": str(home / "no-embedder"), "TERM": "dumb", **more,
    }  # fmt: skip


@pytest.fixture
def terminal(home: Path, tmp_path: Path, stored: AnalysisRecord) -> Iterator[pexpect.spawn]:
    """A conversation about that analysis, in a terminal of 40 lines by 200 columns."""
    child = pexpect.spawn(
        sys.executable, ["-m", "zsei", "chat", stored.id], timeout=120, encoding="utf-8",
        dimensions=(40, 200), cwd=str(tmp_path),
        env=environment(home, **{WAIT: str(tmp_path / "wait")}),
    )  # fmt: skip
    yield child
    child.close(force=True)


@pytest.mark.long
def test_a_conversation_at_a_terminal(
    terminal: pexpect.spawn, home: Path, tmp_path: Path, stored: AnalysisRecord
) -> None:
    terminal.expect(PROMPT)
    terminal.sendline("how many heads are there?")
    terminal.expect("8 heads in analysis r-51deadbeef00")
    terminal.expect(PROMPT)
    terminal.sendintr()  # at the prompt it leaves the line, not the conversation
    terminal.expect(PROMPT)

    terminal.sendline("ablate head 1 of layer 0")
    terminal.expect("forward passes of 6 samples")
    terminal.expect(CONFIRM)
    terminal.sendline("n")
    terminal.expect("Left out.")
    terminal.expect(PROMPT)

    (tmp_path / "wait").touch()
    terminal.sendline("ablate head 1 of layer 0")
    terminal.expect(CONFIRM)
    terminal.sendline("y")
    terminal.expect("the factory waits")
    terminal.sendintr()  # a running action stops, the conversation stays
    terminal.expect("Stopped; what was not finished is not kept.")
    terminal.expect(PROMPT)
    (tmp_path / "wait").unlink()

    terminal.sendline("ablate head 1 of layer 0")
    terminal.expect(CONFIRM)
    terminal.sendline("y")
    effect = stored.measured("encoder.layers.0/head.1", "ablation_effect")
    assert effect is not None
    terminal.expect_exact("Ran: ablate encoder.layers.0/head.1 (mean)")
    terminal.expect_exact(
        f"ablation_effect of encoder.layers.0/head.1: {number(effect.value)} relative L2"
    )
    terminal.expect(PROMPT)
    terminal.sendline("actions")
    terminal.expect("2 of 20 actions")
    terminal.expect(PROMPT)
    terminal.sendline("quit")
    terminal.expect("Bye.")
    terminal.expect(pexpect.EOF)
    terminal.wait()
    assert terminal.exitstatus == 0

    (transcript,) = (home / "chat").iterdir()
    assert stat.S_IMODE(transcript.stat().st_mode) == 0o600
    turns = [Exchange.model_validate_json(line) for line in transcript.read_text().splitlines()]
    assert [turn.line for turn in turns][:3] == [
        "how many heads are there?", "ablate head 1 of layer 0", "n",
    ]  # fmt: skip
    (ran,) = [event.ran for turn in turns for event in turn.events if event.ran]
    assert effect in [row.measurement for row in ran.rows]


def test_a_conversation_through_a_pipe(
    home: Path, stored: AnalysisRecord, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    lines = (
        "how many heads are there?",
        "ablate head 1 of layer 0 \x1b[31m\u202e",
        "gate p-0000",
        "compare layers 0 and 1",
        "\udcff not text",
    )
    given = io.BytesIO("\n".join(lines).encode(errors="surrogateescape"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given))
    monkeypatch.setenv("ZSEI_EMBEDDER", str(home / "no-embedder"))
    before = signal.getsignal(signal.SIGINT)
    assert main(["chat", "--yes", "--json", "--actions", "1", "--no-transcript"]) == 0
    assert signal.getsignal(signal.SIGINT) is before
    out = capsys.readouterr().out
    turns = [json.loads(line) for line in out.splitlines()]
    kinds = [[event["kind"] for event in turn["events"]] for turn in turns]
    assert kinds == [
        ["answer"], ["offer", "result"], ["refusal"], ["answer", "refusal"], ["answer"],
    ]  # fmt: skip
    rows = turns[1]["events"][1]["ran"]["rows"]
    effect = stored.measured("encoder.layers.0/head.1", "ablation_effect")
    assert effect is not None
    assert rows[0]["measurement"] == effect.model_dump(mode="json")
    assert "may spend 1 actions" in turns[3]["events"][1]["text"]
    assert not (home / "chat").exists()
    assert "zsei>" not in out


def test_what_is_said_at_the_end_of_a_pipe_is_text(
    home: Path, stored: AnalysisRecord, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Without --yes nothing runs; a transcript that cannot be written ends nothing."""
    (home / "chat").write_text("in the way")
    monkeypatch.setattr(sys, "stdin", io.StringIO("ablate layer 1\nhow many heads?\nquit\nruns\n"))
    monkeypatch.setenv("ZSEI_EMBEDDER", str(home / "no-embedder"))
    assert main(["chat", stored.id]) == 0
    said = capsys.readouterr()
    assert "An action must be confirmed" in said.out
    assert "8 heads" in said.out
    assert said.out.rstrip().endswith("Bye.")
    assert said.err.count("The transcript must be writable") == 1
    assert main(["chat", "r-nowhere"]) == 2
