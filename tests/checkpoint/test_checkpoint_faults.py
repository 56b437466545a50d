"""Checkpoints meet faults of every kind, and the run goes on: small here, long in a benchmark."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from analyst_case import InProcess, start
from faults_case import (
    FAULTS,
    IN_FILES,
    MEMORY,
    Faulty,
    as_documented,
    plan,
    start_faulty,
    table,
    wrong_with,
)

from zsei.checkpoint.analyst import Analyst, Answered
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import DecideTask, MeasureTask
from zsei.checkpoint.worker import OpenWorker
from zsei.engines.engine import Done, Engine
from zsei.engines.open import open_engine

STATUS = {"hang": "timeout", "kill": "crash", "kill once": "done", "memory": "memory",
          "kill while deciding": "crash", "exception": "error"}  # fmt: skip


class Reporting(InProcess):
    """Says of workers' faults what an engine would; everything else is real."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], faults: Path):
        super().__init__(make)
        self.faults = faults

    def _one(self, task: Any, work: Callable[[Any], Any]) -> Done:
        path = self.faults / str(task.snapshot.epoch)
        name = path.read_text() if path.exists() else ""
        deciding = name == "kill while deciding"
        whole = isinstance(task, MeasureTask) and not task.basic and len(task.levels) > 1
        if name and (isinstance(task, DecideTask) if deciding else whole):
            status: Any = STATUS[name]
            if status != "done":
                return Done(task=task, status=status, why="as planned", attempts=2)
        return super()._one(task, work)


def in_process(tmp_path: Path, decide_every: int) -> Faulty:
    """A run whose workers' faults are only reported; files, numbers and disks are real."""
    faulty = start_faulty(
        tmp_path, InProcess, run={"decide_every": decide_every}, elesh={"layers_per_worker": 2}
    )
    engine = Reporting(OpenWorker(job=faulty.job), faulty.faults)
    return Faulty(training=faulty.training, job=faulty.job, engine=engine, faults=faulty.faults)


def test_a_dozen_faults_in_a_row_stop_nothing(tmp_path: Path) -> None:
    faulty = in_process(tmp_path, 7)  # so the workers die, and the disk is full, while deciding
    faulty.checkpoint(1)
    for epoch, fault in enumerate(FAULTS, start=2):
        faulty.checkpoint(epoch, fault)
    faulty.checkpoint(len(FAULTS) + 2)
    told = table(faulty)
    assert all(as_documented(fault, row) for fault, row in faulty.rows), told
    for fault, row in faulty.rows:
        assert isinstance(row, Answered)
        if fault in IN_FILES or fault in ("full disk", "kill while deciding"):
            assert not row.decision.approved_for_application
    last = faulty.rows[-1][1]
    assert isinstance(last, Answered)
    assert (last.report.depth, last.report.confidence) == ("full", 1.0)
    judged = next(row for fault, row in faulty.rows if fault == "full disk")
    assert isinstance(judged, Answered)
    assert judged.decision.safety.verdict is not None
    assert "could not be filed" in judged.decision.rejection_reason


@pytest.mark.long
def test_what_is_approved_under_faults_is_accepted_when_judged_again(tmp_path: Path) -> None:
    faulty = in_process(tmp_path, 2)
    for epoch, fault in enumerate(plan(14, 0.3), start=1):
        faulty.checkpoint(epoch, fault)
    assert all(as_documented(fault, row) for fault, row in faulty.rows), table(faulty)
    assert faulty.approved
    assert [wrong_with(faulty.job, *each) for each in faulty.approved] == [""] * len(
        faulty.approved
    )
    # The judge is no rubber stamp: a cut that takes half of a layer is not accepted.
    decision, snapshot, original = faulty.approved[-1]
    target = decision.channels[0].model_copy(update={"channel_indices": tuple(range(100))})
    assert wrong_with(
        faulty.job, decision.model_copy(update={"channels": (target,)}), snapshot, original
    )


@pytest.mark.long
def test_real_workers_that_hang_die_and_grow_stop_nothing(tmp_path: Path) -> None:
    faulty = start_faulty(
        tmp_path,
        lambda make: open_engine("local", make, workers=1, priority="normal"),
        run={"memory_gigabytes": MEMORY},
        elesh={"layers_per_worker": 2, "analysis_timeout": 20.0},
    )
    try:
        for epoch, fault in enumerate(
            ("", "kill once", "memory", "hang", "kill", "exception", "half a file"), start=1
        ):
            faulty.checkpoint(epoch, fault)
    finally:
        faulty.engine.close()
    assert all(as_documented(fault, row) for fault, row in faulty.rows), table(faulty)


def records(tmp_path: Path, make: Callable[[Any], Engine]) -> list[Any]:
    """What an engine's records say of three checkpoints, a decision among them."""
    training, job, _ = start(tmp_path, elesh={"layers_per_worker": 1})
    engine = make(OpenWorker(job=job))
    found = []
    try:
        analyst = Analyst(RunFolder(path=tmp_path / "run"), job, engine)
        for epoch in (1, 2, 6):
            answered = analyst.answer(*training.epoch(epoch))
            assert answered.record is not None
            decision = answered.decision.model_copy(update={"safety": None})
            found += [answered.record.without_timings(), answered.record.id, decision]
    finally:
        engine.close()
    return found


@pytest.mark.long
@pytest.mark.parametrize("name", ["local", "ray"])
def test_every_engine_gives_the_same_record(tmp_path: Path, name: str) -> None:
    expected = records(tmp_path / "own", InProcess)
    found = records(
        tmp_path / name, lambda make: open_engine(name, make, workers=2, priority="normal")
    )
    assert found == expected


@pytest.mark.long
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    """What a record says hangs on how layers are grouped for workers as little as on who did it."""
    training, job, engine = start(tmp_path, elesh={"layers_per_worker": 1})
    request, snapshot = training.epoch(1)
    split = Analyst(training.folder, job, engine).answer(request, snapshot).record
    elesh = job.config.elesh.model_copy(update={"layers_per_worker": 2})
    whole_job = replace(job, config=job.config.model_copy(update={"elesh": elesh}))
    folder = RunFolder(path=tmp_path / "other")
    whole = Analyst(folder, whole_job, engine).answer(request, snapshot).record
    assert split is not None
    assert whole is not None
    assert split.without_timings() == whole.without_timings()
