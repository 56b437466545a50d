"""Training with ZSEI beside it: answers are scripted here, the way the analysis would send them."""

import json
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from cut_cases import CASES, bits, decision_of, mlp, train
from safetensors.torch import load_file

from zsei.checkpoint.contracts import (
    ApplicationReport,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.logs import read_log
from zsei.checkpoint.measure.subjects import put_weights
from zsei.errors import UsageError
from zsei.surgery.module_edit import apply_module_edit
from zsei.training import beside as beside_module
from zsei.training.beside import Beside
from zsei.training.child import Child
from zsei.training.run import open_run


class Run:
    """An MLP in training, with ZSEI beside it and nobody who answers."""

    def __init__(self, tmp_path: Path, **given: Any) -> None:
        own = {"mode": "remove", "expire_after": 2, "keep_snapshots": 9}
        config = {"run": own | given.pop("config", {})}
        self.model, self.loss, self.edit = mlp()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.beside = Beside(
            self.model, self.optimizer, torch.zeros(8, 8), run="run", folder=tmp_path / "run",
            config=config, start=False, **given,
        )  # fmt: skip
        self.folder = self.beside.folder

    def epoch(self, number: int, **measured: Any) -> Any:
        train(self.model, [self.optimizer], self.loss, 2, 2 * number)
        return self.beside.checkpoint(number, **measured)

    def answer(self, epoch: int, /, **given: Any) -> StructuralPruningDecision:
        edit = given.pop("edit", self.edit)
        known = {"decision_id": f"d{epoch}", "epoch": epoch, "request_id": f"run-{epoch:06d}"}
        decision = decision_of(edit, **(known | given))
        self.folder.send("decisions", epoch, decision)
        return decision

    def report(self, epoch: int) -> ApplicationReport | None:
        return self.folder.read("applied", epoch, ApplicationReport)

    def request(self, epoch: int) -> StructuralAnalysisRequest:
        found = self.folder.read("requests", epoch, StructuralAnalysisRequest)
        assert found is not None
        return found


def test_a_checkpoint_is_handed_over_whole(tmp_path: Path) -> None:
    run = Run(tmp_path)
    event = run.epoch(1, accuracy=0.5, loss=1.25, step=20)
    assert (event.epoch, event.outcome, event.parameters) == (1, "observed", 891)
    request = run.request(1)
    assert request.checkpoint.weights == "snapshots/000001.safetensors"
    assert (request.checkpoint.accuracy, request.checkpoint.loss) == (0.5, 1.25)
    assert (request.checkpoint.step, request.parameters.mode) == (20, "remove")
    assert request.architecture.parameters == request.architecture.original_parameters == 891
    other, _, _ = mlp()
    put_weights(other, load_file(run.folder.path / request.checkpoint.weights))
    assert bits(other) == bits(run.model)
    assert run.beside.copy_seconds == [event.copy_seconds]
    run.beside.close()
    assert run.folder.end.exists()


def test_tied_weights_are_written_once_and_read_by_both_names(tmp_path: Path) -> None:
    model, loss, _ = CASES["gpt2"]()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beside = Beside(model, optimizer, [], run="gpt", folder=tmp_path / "r", start=False)
    train(model, [optimizer], loss, 2)
    beside.checkpoint(1)
    written = load_file(beside.folder.snapshot(1))
    assert ("transformer.wte.weight" in written) != ("lm_head.weight" in written)
    other, _, _ = CASES["gpt2"]()
    put_weights(other, written)
    assert bits(other) == bits(model)


@pytest.mark.parametrize("case", ["tied", pytest.param("gpt2", marks=pytest.mark.long)])
def test_observed_training_equals_training_alone_to_the_bit(case: str, tmp_path: Path) -> None:
    """Dropout and the order of batches draw from states that are set once, before training."""

    def trained(observed: bool) -> Any:
        model, loss, _ = CASES[case]()
        model = torch.nn.Sequential(model) if case == "tied" else model
        torch.manual_seed(7)
        random.seed(7)
        np.random.seed(7)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        beside = None
        if observed:
            beside = Beside(
                model, optimizer, torch.zeros(8, 8), run="r", folder=tmp_path / case, start=False,
                config={"run": {"keep_snapshots": 9}},
            )  # fmt: skip
        model.train()
        for epoch in range(1, 5):
            for step in range(2):
                optimizer.zero_grad()
                dropped = torch.nn.functional.dropout(torch.ones(1), 0.5) + random.random()
                value = loss(model, step + 2 * epoch) * (1 + float(dropped) * np.random.rand())
                value.backward()
                optimizer.step()
            if beside is not None:
                assert beside.checkpoint(epoch, loss=0.5).outcome == "observed"
        draws = (torch.rand(1).item(), random.random(), np.random.rand())
        kept = (torch.get_num_threads(), torch.is_grad_enabled(), model.training)
        return bits(model), draws, kept, optimizer.state_dict()

    alone, beside = trained(False), trained(True)
    assert alone[:3] == beside[:3]
    torch.testing.assert_close(alone[3], beside[3], rtol=0, atol=0)


def test_a_removal_is_carried_out_at_the_next_boundary_and_told(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.epoch(1, accuracy=0.8)
    run.answer(1)
    train(run.model, [run.optimizer], run.loss, 1, 50)
    smaller = apply_module_edit(run.model, run.edit)
    event = run.beside.checkpoint(2, accuracy=0.81, loss=0.4)
    assert (event.outcome, event.decision_id) == ("applied", "d1")
    assert "2 neurons removed, parameters 891 -> 825" in event.what
    assert bits(run.model) == bits(smaller)
    report = run.report(2)
    assert report is not None
    assert (report.outcome, report.parameters, report.epoch) == ("applied", 825, 2)
    assert (report.accuracy_before, report.loss_before) == (0.81, 0.4)
    asked = run.request(2)
    assert asked.architecture.applied == ("d1",)
    assert (asked.architecture.parameters, asked.architecture.original_parameters) == (825, 891)
    assert asked.architecture.shapes["0.weight"] == (22, 8)
    assert run.epoch(3, accuracy=0.80).outcome == "observed"
    assert run.beside.errors == 0


@pytest.mark.parametrize(
    ("before", "after", "config", "back"),
    [
        ({"accuracy": 0.9}, {"accuracy": 0.88}, {}, True),
        ({"accuracy": 0.9}, {"accuracy": 0.881}, {}, False),
        ({"accuracy": 0.9}, {"accuracy": 0.86}, {"channel_accuracy_drop": 0.05}, False),
        ({"accuracy": 0.9}, {"accuracy": float("nan")}, {}, True),
        ({"loss": 2.0}, {"loss": 2.11}, {}, True),
        ({"loss": 2.0}, {"loss": 2.09}, {}, False),
        ({"loss": 2.0}, {"loss": float("inf")}, {}, True),
        ({"accuracy": 0.9, "loss": 2.0}, {"accuracy": 0.9, "loss": 9.0}, {}, False),
        ({"loss": 2.0}, {}, {}, False),
    ],
)
@pytest.mark.parametrize("mode", ["remove", "mask"])
def test_a_fall_puts_everything_back(
    before: Any, after: Any, config: Any, back: bool, mode: str, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    elesh = {"structured_pruning": {"rollback_triggers": config}}
    run.beside.config = run.beside.config.model_validate(
        {"elesh": elesh, "run": run.beside.config.run.model_dump()}
    )
    run.epoch(1)
    run.answer(1, mode=mode)
    train(run.model, [run.optimizer], run.loss, 2, 50)
    whole = bits(run.model)
    assert run.beside.checkpoint(2, **before).outcome == "applied"
    event = run.epoch(3, **after)
    assert (event.outcome == "rolled back") is back, event
    report = run.report(3)
    if not back:
        assert report is None
        assert run.request(3).architecture.applied == ("d1",)
        return
    assert bits(run.model) == whole
    assert event.parameters == 891
    assert report is not None
    assert (report.outcome, report.decision_id) == ("rolled back", "d1")
    assert run.request(3).architecture.applied == run.request(3).architecture.masked == ()
    train(run.model, [run.optimizer], run.loss, 2, 90)
    assert bool((run.model[0].weight != 0).all())  # no mask holds any more
    assert run.epoch(4, accuracy=0.1, loss=99.0).outcome == "observed"


@pytest.mark.parametrize(
    ("given", "wait", "outcome", "said"),
    [
        ({}, 3, "expired", "up to 2 epochs later"),
        ({"run": "other"}, 0, "refused", "`other`"),
        ({"epoch": 9}, 0, "refused", "about epoch 9"),
        ({"edit": None, "mode": "remove"}, 0, "refused", "cannot be edited"),
    ],
)
def test_an_answer_that_does_not_fit_is_not_carried_out(
    given: Any, wait: int, outcome: str, said: str, tmp_path: Path
) -> None:
    run = Run(tmp_path)
    run.epoch(1)
    before = [p.shape for p in run.model.parameters()]
    for epoch in range(2, 2 + wait):
        run.epoch(epoch)
    run.answer(1, **given)
    event = run.epoch(2 + wait)
    assert (event.outcome, said in event.what) == (outcome, True), event
    report = run.report(2 + wait)
    assert report is not None
    assert (report.outcome, report.decision_id) == (outcome, "d1")
    assert [p.shape for p in run.model.parameters()] == before
    assert run.epoch(3 + wait).outcome == "observed"


def test_what_was_decided_about_another_shape_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.epoch(1)
    run.epoch(2)
    run.answer(1)
    run.answer(2)
    assert run.epoch(3).outcome == "applied"
    event = run.epoch(4)
    assert (event.outcome, event.decision_id) == ("refused", "d2")
    assert "cut or put back since" in event.what


@pytest.mark.parametrize(("allowed", "asked"), [("observe", "mask"), ("mask", "remove")])
def test_more_than_the_configuration_allows_is_refused(
    allowed: str, asked: str, tmp_path: Path
) -> None:
    run = Run(tmp_path, config={"mode": allowed})
    run.epoch(1)
    run.answer(1, mode=asked)
    event = run.epoch(2)
    assert (event.outcome, f"allows to {allowed}" in event.what) == ("refused", True)


def test_what_is_not_approved_is_let_be_without_a_word(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.epoch(1)
    run.answer(1, approved_for_application=False, rejection_reason="no")
    assert run.epoch(2).outcome == "observed"
    assert run.report(2) is None
    (run.folder.path / "decisions" / "000002.json").write_text('{"version": "7.0"}')
    event = run.epoch(3)
    assert (event.outcome, "7.0" in event.what) == ("failed", True)
    assert run.request(3)


def test_a_slow_analysis_is_not_buried_in_copies(tmp_path: Path) -> None:
    run = Run(tmp_path, config={"keep_snapshots": 2})
    outcomes = [run.epoch(epoch).outcome for epoch in (1, 2, 3, 4)]
    assert outcomes == ["observed", "observed", "skipped", "skipped"]
    run.answer(2, approved_for_application=False)
    assert run.epoch(5).outcome == "observed"
    there = sorted(path.name for path in (run.folder.path / "snapshots").iterdir())
    assert there == ["000002.safetensors", "000005.safetensors"]
    every = Run(tmp_path / "b", config={"every": 3})
    assert [every.epoch(e).outcome for e in (1, 2, 3)] == ["skipped", "skipped", "observed"]


def test_nothing_of_ours_is_raised_into_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    beside = run.beside
    assert beside.checkpoint(2).outcome == "observed"
    for epoch, given, said in (
        (2, {}, "2 comes after 2"), (1, {}, "another run"), (0, {}, "count from 1"),
        ("x", {}, "count from 1"), (3, {"accuracy": 92.5}, "divide a percentage"),
    ):  # fmt: skip
        event = beside.checkpoint(cast("Any", epoch), **cast("Any", given))
        assert (event.outcome, said in event.what) == ("failed", True), event
    assert beside.errors == 5
    assert beside.checkpoint(3, accuracy=float("nan")).outcome == "observed"
    monkeypatch.setattr("safetensors.torch.save_file", _full_disk)
    event = beside.checkpoint(4)
    assert (event.outcome, "Free the disk" in event.what) == ("failed", True)
    monkeypatch.undo()
    assert beside.checkpoint(5).outcome in ("observed", "skipped")
    beside.close()
    assert beside.checkpoint(6).outcome == "failed"
    beside.close()
    told = [event.why for event in read_log(run.folder.log) if event.event == "failed"]
    assert len(told) == beside.errors == 7


def _full_disk(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")


def test_an_interrupt_is_training_s_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run.beside._post, "copy_out", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run.beside.checkpoint(1)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"config": {"elesh": {"importance_histroy_epochs": 3}}}, "importance_history_epochs"),
        ({"config": {"run": {"mode": "prune"}}}, "mode"),
        ({"config": Path("nowhere.yaml")}, "nowhere.yaml"),
        ({"run": "../up"}, "name"),
    ],
)
def test_what_does_not_fit_is_said_before_training_begins(
    given: Any, said: str, tmp_path: Path
) -> None:
    model, _, _ = mlp()
    known = {"run": "r", "folder": tmp_path / "r", "start": False}
    with pytest.raises(UsageError, match=said):
        Beside(model, (), torch.zeros(8, 8), **(known | given))


def test_each_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.epoch(1)
    with pytest.raises(UsageError, match="requests of another"):
        Run(tmp_path)
    names = []
    for _ in range(3):
        name, folder = open_run("digits", None, tmp_path)
        (folder.path / "end").touch()
        names.append((name, folder.path.name))
    assert names == [(n, n) for n in ("digits", "digits-2", "digits-3")]


def test_in_lockstep_answers_are_waited_for(tmp_path: Path) -> None:
    run = Run(tmp_path, lockstep=True, config={"decide_every": 2, "keep_snapshots": 1})
    over = threading.Event()

    def analyst() -> None:
        while not over.is_set():
            for epoch in run.folder.epochs("requests"):
                if epoch not in run.folder.epochs("decisions"):
                    time.sleep(0.05)
                    run.answer(epoch, approved_for_application=epoch == 2)
            time.sleep(0.005)

    thread = threading.Thread(target=analyst)
    thread.start()
    try:
        outcomes = [run.epoch(epoch, accuracy=0.9).outcome for epoch in (1, 2, 3)]
        assert outcomes == ["observed", "applied", "observed"]
        assert run.beside.wait(timeout=20)
    finally:
        over.set()
        thread.join()
    assert run.folder.epochs("decisions") == [1, 2, 3]
    assert not run.beside.wait(99, timeout=0.05)


@pytest.mark.parametrize("program", ["import sys; sys.exit(3)", "import nonsense_module"])
def test_a_child_that_keeps_dying_is_given_up(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(folder: Any, job: Any, arguments: Any, *, priority: str) -> Child:
        assert priority == "idle"
        return Child(folder, job, arguments, command=(sys.executable, "-S", "-c", program))

    monkeypatch.setattr(beside_module, "Child", dying)
    model, loss, _ = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    beside = Beside(model, optimizer, torch.zeros(8, 8), run="r", folder=tmp_path / "r",
                    config={"run": {"keep_snapshots": 9}})  # fmt: skip
    outcomes = []
    for epoch in range(1, 8):
        train(model, [optimizer], loss, 1, epoch)
        child = beside._child
        assert child is not None
        assert child._process is not None
        child._process.wait(20)
        outcomes.append(beside.checkpoint(epoch).outcome)
    assert outcomes == [*["observed"] * 3, *["stopped"] * 4]
    told = [event.event for event in read_log(beside.folder.log) if event.level == "warning"]
    assert told == [*["restarted"] * 3, "stopped"]
    assert not beside.wait(timeout=5)
    beside.close()


@pytest.mark.long
def test_a_child_reads_its_job_and_gives_way(tmp_path: Path) -> None:
    """It is given the model as training began with it, in a form that needs no training."""
    program = """
import json, os, pickle, sys
job = pickle.loads(sys.stdin.buffer.read())
folder = sys.argv[1]
found = {"run": job.run, "nice": os.nice(0), "arguments": sys.argv[2:],
         "gpu": os.environ["CUDA_VISIBLE_DEVICES"], "training": job.model.training,
         "sum": float(sum(p.sum() for p in job.model.parameters()))}
open(os.path.join(folder, "found.json"), "w").write(json.dumps(found))
"""
    from zsei.checkpoint.job import Job
    from zsei.training.child import as_it_begins

    model, loss, _ = mlp()
    model.train()
    wanted = float(sum(p.detach().sum() for p in model.parameters()))
    _, folder = open_run("r", tmp_path / "r", tmp_path)
    job = Job(run="r", model=as_it_begins(model), data=torch.zeros(8, 8))
    child = Child(folder, job, ["--engine", "ray"], command=(sys.executable, "-c", program))
    train(model, [torch.optim.SGD(model.parameters(), lr=1.0)], loss, 1)
    assert child.keep_alive()
    assert child.leave(60)
    found = json.loads((folder.path / "found.json").read_text())
    assert found["sum"] == pytest.approx(wanted, rel=1e-5)
    assert (found["run"], found["nice"], found["gpu"]) == ("r", 19, "")
    assert (found["arguments"], found["training"]) == (
        ["--priority", "idle", "--engine", "ray"],
        False,
    )
    assert all(p.requires_grad for p in model.parameters())
    assert model.training


def _real_run(folder: Path, config: Any, epochs: int, **given: Any) -> Any:
    """A small classifier, and the process that really analyses it."""
    from zsei.settings import Settings

    torch.manual_seed(0)
    layers = (torch.nn.Linear(8, 48), torch.nn.ReLU(), torch.nn.Dropout(0.1),
              torch.nn.Linear(48, 48), torch.nn.ReLU(), torch.nn.Linear(48, 3))  # fmt: skip
    model = torch.nn.Sequential(*layers)
    x = torch.randn(400, 8)
    y = x[:, :3].argmax(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    beside = Beside(
        model, optimizer, (x[:96], y[:96]), run="real", folder=folder / "run", config=config,
        settings=Settings(home=folder / "home", samples=96), **given,
    )  # fmt: skip
    events = []
    for epoch in range(1, epochs + 1):
        model.train()
        for start in range(0, 300, 50):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[start:][:50]), y[start:][:50])
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            accuracy = float((model(x[300:]).argmax(1) == y[300:]).float().mean())
        events.append(beside.checkpoint(epoch, accuracy=accuracy))
    return beside, model, events


@pytest.mark.long
def test_a_real_analysis_cuts_a_real_training(tmp_path: Path) -> None:
    """From the weights to a removal and back, with nothing scripted."""
    phases = {"validation_epochs": 1, "conservative_epochs": 2, "moderate_epochs": 2,
              "aggressive_epochs": 3}  # fmt: skip
    config = {
        "elesh": {
            "analysis_workers_per_gpu": 1,
            "structured_pruning": {
                "safety_schedule": phases, "channel_analysis": {"min_channels_per_layer": 4},
            },
        },
        "run": {"mode": "remove", "decide_every": 2, "target_sparsity": 0.2},
    }  # fmt: skip
    beside, model, events = _real_run(tmp_path, config, 8, lockstep=True)
    beside.close(timeout=60)
    assert beside.errors == 0, list(read_log(beside.folder.log))
    assert beside.folder.epochs("decisions") == list(range(1, 9))
    applied = [event for event in events if event.outcome == "applied"]
    assert applied, [event.what for event in events]
    standing = events[-1].parameters
    assert standing == sum(p.numel() for p in model.parameters()) < 2931


@pytest.mark.long
def test_observed_by_a_real_analysis_the_weights_are_the_same(tmp_path: Path) -> None:
    """Also when the process is killed in the middle, and started again."""
    busy = {"run": {"keep_snapshots": 9, "priority": "normal"}}  # this machine may be full
    beside, model, _ = _real_run(tmp_path / "a", busy, 6)
    child = beside._child
    assert child is not None
    child.stop()
    assert beside.checkpoint(7).outcome == "observed"
    assert child.lives
    assert child.restarts == 1
    assert beside.wait(7, timeout=240)
    beside.close(timeout=60)
    assert beside.errors == 0
    _, alone, _ = _real_run(tmp_path / "b", None, 6, start=False)
    assert bits(model) == bits(alone)
