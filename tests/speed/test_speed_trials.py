from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from planted_speed import FACTORS, SHELF, Planted, bench, clock, without_collecting
from torch import nn

from zsei.errors import SpeedUpRefused, UsageError
from zsei.gate.sandbox import verify_unchanged
from zsei.speed.alone import Alone, measure_alone
from zsei.speed.baseline import measure_baseline
from zsei.speed.measure import Bench, try_steps
from zsei.speed.race import difference
from zsei.speedups import Step
from zsei.speedups.shelf import chosen


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_collecting(patch)
        yield


@pytest.fixture(scope="module")
def planted() -> Bench:
    return bench(SHELF, clock(FACTORS))


@pytest.fixture(scope="module")
def alone(planted: Bench) -> Alone:
    return measure_alone(planted, planted.shelf, lambda: False, lambda share, note: None)


def outcomes(alone: Alone) -> dict[str, str]:
    return {trial.steps[0].speedup: trial.verdict.outcome for trial in alone.trials}


def test_each_planted_speed_up_gets_the_verdict_it_deserves(alone: Alone) -> None:
    assert outcomes(alone) == {
        "lean": "accepted",
        "rough": "accepted",
        "liar": "rejected",
        "wild": "rejected",
        "slow": "rejected",
        "level": "inconclusive",
        "nothing": "failed",
        "cut-off": "failed",
        "this": "accepted",
        "that": "accepted",
    }


@pytest.mark.parametrize(
    ("name", "stage"),
    [("liar", "tolerance"), ("wild", "tolerance"), ("slow", "faster"), ("level", "faster"),
     ("nothing", "forward"), ("cut-off", "shape")],
)  # fmt: skip
def test_a_no_names_the_stage_that_said_it(alone: Alone, name: str, stage: str) -> None:
    trial = next(t for t in alone.trials if t.steps[0].speedup == name)
    assert stage in trial.verdict.reason.split(":")[1]


def test_what_cannot_be_had_is_listed_with_its_reason(alone: Alone) -> None:
    why = {failure.what: failure.why for failure in alone.refused}
    assert set(why) == {"crash", "careless", "shy", "broken"}
    assert "RuntimeError: the backend fell over" in why["crash"]
    assert "left in a mess" in why["careless"]
    assert "device that is not there" in why["shy"]
    assert "ValueError: no idea" in why["broken"]


def test_the_fastest_accepted_come_first(alone: Alone) -> None:
    assert [t.steps[0].speedup for t in alone.best()] == ["rough", "lean", "that", "this"]


def test_only_the_fastest_accepted_variant_of_a_speed_up_stands_for_it() -> None:
    shelf = (Planted(name="many", variants_there=3),)
    found = bench(shelf, clock({"many": 0.9, "many/1": 0.5, "many/2": 0.7}))
    best = measure_alone(found, shelf, lambda: False, lambda share, note: None).best()
    assert [t.steps[0].params for t in best] == [{"variant": 1}]


def test_speed_and_memory_of_a_trial_are_measured_against_the_baseline(
    planted: Bench, alone: Alone
) -> None:
    trial = next(t for t in alone.trials if t.steps[0].speedup == "lean")
    assert trial.speed_up is not None
    assert trial.seconds is not None
    assert trial.speed_up.low < 2.0 < trial.speed_up.high
    assert trial.seconds.low < 0.5 < trial.seconds.high
    found = {m.name: m.value for m in trial.measurements}
    assert found["relative_difference"] == found["divergence"] == 0.0
    assert found["peak_bytes"] == found["baseline_peak_bytes"]
    assert planted.baseline.peak is not None
    assert found["baseline_peak_bytes"] == planted.baseline.peak.bytes > 0


def test_the_difference_of_a_trial_is_the_largest_one_over_all_batches(
    planted: Bench, alone: Alone
) -> None:
    trial = next(t for t in alone.trials if t.steps[0].speedup == "liar")
    told = next(m.value for m in trial.measurements if m.name == "relative_difference")
    model = planted.workload.model
    with torch.no_grad():
        worst = max(
            float((model(b.inputs[0]) * 0.01).abs().max() / max(model(b.inputs[0]).abs().max(), 1))
            for b in planted.workload.held_out
        )
    assert told == pytest.approx(worst, rel=1e-3)


def test_nothing_is_left_changed_by_a_speed_up_that_falls_over(planted: Bench) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    with pytest.raises(SpeedUpRefused, match="left in a mess"):
        try_steps(
            planted.workload, [Step(speedup="careless")], planted.baseline, planted.settings,
            shelf=planted.shelf, race=planted.race,
        )  # fmt: skip
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled()
    verify_unchanged(planted.workload.subject)


def test_a_refused_combination_says_which_two_exclude_each_other(planted: Bench) -> None:
    both = [Step(speedup="this"), Step(speedup="that")]
    with pytest.raises(SpeedUpRefused, match="this cannot stand beside that"):
        try_steps(
            planted.workload, both, planted.baseline, planted.settings, shelf=planted.shelf,
            race=planted.race,
        )  # fmt: skip


def test_a_step_that_names_nothing_is_an_error_of_the_call(planted: Bench) -> None:
    for step in (Step(speedup="warp"), Step(speedup="lean", params={"speed": 9})):
        with pytest.raises(UsageError, match=r"warp|speed"):
            try_steps(
                planted.workload, [step], planted.baseline, planted.settings,
                shelf=planted.shelf, race=planted.race,
            )  # fmt: skip


def test_once_the_budget_is_spent_the_rest_is_listed_as_not_tried(planted: Bench) -> None:
    found = measure_alone(planted, SHELF[:3], lambda: True, lambda share, note: None)
    assert not found.trials
    assert [f.what for f in found.refused] == ["lean", "rough", "liar"]
    assert all("budget" in f.why for f in found.refused)


def test_the_budget_goes_to_trials_before_it_goes_to_looking_for_variants(planted: Bench) -> None:
    asked = iter([False, False, True, True])  # lean: turn and trial; then it is spent
    found = measure_alone(planted, SHELF[:2], lambda: next(asked), lambda share, note: None)
    assert outcomes(found) == {"lean": "accepted"}
    assert [f.what for f in found.refused] == ["rough"]


def test_names_choose_among_the_shelf() -> None:
    assert [s.name for s in chosen(SHELF, ["lean", "slow"], ["slow"])] == ["lean"]
    with pytest.raises(UsageError, match="warp"):
        chosen(SHELF, ["warp"], None)
    with pytest.raises(UsageError, match="warp"):
        chosen(SHELF, None, ["warp"])
    with pytest.raises(UsageError, match="none"):
        chosen(SHELF, ["lean"], ["lean"])


def test_outputs_that_are_too_large_to_keep_are_computed_again(
    planted: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zsei.speed.baseline._KEPT_BYTES", 0)
    again = measure_baseline(planted.workload)
    assert all(kept is None for kept in again.kept)
    for number, kept in enumerate(planted.baseline.kept):
        assert kept is not None
        assert torch.equal(again.output(number, planted.workload), kept)
    trial = try_steps(
        planted.workload, [Step(speedup="liar")], again, planted.settings, shelf=planted.shelf,
        race=planted.race,
    )  # fmt: skip
    assert trial.verdict.outcome == "rejected"


def test_padding_does_not_count_as_a_difference() -> None:
    from zsei.speed.baseline import counted
    from zsei.subject.types import Batch

    mask = torch.tensor([[True, True, False], [True, False, False]])
    before = torch.randn(2, 3, 4)
    after = torch.where(mask[..., None], before, torch.full_like(before, 7.0))
    batch = Batch(inputs=(mask.long(),), mask=mask)
    assert difference(before, after, batch) == 0.0
    after[0, 1, 2] += 0.5
    worst = float(before[mask].abs().max().clamp_min(1.0))
    assert difference(before, after, batch) == pytest.approx(0.5 / worst, rel=1e-5)
    found = bench(SHELF[:1], clock({})).workload
    values = replace(found, objective=replace(found.objective, output="values"))
    assert torch.equal(counted(before, batch, values)[mask], before[mask])
    assert not counted(before, batch, values)[~mask].any()
    logits = replace(found, objective=replace(found.objective, output="logits"))
    assert torch.equal(counted(before, batch, logits), before)


def test_the_users_model_is_in_no_runnable(planted: Bench) -> None:
    subject = planted.workload.subject
    own = {id(module) for module in subject.model.modules()}
    ran = planted.baseline.runnable.module
    assert isinstance(ran, nn.Module)
    assert own.isdisjoint(id(module) for module in ran.modules())
