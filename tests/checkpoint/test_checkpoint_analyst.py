"""From a request to a decision, with workers that say what a test wants them to say."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analyst_case import NEURONS, RUN, Scripted, asking, at, scripted, small_job
from torch import nn

from zsei.checkpoint.analyst import Analyst
from zsei.checkpoint.contracts import ApplicationReport, PerformanceRequirements
from zsei.checkpoint.job import Job
from zsei.checkpoint.run_folder import RunFolder
from zsei.checkpoint.tasks import DecideTask, MeasureTask, Outline, OutlineTask, Unreadable
from zsei.engines.engine import Done, Status
from zsei.errors import UsageError
from zsei.gate.audit import read_audit
from zsei.gate.breaker import close_breaker, read_breaker
from zsei.memory import Memory

Fault = Callable[[Any], Done | None]


def job_of(tmp_path: Path, **changes: Any) -> Job:
    return small_job(tmp_path / "home", model=(nn.Linear(1, 1), torch.zeros(4, 1)), **changes)


def analyst(tmp_path: Path, fault: Fault = lambda _: None, **changes: Any) -> Analyst:
    folder = RunFolder(path=tmp_path / "run")
    return Analyst(folder, job_of(tmp_path, **changes), Scripted(fault))


def engine(found: Analyst) -> Scripted:
    assert isinstance(found.engine, Scripted)
    return found.engine


def failing(kind: type, status: Status, *, epoch: int = 0) -> Fault:
    """Every task of a type ends so, at one epoch or at all."""

    def fault(task: Any) -> Done | None:
        here = isinstance(task, kind) and epoch in (0, task.snapshot.epoch)
        return Done(task=task, status=status, why="a test") if here else None

    return fault


def told(decision: Any, epoch: int, outcome: Any) -> ApplicationReport:
    return ApplicationReport(
        decision_id=decision.decision_id, idempotency_key=f"{decision.decision_id}:{outcome}",
        run=RUN, epoch=epoch, outcome=outcome, reason="a test says so", parameters=90,
    )  # fmt: skip


def notes(tmp_path: Path) -> list[str]:
    return [entry.note for entry in read_audit(tmp_path / "home" / "audit.jsonl")]


def test_a_run_is_observed_then_cut_as_the_schedule_says(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    applied: list[str] = []
    approved = {}
    for epoch in range(1, 17):
        answered = found.answer(asking(epoch, applied), at(epoch))
        decision = answered.decision
        if decision.approved_for_application:
            approved[epoch] = decision
            found.heard(told(decision, epoch, "applied"))
            applied.append(decision.decision_id)
        else:
            assert decision.rejection_reason
    # Phases end at 2, 6, 10 and 14; something may be cut at every second epoch.
    assert list(approved) == [3, 4, 6, 8, 10, 12, 14]
    decided = engine(found).of(DecideTask)
    assert [task.snapshot.epoch for task in decided] == [3, 4, 6, 8, 10, 12, 14]
    assert [task.training.phase for task in decided[::3]] == [
        "conservative", "moderate", "aggressive",
    ]  # fmt: skip
    targets = [task.target for task in decided]
    assert targets == sorted(targets)
    assert targets[-1] == pytest.approx(0.18)
    # Each later task is about the model as it is after the cuts before it.
    assert [len(task.snapshot.edits) for task in decided] == [0, 1, 2, 3, 4, 5, 6]
    assert len(decided[3].importance["h.0/mlp|neuron"]) == NEURONS - 3
    assert len(notes(tmp_path)) == 16


def test_neurons_that_are_gone_are_never_chosen_again(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    first = found.answer(asking(4), at(4)).decision
    assert first.channels[0].channel_indices == (0,)
    found.heard(told(first, 4, "applied"))
    found.answer(asking(6, [first.decision_id]), at(6))
    before, now = (task.importance["h.0/mlp|neuron"] for task in engine(found).of(DecideTask))
    assert (len(before), len(now)) == (NEURONS, NEURONS - 1)
    # What was neuron 1 is number 0 now and brings its past along: the moving average of both.
    rows = found._state.history.values["h.0/mlp|neuron"]
    assert rows.shape == (2, NEURONS)
    assert now[0] == pytest.approx((0.99 * rows[0, 1] + rows[1, 1]) / 1.99)
    assert before[1] == pytest.approx(rows[0, 1])
    assert np.isnan(rows[1, 0])


def test_the_same_request_gets_the_same_answer_without_any_work(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    first = found.answer(asking(3), at(3))
    count = len(engine(found).asked)
    again = found.answer(asking(3), at(3))
    assert (again.decision, again.report) == (first.decision, first.report)
    assert len(engine(found).asked) == count
    other = analyst(tmp_path)
    for number in range(3):  # an open breaker changes nothing of what was said before
        other._uncounted.append(f"failure {number}")
    other._count_failures()
    assert read_breaker(tmp_path / "home").open
    again = other.answer(asking(3), at(3))
    assert (again.decision, again.report) == (first.decision, first.report)
    assert engine(other).asked == []
    assert first.decision.approved_for_application


@pytest.mark.parametrize("epoch", [3, 2])
def test_an_epoch_that_goes_backwards_is_refused(tmp_path: Path, epoch: int) -> None:
    found = analyst(tmp_path)
    found.answer(asking(3), at(3))
    rule = rf"epoch {epoch} of `tiny` comes after epoch 3.*a folder of its own"
    with pytest.raises(UsageError, match=rule):
        found.answer(asking(epoch, name="another"), at(epoch))
    with pytest.raises(UsageError, match=rule):
        analyst(tmp_path).answer(asking(epoch, name="another"), at(epoch))
    assert found.answer(asking(4), at(4)).report.depth == "full"


def test_another_run_is_refused(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    with pytest.raises(UsageError, match=r"of the run `tiny`, and what arrived is of `other`"):
        found.answer(asking(1, run="other"), at(1))
    found.answer(asking(1), at(1))
    job = replace(job_of(tmp_path), run="other")
    with pytest.raises(UsageError, match="holds `tiny`, and this is `other`"):
        Analyst(found.folder, job, Scripted())


def damaged(task: Any) -> Done | None:
    return Done(task=task, status="done", value=Unreadable(why="It is cut short."))


FALLBACKS: list[tuple[Fault, str, float, str]] = [
    (failing(MeasureTask, "timeout"), "none", 0.0, "ran out of time"),
    (damaged, "none", 0.0, "It is cut short."),
    (failing(OutlineTask, "crash"), "none", 0.0, "could not be looked at"),
]


def only_full(status: Status) -> Fault:
    def fault(task: Any) -> Done | None:
        full = isinstance(task, MeasureTask) and not task.basic and len(task.levels) == 3
        return Done(task=task, status=status, why="a test") if full else None

    return fault


@pytest.mark.parametrize(
    ("fault", "depth", "confidence", "said"),
    [
        (only_full("timeout"), "basic", 0.5, "magnitudes of the weights stand in"),
        (only_full("crash"), "basic", 0.5, "magnitudes of the weights stand in"),
        (only_full("memory"), "channels", 0.8, "channels only"),
        (failing(MeasureTask, "timeout"), "previous", 0.5, "The analysis before it stands"),
        (damaged, "previous", 0.5, "It is cut short. The analysis before it stands."),
    ],
)
def test_fallbacks_are_in_decision_report_and_record(
    tmp_path: Path, fault: Fault, depth: str, confidence: float, said: str
) -> None:
    found = analyst(tmp_path)
    before = found.answer(asking(3), at(3))
    assert before.record is not None
    found.heard(told(before.decision, 3, "refused"))
    engine(found).fault = fault
    answered = found.answer(asking(4), at(4))
    decision, report = answered.decision, answered.report
    assert (decision.depth, decision.confidence) == (depth, confidence)
    assert (report.depth, report.confidence) == (depth, confidence)
    assert any(said in note for note in decision.fallbacks)
    assert set(decision.fallbacks) <= set(report.fallbacks)
    assert answered.record is not None
    assert answered.record.failures
    assert answered.record.id == report.record_id
    kept = answered.record.measured("training run", "analysis_confidence")
    assert kept is not None
    assert kept.value == confidence
    if depth == "previous":
        assert not decision.approved_for_application
        assert decision.rejection_reason in decision.fallbacks[0]
        assert not any(t.snapshot.epoch == 4 for t in engine(found).of(DecideTask))
    else:
        assert engine(found).of(DecideTask)[-1].conservative
    engine(found).fault = lambda _: None
    assert found.answer(asking(5), at(5)).report.depth == "full"


@pytest.mark.parametrize(("fault", "depth", "confidence", "said"), FALLBACKS)
def test_without_anything_before_nothing_is_said(
    tmp_path: Path, fault: Fault, depth: str, confidence: float, said: str
) -> None:
    answered = analyst(tmp_path, fault).answer(asking(3), at(3))
    assert (answered.report.depth, answered.report.confidence) == (depth, confidence)
    assert said in answered.decision.rejection_reason
    assert answered.record is None
    assert not answered.decision.approved_for_application


def test_half_of_the_layers_is_better_than_none(tmp_path: Path) -> None:
    def fault(task: Any) -> Done | None:
        lost = isinstance(task, MeasureTask) and 0 in task.layers
        return Done(task=task, status="timeout") if lost else None

    answered = analyst(tmp_path, fault).answer(asking(1), at(1))
    assert (answered.report.depth, answered.report.confidence) == ("basic", 0.5)
    assert any("layer 0" in note and "nothing stands in" in note
               for note in answered.report.fallbacks)  # fmt: skip
    assert answered.record is not None
    assert {c.layer for c in answered.record.components} == {1, 2}


@pytest.mark.parametrize(
    ("status", "failures"), [("timeout", 0), ("memory", 0), ("crash", 0), ("error", 1)]
)
def test_what_was_not_judged_is_not_approved(tmp_path: Path, status: Status, failures: int) -> None:
    found = analyst(tmp_path, failing(DecideTask, status))
    answered = found.answer(asking(3), at(3))
    assert not answered.decision.approved_for_application
    reason = answered.decision.rejection_reason
    assert ("deciding broke" if failures else "it was not judged in time") in reason
    assert answered.report.depth == "full"
    assert read_breaker(tmp_path / "home").failures == failures
    assert reason in notes(tmp_path)[-1]


def test_an_engine_that_is_gone_is_no_error(tmp_path: Path) -> None:
    def gone(task: Any) -> Done | None:
        raise ConnectionError("no more workers")

    answered = analyst(tmp_path, gone).answer(asking(3), at(3))
    assert "the engine is gone (ConnectionError: no more workers)" in (
        answered.decision.rejection_reason
    )
    assert answered.report.depth == "none"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"applied": ("unknown",)}, "the decision unknown is none that `tiny` got"),
        ({"masked": ("x",)}, "x is among `masked` and not among `applied`"),
        ({"original_parameters": 99}, "began with 100 parameters and now says 99"),
    ],
)
def test_another_architecture_is_answered_with_the_reason(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    found = analyst(tmp_path)
    found.answer(asking(2), at(2))
    count = len(engine(found).asked)
    answered = found.answer(asking(3, architecture=changes), at(3))
    assert said in answered.decision.rejection_reason
    assert answered.report.depth == "previous"
    assert len(engine(found).asked) == count
    assert found.answer(asking(4), at(4)).decision.approved_for_application


def test_modes_are_limited_by_the_configuration(tmp_path: Path) -> None:
    looks = analyst(tmp_path, run={"mode": "observe"})
    decision = looks.answer(asking(3), at(3)).decision
    assert decision.mode == "observe"
    assert not decision.approved_for_application
    assert decision.safety.verdict is not None  # what would be cut is judged all the same
    asked = analyst(tmp_path / "b").answer(asking(3, mode="mask"), at(3)).decision
    assert asked.mode == "mask"


def test_a_cut_that_waits_is_the_only_one(tmp_path: Path) -> None:
    found = analyst(tmp_path, run={"expire_after": 3})
    first = found.answer(asking(3), at(3)).decision
    second = found.answer(asking(4), at(4)).decision
    assert second.rejection_reason == (
        f"the decision {first.decision_id} of epoch 3 was not answered yet"
    )
    assert found.answer(asking(8), at(8)).decision.approved_for_application


def test_a_rollback_restores_the_schedule_and_the_units(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    first = found.answer(asking(4), at(4)).decision
    found.heard(told(first, 4, "applied"))
    found.answer(asking(5, [first.decision_id]), at(5))
    found.heard(told(first, 6, "rolled back"))
    found.heard(told(first, 6, "rolled back"))
    home = tmp_path / "home"
    assert read_breaker(home).failures == 1
    found = analyst(tmp_path)  # all of it is kept
    seventh = found.answer(asking(7), at(7)).decision
    assert "the next cut is chosen at epoch 8" in seventh.rejection_reason
    eighth = found.answer(asking(8), at(8))
    task = engine(found).of(DecideTask)[-1]
    assert (task.training.phase, task.conservative) == ("conservative", True)
    # Two epochs were lost: at epoch 8 the schedule asks for what it would have asked for at 6.
    plain = analyst(tmp_path / "plain")
    plain.answer(asking(6), at(6))
    assert task.target == engine(plain).of(DecideTask)[-1].target
    values = task.importance["h.0/mlp|neuron"]
    assert len(values) == NEURONS
    assert None not in values
    assert "2 epochs behind" in eighth.report.recommendations[-1]


def test_three_rollbacks_in_a_row_open_the_breaker(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    epoch, home = 3, tmp_path / "home"
    while epoch < 15:
        decision = found.answer(asking(epoch), at(epoch)).decision
        assert decision.approved_for_application, decision.rejection_reason
        found.heard(told(decision, epoch, "applied"))
        found.heard(told(decision, epoch + 1, "rolled back"))
        epoch += 4
    refused = found.answer(asking(epoch), at(epoch)).decision
    assert "zsei breaker close" in refused.rejection_reason
    assert "the circuit breaker is open" in refused.safety.breaker
    assert "zsei breaker close" in notes(tmp_path)[-1]
    close_breaker(home)
    # Three epochs of the schedule were put back: at 16 it stands at 13, and may still cut.
    assert found.answer(asking(16), at(16)).decision.approved_for_application


def test_a_cut_that_stands_is_a_success(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    home = tmp_path / "home"
    first = found.answer(asking(3), at(3)).decision
    found.heard(told(first, 3, "applied"))
    found.heard(told(first, 4, "rolled back"))
    second = found.answer(asking(8), at(8)).decision
    found.heard(told(second, 8, "applied"))
    assert read_breaker(home).failures == 1  # that the gate accepted it proves nothing
    found.answer(asking(9, [second.decision_id]), at(9))
    assert read_breaker(home).failures == 1
    found.answer(asking(10, [second.decision_id]), at(10))
    assert read_breaker(home).failures == 0


@pytest.mark.parametrize("outcome", ["refused", "expired"])
def test_what_was_not_carried_out_changes_nothing(tmp_path: Path, outcome: str) -> None:
    found = analyst(tmp_path)
    first = found.answer(asking(3), at(3)).decision
    found.heard(told(first, 3, outcome))
    second = found.answer(asking(4), at(4))
    assert second.decision.approved_for_application
    assert second.report.recommendations[-1].startswith("the next cut is chosen")
    assert read_breaker(tmp_path / "home").failures == 0


def test_a_report_about_nothing_is_refused(tmp_path: Path) -> None:
    found = analyst(tmp_path)
    first = found.answer(asking(3), at(3)).decision
    nobody = first.model_copy(update={"decision_id": "d-nobody"})
    rule = rf"d-nobody is not known to `tiny` \(approved last: {first.decision_id}\)"
    with pytest.raises(UsageError, match=rule):
        found.heard(told(nobody, 3, "applied"))


def test_a_full_disk_approves_nothing_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analyst(tmp_path)
    found.answer(asking(2), at(2))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        third = found.answer(asking(3), at(3))
        again = found.answer(asking(3), at(3))
    assert not third.decision.approved_for_application
    assert "No space left on device" in third.decision.rejection_reason
    assert any("must be written whole" in note for note in third.report.fallbacks)
    assert (again.decision, again.report) == (third.decision, third.report)
    fourth = found.answer(asking(4), at(4)).decision
    assert fourth.approved_for_application
    assert [epoch for epoch in found._state.history.steps] == [2, 3, 4]


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_state_that_cannot_be_kept_approves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analyst(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("zsei.checkpoint.state.save_series", full)
        third = found.answer(asking(3), at(3)).decision
    assert not third.approved_for_application
    assert "the state of an analysis" in third.rejection_reason.lower()
    fourth = found.answer(asking(4), at(4)).decision
    assert fourth.approved_for_application


def test_an_audit_log_that_is_damaged_approves_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "audit.jsonl").write_text("nonsense\n")
    decision = analyst(tmp_path).answer(asking(3), at(3)).decision
    assert not decision.approved_for_application
    assert "audit log" in decision.rejection_reason


def test_records_are_kept_in_memory_and_a_memory_that_fails_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = analyst(tmp_path)
    first = found.answer(asking(1), at(1))
    assert first.record is not None
    kept = Memory(tmp_path / "home").get(first.record.id)
    assert kept.without_timings() == first.record.without_timings()
    where = kept.provenance.checkpoint
    assert where is not None
    assert (where.run, where.epoch) == (RUN, 1)
    monkeypatch.setattr(Memory, "add", full)
    second = found.answer(asking(2), at(2))
    assert any("was not kept in memory" in note for note in second.report.fallbacks)


def test_groups_are_of_layers_and_do_not_hang_on_workers(tmp_path: Path) -> None:
    found = analyst(tmp_path, elesh={"layers_per_worker": 2})
    engine(found).workers = 7
    found.answer(asking(1), at(1))
    assert [task.layers for task in engine(found).of(MeasureTask)] == [(0, 1), (2, None)]
    small = analyst(tmp_path / "b")
    small.answer(asking(1), at(1))
    assert [task.layers for task in engine(small).of(MeasureTask)] == [(0,), (1,), (2, None)]
    small.answer(asking(2), at(2))
    assert len(engine(small).of(OutlineTask)) == 1  # once per architecture


def test_a_model_without_layers_is_measured_in_one_piece(tmp_path: Path) -> None:
    def flat(task: Any) -> Done | None:
        known = isinstance(task, OutlineTask)
        return Done(task=task, status="done", value=Outline(layers=())) if known else None

    found = analyst(tmp_path, flat)
    found.answer(asking(1), at(1))
    assert [task.layers for task in engine(found).of(MeasureTask)] == [(None,)]


def test_limits_come_from_the_request_and_the_configuration(tmp_path: Path) -> None:
    found = analyst(tmp_path, run={"memory_gigabytes": 2.0, "retries": 3})
    short = PerformanceRequirements(timeout_seconds=30, memory_gigabytes=1)
    found.answer(asking(3, requirements=short), at(3))
    measuring, deciding = engine(found).limits[1:]
    assert measuring.memory_bytes == 1_000_000_000
    assert measuring.retries == 3
    # Three tasks on two workers take two turns of what is meant for measuring.
    assert 8.5 < measuring.seconds <= 9.0
    assert 25 < deciding.seconds <= 30
    engine(found).limits.clear()
    engine(found).fault = only_full("timeout")
    found.answer(asking(4, requirements=short), at(4))
    assert engine(found).limits[1].seconds == 20.0  # what stands in gets its time in any case


def test_the_ranking_is_checked_every_so_many_epochs(tmp_path: Path) -> None:
    def measured(task: Any) -> Done | None:
        if not isinstance(task, MeasureTask) or not task.ablate or 0 not in task.layers:
            return None
        rows = tuple(("h.0/mlp|neuron", u, float(u), float(u * u)) for u in range(task.ablate))
        value = scripted(task).model_copy(update={"exact": rows})
        return Done(task=task, status="done", value=value)

    found = analyst(tmp_path, measured, run={"ablate_every": 2, "ablate_units": 12})
    assert found.answer(asking(1), at(1)).report.ranking_accuracy is None
    second = found.answer(asking(2), at(2))
    accuracy = second.report.ranking_accuracy
    assert accuracy is not None
    assert (accuracy.value, accuracy.n) == (1.0, 4)
    assert second.record is not None
    assert second.record.measured("training run", "ranking_accuracy") == accuracy


def test_workers_that_share_no_disk_are_sent_the_weights(tmp_path: Path) -> None:
    from safetensors.torch import load, save_file

    found = analyst(tmp_path)
    engine(found).shares_disk = False
    path = found.folder.snapshot(1)
    path.parent.mkdir(parents=True)
    save_file({"weight": torch.ones(1, 1), "bias": torch.zeros(1)}, path)
    found.answer(asking(1), replace(at(1), path=path, data=None))
    sent = engine(found).of(MeasureTask)[0].snapshot
    assert sent.path is None
    assert sent.data is not None
    assert load(sent.data)["weight"].item() == 1
    path.write_bytes(b"half")
    answered = found.answer(asking(2), replace(at(2), path=path, data=None))
    assert answered.report.depth == "previous"


def test_what_is_held_at_zero_is_still_there_and_never_chosen_again(tmp_path: Path) -> None:
    found = analyst(tmp_path, run={"mode": "mask"})
    first = found.answer(asking(4, mode="mask"), at(4)).decision
    found.heard(told(first, 4, "applied"))
    held = (first.decision_id,)
    found.answer(asking(6, held, mode="mask", architecture={"masked": held}), at(6))
    task = engine(found).of(DecideTask)[-1]
    assert (task.snapshot.edits, len(task.snapshot.masks)) == ((), 1)
    values = task.importance["h.0/mlp|neuron"]
    assert [value is None for value in values] == [True] + [False] * (NEURONS - 1)
    assert np.isnan(found._state.history.values["h.0/mlp|neuron"][1, 0])
    assert np.isnan(found._state.series.activity.values["h.0/mlp|neuron"][1, 0])
