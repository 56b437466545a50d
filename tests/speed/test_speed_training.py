"""Training raced, compared step by step and judged: planted ways are told from one another."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.training_steps import accepted_training
from planted_speed import without_collecting
from planted_training import (
    PlantedClock,
    counted_twice,
    crash,
    no_decay,
    nothing,
    one_gradient,
    other_rate,
    planted,
    refuse,
    scaled_loss,
    unlearning,
)
from small_training import fresh, large_batches, residual
from torch import nn

import zsei
from zsei.errors import ObjectiveError, SpeedUpRefused, UsageError
from zsei.gate.quality import Quality
from zsei.gate.training_speed import TrainingEvidence, judge_training
from zsei.settings import Settings
from zsei.speed.baseline import BASELINE
from zsei.speed.measure import CANDIDATE
from zsei.speed.training import compare_training
from zsei.speed.training_parts import PARTS, part_seconds
from zsei.speed.training_same import learnt, learnt_beside, sameness, stays_finite, train
from zsei.speed.training_together import combine_training
from zsei.speed.training_trials import measure_training_alone, training_bench, try_training
from zsei.speed.training_up import speed_up_training, training_setup
from zsei.speedups.speedup import Step
from zsei.speedups.training import TRAINING_SPEED_UPS
from zsei.speedups.training.setup import without_dropout
from zsei.subject.program import model_hash
from zsei.timing.interval import Interval

SMALL = Settings(bootstrap=200, seed=0)
SHELF = (
    planted("fast", nothing),
    planted("also-fast", nothing),
    planted("slow", nothing),
    planted("hard-to-tell", nothing),
    planted("small", nothing, gain="memory"),
    planted("large", nothing, gain="memory"),
    planted("wrong", other_rate),
    planted("unlearning", unlearning, exact=False),
    planted("nan", scaled_loss(math.nan), exact=False),
    planted("crash", crash),
    planted("refuse", refuse),
)
CLOCK = PlantedClock(
    times={"fast": 0.5, "also-fast": 0.8, "slow": 1.3, "small": 1.2, "wrong": 0.1,
           "unlearning": 0.1, "nan": 0.1},
    bytes={"small": 100, "large": -100},
)  # fmt: skip
EXPECTED = {
    "fast": "accepted", "also-fast": "accepted", "slow": "rejected", "hard-to-tell": "inconclusive",
    "small": "accepted", "large": "rejected", "wrong": "rejected", "unlearning": "rejected",
    "nan": "failed",
}  # fmt: skip


def step(name: str, **params: int | str) -> Step:
    return Step(speedup=name, params=dict(params))


def silent(share: float, note: str) -> None:
    del share, note


@pytest.mark.parametrize(
    ("field", "change", "norm"),
    [
        ("update", other_rate, False),
        ("update", no_decay, False),
        ("loss", scaled_loss(1.001), False),
        ("gradient", one_gradient, False),
        ("buffer", counted_twice, True),
    ],
)
def test_a_step_that_differs_is_told_by_what_differs(field: str, change, norm: bool) -> None:
    used = residual(norm=norm)
    found = sameness(used, fresh(used), change(fresh(used)), count=2)
    assert getattr(found, field) > 1e-4
    assert found.largest > 1e-4
    others = {"loss", "gradient", "update", "buffer"} - {field}
    if field == "loss":
        others -= {"gradient"}
    assert all(getattr(found, other) == 0 for other in others)


@pytest.mark.parametrize("norm", [False, True])
def test_the_same_step_differs_by_nothing(norm: bool) -> None:
    used = residual(norm=norm)
    assert sameness(used, fresh(used), fresh(used)).largest == 0


def test_the_difference_of_a_loss_is_the_planted_one() -> None:
    used = residual()
    found = sameness(used, fresh(used), scaled_loss(1.25)(fresh(used)), count=3)
    assert found.loss == pytest.approx(0.25, rel=1e-5)
    assert found.gradient == pytest.approx(0.25, rel=1e-5)
    assert found.update == 0  # the update is made of the baseline's gradients


def test_what_is_no_number_is_as_different_as_can_be() -> None:
    used = residual()
    assert sameness(used, fresh(used), scaled_loss(math.nan)(fresh(used))).largest == math.inf


def test_gradients_of_nothing_but_rounding_are_no_difference() -> None:
    """Adam makes whole steps of them either way; compared by weights, sums in parts would fail."""
    used = residual()
    parts = without_dropout(_carried(used, step("gradient-accumulation", micro_batches=3)))
    found = sameness(used, fresh(used), parts)
    assert 0 < found.gradient < 1e-6
    assert found.largest < 1e-5


def _carried(used, *steps: Step):
    from zsei.speedups.training import carry_out_training

    return carry_out_training(steps, used)


def test_what_was_learnt_is_read_off_the_trained_copies() -> None:
    used = residual()
    ours, theirs = fresh(used), unlearning(fresh(used))
    losses = train(used, ours, count=3), train(used, theirs, count=3)
    assert stays_finite(ours, losses[0])
    assert not stays_finite(ours, (*losses[0], math.nan))
    quality = learnt_beside(used, theirs, learnt(used, ours))
    assert quality.loss is not None
    for found, setup in zip(quality.loss, (ours, theirs), strict=True):
        slow = []
        for batch in used.subject.held_out:
            said = setup.module(*batch.inputs).detach()
            assert batch.labels is not None
            slow += [
                sum((a - b) ** 2 for a, b in zip(row, gold, strict=True)) / 4
                for row, gold in zip(said.tolist(), batch.labels.tolist(), strict=True)
            ]
        np.testing.assert_allclose(found, slow, rtol=1e-5)
    assert quality.loss[1].mean() > 1.2 * quality.loss[0].mean()


def _quality(increase: float) -> Quality:
    before = np.linspace(0.5, 1.5, 64)
    return Quality(
        output="values", divergence=np.zeros(64), agreement=None,
        loss=(before, before * (1 + increase)), correct=None, similarity=None,
        groups=np.zeros(64, dtype=np.int64),
    )  # fmt: skip


def test_the_verdict_is_that_of_plain_questions() -> None:
    qualities = {increase: _quality(increase) for increase in (0.0, 0.2)}
    outcomes = set()
    for finite, exact, for_memory, difference, increase, interval, memory in product(
        (True, False), (True, False), (True, False), (1e-6, 2e-5), qualities,
        ((1.1, 1.3), (0.9, 1.1), (0.7, 0.9)), ((100, 99), (100, 100)),
    ):  # fmt: skip
        evidence = TrainingEvidence(
            finite=finite, difference=difference, quality=qualities[increase], bytes=memory,
            speed_up=Interval(low=interval[0], median=1.0, high=interval[1], n=11),
        )  # fmt: skip
        verdict = judge_training(
            evidence, exact=exact, gain="memory" if for_memory else "time", limits=(0.03, 0.08),
            settings=SMALL,
        )  # fmt: skip
        expected = accepted_training(
            finite=finite, exact=exact, difference=difference, loss_bound=increase, limit=0.08,
            for_memory=for_memory, interval=interval, memory=memory,
        )  # fmt: skip
        assert verdict.outcome == expected, (evidence, exact, for_memory)
        assert verdict.reason.startswith(expected)
        outcomes.add(expected)
    assert outcomes == {"accepted", "rejected", "inconclusive", "failed"}


def test_what_was_not_measured_is_not_accepted() -> None:
    verdict = judge_training(
        TrainingEvidence(finite=True, difference=0.0, quality=_quality(0)), exact=True,
        gain="time", limits=(0.03, 0.08), settings=SMALL,
    )  # fmt: skip
    assert (verdict.outcome, verdict.stages[-1].stage) == ("inconclusive", "faster")
    verdict = judge_training(
        TrainingEvidence(), exact=True, gain="time", limits=(0.03, 0.08), settings=SMALL
    )
    assert (verdict.outcome, verdict.stages[0].outcome) == ("inconclusive", "inconclusive")


def test_planted_ways_get_the_verdicts_they_deserve() -> None:
    used = residual()
    before, threads = model_hash(used.model), torch.get_num_threads()
    state = torch.get_rng_state()
    noisy = PlantedClock(times=CLOCK.times, bytes=CLOCK.bytes, noise=0.05)
    bench = training_bench(used, SMALL, shelf=SHELF, compare=noisy, count=3)
    alone = measure_training_alone(bench, SHELF, lambda: False, silent)
    assert {t.steps[0].speedup: t.verdict.outcome for t in alone.trials} == EXPECTED
    refused = {failure.what: failure.why for failure in alone.refused}
    assert set(refused) == {"crash", "refuse"}
    assert "ValueError: planted crash" in refused["crash"]
    assert refused["refuse"] == "planted refusal"
    assert model_hash(used.model) == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for p in used.model.parameters())


@pytest.mark.parametrize("synergy", [1.0, 0.7, 1.1])
def test_together_is_measured_and_the_product_stands_beside_it(synergy: float) -> None:
    clock = PlantedClock(times=CLOCK.times, bytes=CLOCK.bytes, synergy=synergy)
    bench = training_bench(residual(), SMALL, shelf=SHELF, compare=clock, count=2)
    asked = [s for s in SHELF if s.name in ("fast", "also-fast", "slow", "small")]
    alone = measure_training_alone(bench, asked, lambda: False, silent)
    found = combine_training(bench, alone, out_of_time=lambda: False, report=silent)
    assert found is not None
    assert [s.speedup for s in found.order] == ["fast", "also-fast"]
    assert found.product == pytest.approx(1 / 0.5 / 0.8)
    assert found.trial.speed_up is not None
    assert found.trial.speed_up.median == pytest.approx(1 / 0.5 / 0.8 / synergy)
    assert {f.what for f in found.left_out} == {"small"}
    assert {p.component for p in found.parts} == set(PARTS)


def test_what_saves_memory_joins_where_it_is_asked_for() -> None:
    bench = training_bench(residual(), SMALL, shelf=SHELF, compare=CLOCK, count=2)
    asked = [s for s in SHELF if s.name in ("fast", "small")]
    alone = measure_training_alone(bench, asked, lambda: False, silent)
    found = combine_training(
        bench, alone, save_memory=True, out_of_time=lambda: False, report=silent
    )
    assert found is not None
    assert [s.speedup for s in found.order] == ["fast", "small"]
    assert found.trial.verdict.stages[-1].stage == "smaller"
    assert found.left_out == ()


def test_nothing_is_combined_once_the_time_is_spent() -> None:
    bench = training_bench(residual(), SMALL, shelf=SHELF, compare=CLOCK, count=2)
    spent = measure_training_alone(bench, SHELF, lambda: True, silent)
    assert spent.trials == ()
    assert all("--budget" in failure.why for failure in spent.refused)
    assert combine_training(bench, spent, out_of_time=lambda: True, report=silent) is None


def test_a_race_gives_every_side_the_same_steps_and_disturbs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_collecting(monkeypatch)
    used = residual(dropout=0.5)
    before, threads, state = (
        model_hash(used.model), torch.get_num_threads(), torch.get_rng_state(),
    )  # fmt: skip
    seen: dict[str, list[float]] = {"one": [], "two": []}

    def watched(name: str):
        def change(setup):
            def keep(module: nn.Module, given: tuple, output: torch.Tensor) -> None:
                seen[name].append(float(output.detach().sum()))

            setup.module.get_submodule("layers.1.dropout").register_forward_hook(keep)
            return setup

        return planted(name, change)

    raced = compare_training(
        used, {BASELINE: (), "one": (step("one"),), "two": (step("two"),)},
        rounds=4, shelf=(watched("one"), watched("two")), threads={"two": 1},
    )  # fmt: skip
    assert seen["one"] == seen["two"]
    assert len(seen["one"]) == len(used.calibration) + 4 + 1  # warm-up, rounds, peak memory
    assert raced.rounds.batches.tolist() == [0, 1, 2, 0]
    assert raced.rounds.seconds["one"].shape == (4,)
    parameters = sum(p.numel() for p in used.model.parameters())
    # Weights and both moments of Adam, and one step count of 4 bytes for each parameter.
    counts = len(list(used.model.parameters()))
    assert raced.standing[BASELINE] == 4 * (3 * parameters + counts)
    assert raced.peaks[BASELINE].bytes >= 4 * parameters  # gradients at least
    assert raced.bytes("one") == raced.bytes("two") == raced.bytes(BASELINE)
    assert model_hash(used.model) == before
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpointed_blocks_need_less_memory_and_pass_the_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without_collecting(monkeypatch)
    used = large_batches()
    bench = training_bench(used, SMALL, rounds=5, count=2)
    trial = try_training(bench, [step("activation-checkpointing")]).trial
    assert trial.verdict.outcome == "accepted"
    told = {m.name: m.value or 0.0 for m in trial.measurements}
    assert told["peak_bytes"] < told["baseline_peak_bytes"]
    assert told["standing_bytes"] == told["baseline_standing_bytes"]
    assert told["gradient_difference"] == 0


def test_parts_of_a_step_are_timed_for_every_side() -> None:
    bench = training_bench(residual(), SMALL, compare=CLOCK, count=1)
    sides = {BASELINE: (), CANDIDATE: (step("gradient-accumulation", micro_batches=2),)}
    times = part_seconds(bench, sides, repeats=2)
    assert all(set(own) == set(PARTS) and min(own.values()) > 0 for own in times.values())


def test_an_unknown_step_is_an_error_and_no_refusal() -> None:
    bench = training_bench(residual(), SMALL, compare=CLOCK, count=1)
    with pytest.raises(UsageError, match="'warp' is none of them"):
        try_training(bench, [step("warp")])
    with pytest.raises(SpeedUpRefused, match="once"):
        try_training(bench, [step("activation-checkpointing"), step("activation-checkpointing")])


class Points(nn.Module):
    """A small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.relu(self.up(x)))


def test_a_measurement_gives_a_settings_file_that_trains_the_same_way(tmp_path: Path) -> None:
    model = Points()
    x = torch.randn(48, 6)
    data = (x, x[:, :3].argmax(1))
    settings = Settings(batch_size=8, samples=48, bootstrap=200)
    clock = PlantedClock(times={"fused-optimizer": 0.5, "autocast": 1.5}, bytes={})
    before = model_hash(model)
    record = speed_up_training(
        model, data, settings=settings, threads=1, without=["compiled-training"],
        compare=clock,
    )  # fmt: skip
    assert model_hash(model) == before
    assert (record.use, record.objective) == ("training", "classification")
    assert {t.steps[0].speedup: t.verdict.outcome for t in record.alone} == {
        "autocast": "rejected", "fused-optimizer": "accepted", "gradient-accumulation": "rejected",
    }  # fmt: skip
    assert {f.what for f in record.refused} == {"activation-checkpointing"}
    assert record.settings is not None
    assert record.settings.use == "training"
    assert [s.speedup for s in record.settings.steps] == ["fused-optimizer"]
    file = tmp_path / "speed.json"
    file.write_text(record.settings.model_dump_json())
    setup = training_setup(file, model, data, settings=settings)
    assert setup.implementation == "fused"
    assert setup.module.state_dict().keys() == model.state_dict().keys()
    with pytest.raises(UsageError, match="speed-ups of training"):
        zsei.load(file)
    other = record.settings.model_copy(update={"use": "inference", "steps": ()})
    file.write_text(other.model_dump_json())
    with pytest.raises(UsageError, match="zsei speed --train"):
        training_setup(file, model, data, settings=settings)


def test_data_without_labels_and_names_that_are_none_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="Training needs labels"):
        speed_up_training(Points(), torch.randn(24, 6), settings=Settings(batch_size=6, samples=24))
    with pytest.raises(UsageError, match=r"of training must be one of .*'warp' is none of them"):
        speed_up_training(Points(), None, only=["warp"])
    names = [speedup.name for speedup in TRAINING_SPEED_UPS]
    with pytest.raises(UsageError, match="leave none"):
        speed_up_training(Points(), None, without=names)


@pytest.mark.long
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no card here")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_card_trains_in_half_precision_and_learns_as_much(dtype: str) -> None:
    model = Points()
    x = torch.randn(128, 6)
    record = speed_up_training(
        model, (x, x[:, :3].argmax(1)), device="cuda", only=["autocast", "fused-optimizer"],
        settings=Settings(batch_size=16, samples=128, bootstrap=200), rounds=5,
    )  # fmt: skip
    trials = {t.steps[0].params.get("dtype", "bfloat16"): t for t in record.alone[:2]}
    passed = [r.outcome for r in trials[dtype].verdict.stages if r.stage != "faster"]
    assert passed == ["passed", "passed", "passed"]
