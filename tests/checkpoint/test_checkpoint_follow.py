"""The analysis beside a run: which requests it answers, what it hears, when it leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from zsei.checkpoint.config import CheckpointConfig, RunConfig
from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    CheckpointMetadata,
    PrunedArchitecture,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.follow import Follower, follow
from zsei.checkpoint.heartbeat import Pulse, read_heartbeat
from zsei.checkpoint.job import Job
from zsei.checkpoint.logs import read_log
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.errors import DataError, OutputError


def request(epoch: int, *, name: str = "r") -> StructuralAnalysisRequest:
    return StructuralAnalysisRequest(
        request_id=f"{name}{epoch}",
        idempotency_key=f"{epoch}:a:{name}{epoch}",
        checkpoint=CheckpointMetadata(
            run="gpt", epoch=epoch, weights=f"snapshots/{epoch:06d}.safetensors"
        ),
        architecture=PrunedArchitecture(model_class="M", parameters=9, original_parameters=9),
    )


def decision(asked: StructuralAnalysisRequest) -> StructuralPruningDecision:
    epoch = asked.checkpoint.epoch
    return StructuralPruningDecision(
        decision_id=f"d-{epoch}",
        idempotency_key=f"{epoch}:m:d-{epoch}:conservative",
        request_id=asked.request_id,
        run="gpt",
        epoch=epoch,
        safety=SafetyValidation(phase="preparation"),
        rejection_reason="Preparation only looks.",
    )


def done(epoch: int, key: str = "k") -> ApplicationReport:
    return ApplicationReport(
        decision_id=f"d-{epoch}", idempotency_key=f"{key}{epoch}", run="gpt", epoch=epoch,
        outcome="applied", reason="It was approved.", parameters=8,
    )  # fmt: skip


@dataclass(frozen=True)
class Said:
    decision: StructuralPruningDecision
    report: AnalysisReport
    record: None = None


@dataclass
class Analyst:
    """Answers at once, and remembers what it was told, in order."""

    told: list[object] = field(default_factory=list)
    during: Callable[[int], None] = lambda epoch: None

    def answer(self, request: StructuralAnalysisRequest, snapshot: Snapshot) -> Said:
        epoch = request.checkpoint.epoch
        self.told.append(snapshot)
        self.during(epoch)
        return Said(
            decision(request),
            AnalysisReport(
                request_id=request.request_id, idempotency_key=request.idempotency_key, run="gpt",
                epoch=epoch, depth="full", confidence=1.0,
            ),
        )  # fmt: skip

    def heard(self, report: ApplicationReport) -> None:
        self.told.append(report)

    @property
    def epochs(self) -> list[int]:
        return [told.epoch for told in self.told if isinstance(told, Snapshot)]


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(path=tmp_path / "run")


def follower(folder: RunFolder, analyst: Analyst, *, every: int = 5) -> Follower:
    config = CheckpointConfig(run=RunConfig(decide_every=every))
    job = Job(run="gpt", model="m", data=None, config=config)
    return Follower(folder=folder, job=job, analyst=analyst, pulse=Pulse(folder=folder))


def ask(folder: RunFolder, epoch: int, *, name: str = "r", weights: bool = True) -> None:
    """As training does: weights first. Each is a moment younger than the one before."""
    if weights:
        folder.snapshot(epoch).parent.mkdir(parents=True, exist_ok=True)
        folder.snapshot(epoch).write_bytes(b"weights")
    path = folder.send("requests", epoch, request(epoch, name=name))
    ask.clock += 10**9  # type: ignore[attr-defined]
    os.utime(path, ns=(ask.clock, ask.clock))  # type: ignore[attr-defined]


ask.clock = 10**18  # type: ignore[attr-defined]


def test_the_newest_is_answered_and_older_ones_are_skipped(folder: RunFolder) -> None:
    analyst = Analyst()
    follows = follower(folder, analyst)
    for epoch in (1, 2, 3):
        ask(folder, epoch)
    assert follows.step()
    assert not follows.step()
    assert analyst.epochs == [3]
    assert folder.epochs("decisions") == folder.epochs("reports") == [3]
    skipped = [event.epoch for event in read_log(folder.log) if event.event == "skipped"]
    assert skipped == [1, 2]
    beat = read_heartbeat(folder)
    assert beat is not None
    assert (beat.pid, beat.state, beat.epoch) == (os.getpid(), "idle", 3)
    assert (beat.answered, beat.skipped, beat.failed) == (1, 2, 0)


def test_an_epoch_that_decides_is_not_skipped(folder: RunFolder) -> None:
    analyst = Analyst()
    follows = follower(folder, analyst)
    for epoch in (3, 5, 6, 7):
        ask(folder, epoch)
    while follows.step():
        pass
    assert analyst.epochs == [5, 7]


def test_an_epoch_that_decides_is_skipped_once_its_weights_are_gone(folder: RunFolder) -> None:
    analyst = Analyst()
    follows = follower(folder, analyst)
    ask(folder, 5, weights=False)
    ask(folder, 6)
    while follows.step():
        pass
    assert analyst.epochs == [6]


def test_a_run_that_goes_back_is_answered_again(folder: RunFolder) -> None:
    """It was started again from epoch 3, so epochs it has had come again, from a new request."""
    analyst = Analyst()
    follows = follower(folder, analyst)
    for epoch in (3, 4):
        ask(folder, epoch)
        follows.step()
    ask(folder, 3, name="again")
    follows.step()
    assert analyst.epochs == [3, 4, 3]
    answer = folder.read("decisions", 3, StructuralPruningDecision)
    assert answer is not None
    assert answer.request_id == "again3"


def test_after_a_restart_it_goes_on_where_it_was(folder: RunFolder) -> None:
    for epoch in (1, 2):
        ask(folder, epoch)
    folder.send("applied", 1, done(1))
    assert follower(folder, Analyst()).step()
    ask(folder, 3)
    later = Analyst()
    follows = follower(folder, later)
    assert follows.step()
    assert not follows.step()
    assert [type(told) for told in later.told] == [Snapshot]  # what was heard is not heard again
    assert later.epochs == [3]


def test_what_was_done_is_heard_once_in_order_and_before_the_next_answer(
    folder: RunFolder,
) -> None:
    analyst = Analyst()
    follows = follower(folder, analyst)
    for moment, epoch in enumerate((7, 2)):  # written in this order
        path = folder.send("applied", epoch, done(epoch))
        os.utime(path, ns=(10**18 + moment, 10**18 + moment))
    ask(folder, 8)
    follows.step()
    follows.step()
    heard = [told.epoch for told in analyst.told if isinstance(told, ApplicationReport)]
    assert heard == [7, 2]
    assert isinstance(analyst.told[-1], Snapshot)
    folder.send("applied", 2, done(2, "rolled back "))  # another report of the same epoch
    follows.step()
    assert analyst.told[-1] == done(2, "rolled back ")
    events = [event.event for event in read_log(folder.log)]
    assert events.count("applied") == 3


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"request_id": "r9", "version": "2.0"}, "version"),
        ({"unknown": 1}, "unknown"),
        ({"checkpoint": {"run": "gpt", "epoch": 4, "weights": "x"}}, "about epoch 4"),
        ({"checkpoint": {"run": "gpt", "epoch": 9, "weights": "../../x"}}, "inside"),
        (None, "must be a StructuralAnalysisRequest"),
    ],
)  # fmt: skip
def test_a_request_that_is_none_is_refused_with_the_reason(
    folder: RunFolder, changed: dict[str, object] | None, says: str
) -> None:
    analyst = Analyst()
    follows = follower(folder, analyst)
    body = json.loads(request(9).model_dump_json()) | (changed or {})
    path = folder.send("requests", 9, request(9))
    path.write_text(json.dumps(body) if changed is not None else "{ half a")
    assert follows.step()
    assert not follows.step()  # and once
    answer = folder.read("decisions", 9, StructuralPruningDecision)
    assert answer is not None
    assert not answer.approved_for_application
    assert answer.depth == "none"
    assert says in answer.rejection_reason
    assert answer.request_id == ("r9" if changed is not None else "unknown")
    assert analyst.epochs == []
    beat = read_heartbeat(folder)
    assert beat is not None
    assert beat.failed == 1


@pytest.mark.parametrize("error", [DataError("NaN in w."), RuntimeError("odd"), MemoryError()])
def test_an_analysis_that_fails_is_answered_and_the_next_one_is_done(
    folder: RunFolder, error: Exception
) -> None:
    def fail(epoch: int) -> None:
        if epoch == 1:
            raise error

    analyst = Analyst(during=fail)
    follows = follower(folder, analyst)
    for epoch in (1, 2):
        ask(folder, epoch)
        follows.step()
    first = folder.read("decisions", 1, StructuralPruningDecision)
    assert first is not None
    assert str(error) in first.rejection_reason
    assert folder.epochs("decisions") == [1, 2]
    assert folder.epochs("reports") == [2]


def test_an_answer_that_finds_no_room_is_sent_later(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyst = Analyst()
    follows = follower(folder, analyst)
    ask(folder, 1)

    def full(*_: object) -> Path:
        raise OutputError("No space left on device.")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "send", full)
        follows.step()
        follows.step()
    assert folder.epochs("decisions") == []
    follows.step()
    assert folder.epochs("decisions") == folder.epochs("reports") == [1]
    assert analyst.epochs == [1]
    assert [e.event for e in read_log(folder.log) if e.level == "error"] == ["unsent", "unsent"]


def test_the_end_lets_what_waits_be_answered(folder: RunFolder) -> None:
    analyst = Analyst()
    follows = follower(folder, analyst, every=1)
    for epoch in (1, 2, 3):
        ask(folder, epoch)
    folder.end.write_text("")
    follow(follows)
    assert analyst.epochs == [3]


@pytest.mark.parametrize("over", [False, True], ids=["in the middle", "after the end"])
def test_the_end_of_the_process_it_serves_is_noticed(
    folder: RunFolder, over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    monkeypatch.setattr("zsei.checkpoint.heartbeat.SECONDS", 0.01)
    served = subprocess.Popen([sys.executable, "-c", ""])
    served.wait()
    try:
        if over:
            folder.path.mkdir(parents=True)
            folder.end.write_text("")
        with Pulse(folder=folder, parent=served.pid):
            first = read_heartbeat(folder)
            for _ in range(10 if over else 1000):
                time.sleep(0.01)
                if told:
                    break
            assert bool(told) is not over
            assert first != read_heartbeat(folder)  # it beats all the time
    finally:
        signal.signal(signal.SIGTERM, before)


CHILD = """
import os, sys, time
from pathlib import Path
from zsei.checkpoint.heartbeat import Pulse
from zsei.checkpoint.run_folder import RunFolder
import signal
signal.signal(signal.SIGTERM, signal.default_int_handler)
folder = RunFolder(path=Path(sys.argv[1]))
try:
    with Pulse(folder=folder, parent=int(sys.argv[2])):
        for _ in range(600):
            time.sleep(0.1)
            if (folder.path / "enough").exists():
                (folder.path / "stayed").write_text("")
                break
except KeyboardInterrupt:
    (folder.path / "left").write_text("")
"""


@pytest.mark.long
@pytest.mark.parametrize("over", [False, True], ids=["in the middle", "after the end"])
def test_it_leaves_with_the_process_it_serves(folder: RunFolder, over: bool) -> None:
    served = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder.path), str(served.pid)])
    while read_heartbeat(folder) is None:
        assert child.poll() is None
        time.sleep(0.02)
    if over:
        folder.end.write_text("")
    served.communicate(b"\n")
    if over:
        time.sleep(1.3)  # longer than it takes to look
        (folder.path / "enough").write_text("")
    assert child.wait(timeout=30) == 0
    assert (folder.path / ("stayed" if over else "left")).exists()
    beat = read_heartbeat(folder)
    assert beat is not None
    assert (beat.state, beat.pid) == ("gone", child.pid)


@pytest.mark.long
def test_the_child_answers_a_real_run_and_leaves_at_its_end(folder: RunFolder) -> None:
    import cloudpickle
    from factories import tiny_mlp
    from safetensors.torch import save_file

    model, data = tiny_mlp()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    job = Job(run="gpt", model=model, data=data)
    words = [
        sys.executable,
        "-m",
        "zsei.checkpoint.follow",
        str(folder.path),
        "--workers",
        "1",
        "--priority",
        "normal",
    ]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.write(cloudpickle.dumps(job))
        child.stdin.close()
        for epoch in (1, 2):
            folder.snapshot(epoch).parent.mkdir(parents=True, exist_ok=True)
            save_file(model.state_dict(), folder.snapshot(epoch))
            asked = request(epoch)
            shape = asked.architecture.model_copy(
                update={"parameters": parameters, "original_parameters": parameters}
            )
            folder.send("requests", epoch, asked.model_copy(update={"architecture": shape}))
        folder.end.write_text("")
        assert child.wait(timeout=300) == 0
    report = folder.read("reports", 2, AnalysisReport)
    assert report is not None
    assert report.depth == "full"
    assert folder.read("decisions", 2, StructuralPruningDecision) is not None
    events = [event.event for event in read_log(folder.log)]
    assert events[0] == "started"
    assert events[-1] == "ended"
    beat = read_heartbeat(folder)
    assert beat is not None
    assert (beat.state, beat.epoch) == ("gone", 2)


@pytest.mark.long
@pytest.mark.parametrize("job", [b"no job", b""])
def test_a_child_that_gets_no_job_says_so(folder: RunFolder, job: bytes) -> None:
    words = [
        sys.executable,
        "-m",
        "zsei.checkpoint.follow",
        str(folder.path),
        "--priority",
        "normal",
    ]
    ended = subprocess.run(words, input=job, capture_output=True, timeout=60)
    assert ended.returncode == 1
    assert [event.event for event in read_log(folder.log)] == ["stopped"]
    assert b"zsei: " in ended.stderr
