"""A foreign folder is followed: what is analysed as which epoch, and what is left out, and why."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from zsei.checkpoint.config import CheckpointConfig, RunConfig
from zsei.checkpoint.contracts import (
    AnalysisReport,
    ApplicationReport,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.follow import Answered
from zsei.checkpoint.heartbeat import Pulse
from zsei.checkpoint.job import Job
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import Snapshot
from zsei.checkpoint.watch import Pace, Watch, standing, watch
from zsei.checkpoint.weights.find import Found
from zsei.checkpoint.weights.fit import frame_of, why_not_fit
from zsei.checkpoint.weights.settle import Settling
from zsei.checkpoint.weights.snapshot import read_weights
from zsei.errors import UsageError


class Said:
    """An answer that approves nothing."""

    record = None

    def __init__(self, asked: StructuralAnalysisRequest) -> None:
        epoch, run = asked.checkpoint.epoch, asked.checkpoint.run
        self.decision = StructuralPruningDecision(
            decision_id=f"d-{epoch}", idempotency_key=f"{epoch}:m:d-{epoch}:conservative",
            request_id=asked.request_id, run=run, epoch=epoch, mode=asked.parameters.mode,
            safety=SafetyValidation(phase="preparation"), rejection_reason="Nothing is cut yet.",
        )  # fmt: skip
        self.report = AnalysisReport(
            request_id=asked.request_id, idempotency_key=asked.idempotency_key, run=run,
            epoch=epoch, depth="full", confidence=1.0,
        )  # fmt: skip


@dataclass
class Analyst:
    """Reads each checkpoint as a worker would, and remembers what it saw."""

    requests: list[StructuralAnalysisRequest] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    during: Callable[[int], None] = lambda epoch: None

    def answer(self, request: StructuralAnalysisRequest, snapshot: Snapshot) -> Said:
        self.requests.append(request)
        weights = read_weights(snapshot)
        assert why_not_fit(frame_of(model()), weights) == ""
        self.first.append(float(weights["0.weight"][0, 0]))
        self.during(request.checkpoint.epoch)
        return Said(request)

    def heard(self, report: ApplicationReport) -> None: ...


@dataclass
class Listener:
    """Remembers what it was told."""

    epochs: list[tuple[int, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def answered(
        self, found: Found, decision: StructuralPruningDecision, answer: Answered | None
    ) -> None:
        assert answer is not None
        self.epochs.append((decision.epoch, found.name))

    def skipped(self, found: Found, why: str) -> None:
        self.left_out.append((found.name, why))

    def noted(self, what: str) -> None:
        self.notes.append(what)


def model(width: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1))


def state(value: float, width: int = 3) -> dict[str, torch.Tensor]:
    weights = model(width).state_dict()
    weights["0.weight"].fill_(value)
    return dict(weights)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def write(folder: Path, name: str, value: float = 0.0, width: int = 3) -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(state(value, width), path)
    else:
        torch.save(state(value, width), path)
    write.clock += 10**9  # type: ignore[attr-defined]
    os.utime(path, ns=(write.clock, write.clock))  # type: ignore[attr-defined]
    return path


write.clock = 10**18  # type: ignore[attr-defined]


def watched(folder: Path, **run: Any) -> tuple[Watch, Analyst, Listener]:
    analyst, listener = Analyst(), Listener()
    job = Job(run="toy", model="m", data=None, config=CheckpointConfig(run=RunConfig(**run)))
    one = Watch(
        folder=folder, run=RunFolder(path=folder.parent / "run"), job=job, analyst=analyst,
        frame=frame_of(model()), listener=listener, settling=Settling(patience=0.0),
    )  # fmt: skip
    return one, analyst, listener


def look(one: Watch) -> None:
    with Pulse(folder=one.run) as pulse:
        one.look(pulse)


def test_each_is_analysed_once_in_order(folder: Path) -> None:
    for epoch in (10, 9, 11):
        write(folder, f"epoch_{epoch}.safetensors", float(epoch))
    one, analyst, listener = watched(folder)
    watch(one, Pace(once=True))
    assert [epoch for epoch, _ in listener.epochs] == [9, 10, 11]
    assert analyst.first == [9.0, 10.0, 11.0]
    assert one.run.epochs("decisions") == one.run.epochs("reports") == [9, 10, 11]
    asked = analyst.requests[0]
    assert asked.checkpoint.weights == "epoch_9.safetensors"
    assert asked.architecture.parameters == asked.architecture.original_parameters == 13
    assert asked.architecture.shapes == {n: tuple(t.shape) for n, t in state(0.0).items()}
    again, _, later = watched(folder)
    write(folder, "epoch_12.safetensors")
    watch(again, Pace(once=True))
    assert [epoch for epoch, _ in later.epochs] == [12]
    assert (later.left_out, later.notes) == ([], [])


def test_names_of_trainers_fit(folder: Path) -> None:
    named = {f"model.{name}": value for name, value in state(7.0).items()}
    torch.save({"state_dict": named, "epoch": 0}, folder / "epoch=0-step=9.ckpt")
    one, analyst, listener = watched(folder)
    watch(one, Pace(once=True), sleep=lambda _: None)
    assert listener.epochs == [(1, "epoch=0-step=9.ckpt")]
    assert analyst.first == [7.0]


def test_steps_count_as_epochs_and_go_on_when_old_ones_are_taken_away(folder: Path) -> None:
    for step in (500, 1000):
        write(folder, f"step_{step}.pt")
    one, _, listener = watched(folder)
    look(one)
    (folder / "step_500.pt").unlink()
    write(folder, "step_1500.pt")
    look(one)
    assert listener.epochs == [(1, "step_500.pt"), (2, "step_1000.pt"), (3, "step_1500.pt")]
    assert listener.notes == ["Each checkpoint counts as an epoch, in the order of steps."]
    again, _, later = watched(folder)
    write(folder, "step_2000.pt")
    look(again)
    assert later.epochs == [(4, "step_2000.pt")]


def test_without_numbers_time_counts_and_one_file_may_be_written_again(folder: Path) -> None:
    one, analyst, listener = watched(folder)
    for value in (1.0, 2.0, 3.0):
        write(folder, "model.pt", value)
        look(one)
        look(one)  # a file that has changed is believed at the second look
        look(one)
    assert [epoch for epoch, _ in listener.epochs] == [1, 2, 3]
    assert analyst.first == [1.0, 2.0, 3.0]
    assert "of time" in listener.notes[0]


def test_epochs_from_zero_are_counted_from_one(folder: Path) -> None:
    for epoch in (0, 1):
        write(folder, f"epoch_{epoch}.pt")
    one, _, listener = watched(folder)
    look(one)
    assert [epoch for epoch, _ in listener.epochs] == [1, 2]
    assert "from 0" in listener.notes[0]


def test_an_epoch_that_goes_backwards_is_left_out_with_one_line(folder: Path) -> None:
    write(folder, "epoch_5.pt")
    one, _, listener = watched(folder)
    look(one)
    write(folder, "epoch_3.pt")
    look(one)
    look(one)
    write(folder, "epoch_6.pt")
    look(one)
    assert [epoch for epoch, _ in listener.epochs] == [5, 6]
    ((name, why),) = listener.left_out
    assert name == "epoch_3.pt"
    assert "epoch 3 comes after epoch 5" in why
    assert "--run" in why


def test_a_checkpoint_that_changes_after_its_analysis_is_left_out(folder: Path) -> None:
    write(folder, "epoch_5.pt")
    one, _, listener = watched(folder)
    look(one)
    write(folder, "epoch_5.pt", 1.0)
    look(one)
    look(one)
    look(one)
    assert [why for _, why in listener.left_out] == [
        "it was analysed already and has changed since; a run goes forward."
    ]


def test_another_architecture_is_left_out_and_the_watch_goes_on(folder: Path) -> None:
    write(folder, "epoch_1.safetensors")
    write(folder, "epoch_2.safetensors", width=4)
    save_file({"other": torch.zeros(1)}, folder / "epoch_3.safetensors")
    part = {name: value for name, value in state(0.0).items() if name != "2.bias"}
    save_file(part, folder / "epoch_4.safetensors")
    torch.save({"state_dict": state(0.0), "hyper": Path("x")}, folder / "epoch_5.pt")
    write(folder, "epoch_6.safetensors")
    one, _, listener = watched(folder)
    watch(one, Pace(once=True), sleep=lambda _: None)
    assert [epoch for epoch, _ in listener.epochs] == [1, 6]
    whys = [why for _, why in listener.left_out]
    assert "`0.bias` is [4] in it and [3] in the model" in whys[0]
    assert "`other`, which Sequential has not" in whys[1]
    assert "`2.bias` of Sequential is missing" in whys[2]
    assert "running code" in whys[3]


def test_a_damaged_one_is_named_and_does_not_hold_up_the_rest(folder: Path) -> None:
    path = write(folder, "epoch_1.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    write(folder, "epoch_2.safetensors")
    one, _, listener = watched(folder)
    watch(one, Pace(once=True), sleep=lambda _: None)
    assert [epoch for epoch, _ in listener.epochs] == [2]
    ((name, why),) = listener.left_out
    assert name == "epoch_1.safetensors"
    assert "damaged, or not written to its end" in why


def test_a_later_one_waits_for_one_that_is_being_written(folder: Path) -> None:
    path = write(folder, "epoch_1.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:50])
    write(folder, "epoch_2.safetensors")
    one, _, listener = watched(folder)
    one.settling.patience = 1000.0
    look(one)
    look(one)
    assert listener.epochs == []
    path.write_bytes(whole)
    os.utime(path, ns=(10**18, 10**18))
    look(one)
    look(one)
    assert [epoch for epoch, _ in listener.epochs] == [1, 2]


def test_one_that_is_taken_away_meanwhile_is_left_out(folder: Path) -> None:
    paths = [write(folder, f"epoch_{epoch}.pt") for epoch in (1, 2, 3)]
    one, analyst, listener = watched(folder)
    analyst.during = lambda epoch: paths[1].unlink(missing_ok=True)
    look(one)
    assert [epoch for epoch, _ in listener.epochs] == [1, 3]
    assert listener.left_out == [("epoch_2.pt", "it was taken away before it could be read.")]


def test_decisions_are_about_the_newest(folder: Path) -> None:
    for epoch in (1, 2, 3):
        write(folder, f"epoch_{epoch}.pt")
    one, analyst, listener = watched(folder, mode="remove")
    look(one)
    assert [epoch for epoch, _ in listener.epochs] == [3]
    assert analyst.requests[0].parameters.mode == "remove"
    assert listener.notes == ["2 older checkpoints are left out: decisions are about the newest."]
    assert one.skipped == 2


def test_every_so_many_epochs(folder: Path) -> None:
    for epoch in range(1, 8):
        write(folder, f"epoch_{epoch}.pt")
    one, _, listener = watched(folder, every=3)
    look(one)
    assert [epoch for epoch, _ in listener.epochs] == [1, 3, 6]


def test_what_training_carried_out_is_said_with_the_next_request(folder: Path) -> None:
    write(folder, "epoch_1.pt")
    one, analyst, _ = watched(folder, mode="mask")
    look(one)

    def report(name: str, outcome: Any, epoch: int, parameters: int) -> None:
        one.run.send("applied", epoch, ApplicationReport(
            decision_id=name, idempotency_key=f"{name}{outcome}", run="toy", epoch=epoch,
            outcome=outcome, reason="So.", parameters=parameters,
        ))  # fmt: skip

    report("d-1", "applied", 1, 12)
    assert standing(one.run) == (("d-1",), ("d-1",), 12)
    write(folder, "epoch_2.pt")
    look(one)
    asked = analyst.requests[-1].architecture
    assert (asked.applied, asked.masked, asked.parameters) == (("d-1",), ("d-1",), 12)
    assert asked.original_parameters == 13
    report("d-x", "refused", 3, 99)
    report("d-1", "rolled back", 4, 13)
    assert standing(one.run) == ((), (), 13)


def test_a_run_is_of_one_folder(folder: Path, tmp_path: Path) -> None:
    write(folder, "epoch_1.pt")
    one, _, _ = watched(folder)
    look(one)
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(UsageError, match="--run"):
        watched(tmp_path / "other")


def test_it_ends_when_nothing_new_comes(folder: Path) -> None:
    write(folder, "epoch_1.pt")
    moments: list[float] = []

    def sleep(seconds: float) -> None:
        moments.append(seconds)
        if len(moments) == 3:
            write(folder, "epoch_2.pt")

    one, _, listener = watched(folder)
    watch(one, Pace(until_idle=10.0, every=2.0), clock=lambda: sum(moments), sleep=sleep)
    assert [epoch for epoch, _ in listener.epochs] == [1, 2]
    assert sum(moments) == 3 * 2.0 + 10.0


def test_the_folder_itself_is_only_read(folder: Path) -> None:
    write(folder, "epoch_1.pt")
    before = {path: path.read_bytes() for path in folder.rglob("*")}
    one, _, _ = watched(folder)
    look(one)
    assert {path: path.read_bytes() for path in folder.rglob("*")} == before


def test_what_was_counted_survives_a_damaged_file(folder: Path) -> None:
    write(folder, "epoch_4.pt")
    one, _, _ = watched(folder)
    look(one)
    (one.run.state / "counted.json").write_text("{ half a")
    write(folder, "epoch_5.pt")
    again, _, later = watched(folder)
    look(again)
    assert [epoch for epoch, _ in later.epochs] == [5]  # from the decisions that lie there
    assert json.loads((one.run.state / "counted.json").read_text())["epoch"] == 5
