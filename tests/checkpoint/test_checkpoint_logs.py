"""The log of a run: whole lines, bounded size, never in anybody's way."""

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zsei.checkpoint.logs import LONGEST, Event, before, log_event, read_log, told


def test_a_line_is_one_object_with_what_happened(tmp_path: Path) -> None:
    event = Event(event="skipped", run="gpt", epoch=31, why="A newer one is there.")
    assert log_event(tmp_path / "log.jsonl", event)
    line = (tmp_path / "log.jsonl").read_text()
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert json.loads(line) == event.model_dump(mode="json")
    assert list(read_log(tmp_path / "log.jsonl")) == [event]


def test_what_is_no_number_is_null_and_what_is_long_is_cut(tmp_path: Path) -> None:
    event = Event(
        event="analysed", why="x" * 100_000, numbers={"loss": math.nan, "top": math.inf, "n": 3}
    )
    assert event.numbers == {"loss": None, "top": None, "n": 3}
    assert len(event.why) == LONGEST
    assert log_event(tmp_path / "log.jsonl", event)


def test_a_line_for_the_terminal_is_one_line() -> None:
    event = Event(event="analysed", epoch=3, why="two\nlines \x1b[31m", numbers={"seconds": 1.25})
    assert told(event) == "epoch 3: analysed - two lines \\u001b[31m (seconds 1.25)"
    assert told(Event(event="started")) == "started"


WRITER = """
import sys
from pathlib import Path
from zsei.checkpoint.logs import Event, log_event
name, path = sys.argv[1], Path(sys.argv[2])
for n in range(300):
    assert log_event(path, Event(event=name, epoch=n + 1, why=name * 40), limit=int(sys.argv[3]))
"""


@pytest.mark.parametrize("limit", [pytest.param(10**9, marks=pytest.mark.long), 60_000])
def test_several_processes_write_whole_lines(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "log.jsonl"
    words = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*words, name, str(path), str(limit)]) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [0, 0]
    lines = [*before(path).read_text().splitlines()] if before(path).exists() else []
    lines += path.read_text().splitlines()
    events = [Event.model_validate_json(line) for line in lines]  # every line is whole
    assert list(read_log(path)) == events
    for name in "ab":
        epochs = [event.epoch for event in events if event.event == name]
        assert epochs == list(range(301 - len(epochs), 301))  # in order, none lost but the oldest
    if limit == 10**9:
        assert len(events) == 600
    else:
        assert 0 < path.stat().st_size <= limit
        assert before(path).stat().st_size <= limit + 1000  # a line that was on its way


def test_half_a_line_on_a_full_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    log_event(path, Event(event="first"))
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    assert not log_event(path, Event(event="second"))
    monkeypatch.undo()
    log_event(path, Event(event="third"))
    assert [event.event for event in read_log(path)] == ["first", "third"]


def test_nothing_that_goes_wrong_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "file").write_text("")
    assert not log_event(tmp_path / "file" / "log.jsonl", Event(event="x"))
    monkeypatch.setattr(os, "write", full)
    assert not log_event(tmp_path / "log.jsonl", Event(event="x"))
    assert list(read_log(tmp_path / "nowhere")) == []
