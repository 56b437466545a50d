"""What is kept between checkpoints survives being killed, damaged and kept for long."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analyst_case import NEURONS, RUN, Scripted, asking, at, small_job
from torch import nn

from zsei.checkpoint import state as module
from zsei.checkpoint.analyst import Analyst
from zsei.checkpoint.contracts import ApplicationReport
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.state import load_state
from zsei.gate.audit import read_audit
from zsei.gate.breaker import read_breaker
from zsei.memory import Memory


@pytest.fixture(autouse=True)
def _without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has its own tests with kills; here it would only be waited for."""
    monkeypatch.setattr(Memory, "add", lambda *_: None)


def analyst(tmp_path: Path) -> Analyst:
    job = small_job(tmp_path / "home", model=(nn.Linear(1, 1), torch.zeros(4, 1)))
    return Analyst(RunFolder(path=tmp_path / "run"), job, Scripted())


def told(decision: Any, epoch: int, outcome: Any) -> ApplicationReport:
    return ApplicationReport(
        decision_id=decision.decision_id, idempotency_key=f"{decision.decision_id}:{outcome}",
        run=RUN, epoch=epoch, outcome=outcome, reason="a test says so", parameters=90,
    )  # fmt: skip


def killed_at(number: int, act: Callable[[], object]) -> bool:
    """Run something in a child that is killed at its n-th change of a file; whether it was."""
    child = os.fork()
    if child == 0:
        left = [number]

        def dying(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any, **named: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*given, **named)

            return call

        for name in ("replace", "rename", "mkdir", "unlink"):
            setattr(Path, name, dying(getattr(Path, name)))
        os.fsync = dying(os.fsync)
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def start(tmp_path: Path, name: str) -> Path:
    """A run with two checkpoints and a cut that stands."""
    made, folder = tmp_path / "made", tmp_path / name
    if not made.exists():
        found = analyst(made)
        first = found.answer(asking(4), at(4)).decision
        found.heard(told(first, 4, "applied"))
        found.answer(asking(5, [first.decision_id]), at(5))
    shutil.copytree(made, folder)
    return folder


STEPS = [5, pytest.param(1, marks=pytest.mark.long)]
"""Every how many changes of a file a process is killed."""


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_moment_the_run_goes_on(tmp_path: Path, step: int) -> None:
    undisturbed = analyst(start(tmp_path, "whole"))
    cut = list(undisturbed._state.ledger.cuts)
    expected = undisturbed.answer(asking(6, cut), at(6))
    assert expected.decision.approved_for_application
    rows = undisturbed._state.history.values["h.0/mlp|neuron"]
    moment = 0
    for moment in range(0, 200, step):
        folder = start(tmp_path, str(moment))
        if not killed_at(moment, lambda f=folder: analyst(f).answer(asking(6, cut), at(6))):
            break
        again = analyst(folder)
        assert again._unsaid == [], moment
        answered = again.answer(asking(6, cut), at(6))
        assert answered.decision == expected.decision, moment
        np.testing.assert_array_equal(again._state.history.values["h.0/mlp|neuron"], rows)
        assert again._state.history.steps == (4, 5, 6)
        keys = [entry.key for entry in read_audit(folder / "home" / "audit.jsonl")]
        assert len(keys) == len(set(keys)) == 3
        assert again.answer(asking(7, cut), at(7)).report.depth == "full"
    assert moment > 10


@pytest.mark.parametrize("step", STEPS)
def test_killed_while_a_rollback_is_told_it_is_told_again(tmp_path: Path, step: int) -> None:
    moment = 0
    for moment in range(0, 200, step):
        folder = start(tmp_path, str(moment))
        (name,) = analyst(folder)._state.ledger.cuts
        first = module.kept_answer(folder / "run" / "state", 4)
        assert first is not None
        report = told(first.decision, 6, "rolled back")
        died = killed_at(moment, lambda f=folder, r=report: analyst(f).heard(r))
        again = analyst(folder)
        again.heard(report)
        assert again._state.ledger.cuts[name].state == "rolled back"
        assert again._state.ledger.delay == 2
        # Killed between the two it may be counted twice: a breaker that opens early does no harm.
        assert read_breaker(folder / "home").failures in ((1, 2) if died else (1,))
        if not died:
            break
    assert moment > 3


FILES = ("ledger.json", "answer.json", "history.safetensors", "series.safetensors",
         "sketch.safetensors")  # fmt: skip
DAMAGES = ("nonsense", "gone", "cut short", "empty")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param(name, damage, marks=() if (i - j) % 4 == 0 else pytest.mark.long)
        for i, name in enumerate(FILES)
        for j, damage in enumerate(DAMAGES)
    ],
)
def test_damaged_files_are_said_put_beside_and_cost_an_epoch(
    tmp_path: Path, name: str, damage: str
) -> None:
    folder = start(tmp_path, "run")
    (cut,) = analyst(folder)._state.ledger.cuts
    state = folder / "run" / "state"
    path = state / "000000005" / name
    content = path.read_bytes()
    new = {"empty": b"", "cut short": content[: len(content) // 2], "nonsense": b"\0{]" * 40}
    path.write_bytes(new[damage]) if damage != "gone" else path.unlink()
    again = analyst(folder)
    assert any("epoch 5 is damaged" in note for note in again._unsaid)
    assert list(state.glob("damaged-000000005-*"))
    assert again._state.history.steps == (4,)
    # What was answered is known all the same: epochs go on, and so do cuts that stand.
    assert again._state.ledger.epoch == 5
    answered = again.answer(asking(6, [cut]), at(6))
    assert answered.report.depth == "full"
    assert any("epoch 5 is damaged" in note for note in answered.report.fallbacks)
    assert answered.decision.approved_for_application


def test_where_everything_is_damaged_all_but_the_cuts_begins_anew(tmp_path: Path) -> None:
    folder = start(tmp_path, "run")
    (cut,) = analyst(folder)._state.ledger.cuts
    state = folder / "run" / "state"
    for path in state.glob("0*/*"):
        path.write_bytes(b"nonsense")
    again = analyst(folder)
    assert again._unsaid[-1] == "importance and series begin anew"
    assert again._state.history.steps == ()
    answered = again.answer(asking(6, [cut]), at(6))
    assert answered.report.depth == "full"
    # One neuron is gone: the new history has a column for it, and would know it again.
    rows = again._state.history.values["h.0/mlp|neuron"]
    assert rows.shape == (1, NEURONS)
    assert np.isnan(rows[0]).tolist() == [True] + [False] * (NEURONS - 1)


def test_answers_that_are_damaged_are_found_in_the_run_folder(tmp_path: Path) -> None:
    folder = start(tmp_path, "run")
    found = analyst(folder)
    (cut,) = found._state.ledger.cuts
    first = module.kept_answer(found.folder.state, 4)
    assert first is not None
    found.folder.send("decisions", 4, first.decision)
    for path in (found.folder.state / "answers").glob("*"):
        path.write_bytes(b"nonsense")
    (found.folder.state / "000000004" / "answer.json").unlink()
    assert analyst(folder).answer(asking(6, [cut]), at(6)).report.depth == "full"


def test_the_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    found = analyst(folder)
    applied: list[str] = []
    for epoch in range(1, 9):
        decision = found.answer(asking(epoch, applied), at(epoch)).decision
        if decision.approved_for_application:
            applied.append(decision.decision_id)
        if epoch == 4:
            size = (found.folder.state / "answers" / "000000004.json").stat().st_size
            monkeypatch.setattr(module, "ANSWERS", 2 * size)
    state = found.folder.state
    assert sorted(path.name for path in state.glob("0*")) == ["000000007", "000000008"]
    kept = {int(path.stem) for path in (state / "answers").glob("*.json")}
    assert kept >= {3, 4, 6, 8}  # of cuts: what a model is made of must be known
    assert len(kept) < 8
    stump = state / ".000000004.abcd"
    stump.mkdir()
    (stump / "history.safetensors").write_bytes(b"half")
    found.answer(asking(9, applied), at(9))
    assert not stump.exists()


def test_a_shorter_history_and_another_sketch_are_taken_over(tmp_path: Path) -> None:
    folder = start(tmp_path, "run")
    job = small_job(
        folder / "home",
        model=(nn.Linear(1, 1), torch.zeros(4, 1)),
        elesh={"importance_history_epochs": 1, "sketch_width": 10},
    )
    state, notes = load_state(folder / "run" / "state", RUN, job.config.elesh)
    assert notes == ()
    assert state.history.steps == (5,)
    assert state.history.kept == 1
    assert state.sketch.width == 10
    assert state.ledger.observed == {}
