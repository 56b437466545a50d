import numpy as np
import pytest
from oracles import over_time as oracle
from runs_zoo import Run, noise

from zsei.checkpoint.history.find_moving import moving
from zsei.checkpoint.history.find_training import instability
from zsei.checkpoint.history.history import History
from zsei.checkpoint.history.series import RECENT, Series, follow
from zsei.checkpoint.history.series_file import load_series, save_series
from zsei.checkpoint.history.slope import CORRELATIONS
from zsei.checkpoint.history.trend_limits import TrendLimits
from zsei.checkpoint.history.trends import CODES, trends
from zsei.checkpoint.tasks import SiteMeasure
from zsei.errors import DataError, MemoryDamaged, UsageError
from zsei.records import Component, Finding

STEPS = np.arange(60)
FADE = 1 / (1 + np.exp((STEPS - 30) / 3))
"""From 1 to 0, slowly, around epoch 30."""


def codes(findings: tuple[Finding, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.code, finding.components) for finding in findings]


def numbers(finding: Finding) -> dict[str, float]:
    assert all(m.value is not None for m in finding.evidence)
    return {m.name: m.value for m in finding.evidence if m.value is not None}


def test_nothing_is_said_of_noise() -> None:
    for seed, correlation in enumerate((0.0, 0.5, 0.9)):
        run = Run(seed=seed, correlation=correlation, layers=8)
        assert trends(*run.kept()) == ()


@pytest.mark.long
@pytest.mark.parametrize(
    ("correlation", "most"), [(0.0, 0.05), (0.5, 0.05), (0.8, 0.05), (0.9, 0.15)]
)
def test_a_run_in_which_nothing_moves_has_a_false_alarm_one_time_in_twenty_at_most(
    correlation: float, most: float
) -> None:
    """Whole runs are counted: 60 layers, looked at every ten of 150 epochs."""
    wrong, runs = 0, 40
    for seed in range(runs):
        x = noise(150, (60,), 0.3, correlation, seed).astype(np.float32)
        values = {f"h.{i}|layer": x[:, i : i + 1] for i in range(60)}
        looks = (
            History(steps=tuple(range(1, n + 1)), values={k: v[:n] for k, v in values.items()})
            for n in range(10, 151, 10)
        )
        wrong += any(next(moving(look, TrendLimits(), {}), None) is not None for look in looks)
    assert wrong / runs <= most


def test_a_layer_that_comes_to_matter_is_said_to_rise() -> None:
    run = Run(spread=0.08, correlation=0.3)
    run.units["h.2|layer"] *= np.linspace(1, 4, 60)[:, None]
    found = trends(*run.kept())
    assert ("importance-rising", ("h.2",)) in codes(found)
    told = numbers(next(f for f in found if f.code == "importance-rising"))
    whole = sum(run.units[f"h.{i}|layer"][:, 0] for i in range(4))
    share = run.units["h.2|layer"][:, 0] / whole
    odds = np.log(share / (1 - share)).tolist()
    assert told["trend_slope"] == pytest.approx(
        oracle.theil_sen(STEPS.tolist(), share.tolist()), rel=1e-4
    )
    chance, _ = oracle.chance_of_rising(STEPS.tolist(), odds, CORRELATIONS)
    assert told["trend_chance"] == pytest.approx(chance, rel=0.01)
    assert told["trend_chance"] < 0.05 / (28 * 20)
    slope = oracle.theil_sen(STEPS.tolist(), share.tolist())
    assert told["trend_slope"] == pytest.approx(slope, rel=1e-4)
    assert told["trend_change"] == pytest.approx(slope * 59 / share.mean(), rel=1e-4)


def test_a_head_that_loses_its_share_is_named_by_its_own_id() -> None:
    run = Run(spread=0.08, correlation=0.3)
    run.units["h.1/attention|head"][:, 3] *= np.linspace(3, 0.5, 60)
    heads = [
        Component(id=f"h.1/head.{i}", kind="head", path="", parent="h.1/attention", index=i)
        for i in range(4)
    ]
    found = trends(*run.kept(), components=heads)
    assert ("importance-falling", ("h.1/head.3",)) in codes(found)


def test_what_moves_all_places_alike_is_no_trend() -> None:
    """A learning rate that falls to a hundredth takes all gradients along."""
    run = Run()
    for key in run.units:
        run.units[key] *= np.geomspace(1, 0.01, 60)[:, None]
    assert trends(*run.kept()) == ()


def test_units_that_are_cut_do_not_make_the_others_rise() -> None:
    run = Run()
    for epoch in range(10, 60, 5):
        run.units["h.0/mlp|neuron"][epoch:, (epoch - 10) // 5 % 6] = np.nan
        run.units["h.3/attention|head"][epoch:, 0] = np.nan
    assert [f for f in trends(*run.kept()) if "importance" in f.code] == []


@pytest.mark.parametrize("course", ["slow", "at once"])
def test_a_neuron_and_a_head_that_die_are_found(course: str) -> None:
    fade = FADE if course == "slow" else (STEPS < 35).astype(float)
    run = Run()
    run.units["h.1/mlp|neuron"][:, [2, 5]] *= np.maximum(fade, 1e-12)[:, None]
    run.units["h.0/attention|head"][:, 1] *= np.maximum(fade, 1e-12)
    found = [f for f in trends(*run.kept()) if f.code == "component-dying"]
    assert {f.components for f in found} == {("h.1/mlp",), ("h.0/attention",)}
    neurons = next(f for f in found if f.components == ("h.1/mlp",))
    assert neurons.message == "Neurons 2, 5 of h.1/mlp do next to nothing any more."
    told = numbers(neurons)
    assert told["turned_units"] == 2
    assert 30 <= told["turn_epoch"] <= 45
    assert told["activity_after"] < 0.05 * told["activity_before"]
    assert told["turn_confidence"] >= 0.95


def test_a_neuron_that_wakes_is_found_and_a_place_that_dies_wakes_no_other() -> None:
    run = Run()
    run.units["h.3/mlp|neuron"][:, 0] *= np.maximum(FADE[::-1], 1e-12)
    run.units["h.1/mlp|neuron"] *= np.where(STEPS < 30, 1, 1e-12)[:, None]
    found = [f for f in trends(*run.kept()) if f.code in ("component-dying", "component-waking")]
    assert sorted(codes(tuple(found))) == [
        ("component-dying", ("h.1/mlp",)), ("component-waking", ("h.3/mlp",)),
    ]  # fmt: skip
    assert found[-1].message == "Neuron 0 of h.3/mlp did next to nothing and works now."


def test_pairs_that_become_alike_are_found_and_those_that_were_are_not() -> None:
    run = Run()
    run.pairs["h.2/attention|head"] = {
        (0, 3): 0.999 - 0.5 * FADE,
        (1, 2): np.full(60, 0.97),
    }
    (found,) = trends(*run.kept())
    assert found.code == "redundancy-forming"
    assert found.message == "Heads 0 and 3 of h.2/attention have become alike."
    assert numbers(found)["highest_similarity"] == pytest.approx(0.999, abs=1e-3)


def test_a_pair_on_its_way_to_the_threshold_is_told_before_it_is_there() -> None:
    run = Run()
    climb = np.linspace(0.8, 0.94, 60) + 0.002 * np.random.default_rng(0).normal(size=60)
    run.pairs["h.0/mlp|neuron"] = {(1, 6): climb}
    (found,) = trends(*run.kept())
    assert (found.code, found.severity) == ("redundancy-forming", 0.3)
    assert "on their way" in found.message


def test_a_gradient_that_jumps_is_found_and_one_that_falls_with_its_rate_is_not() -> None:
    run = Run()
    run.gradients["h.0"] *= np.geomspace(1, 1e-3, 60)
    run.gradients["h.1"] = noise(60, (), 1.2, 0.0, 5)
    (found,) = trends(*run.kept())
    assert (found.code, found.components) == ("gradient-unstable", ("h.1",))
    wanted = oracle.jumps(run.gradients["h.1"].astype(np.float32).tolist())
    assert numbers(found)["gradient_instability"] == pytest.approx(wanted, rel=1e-5)


def test_instability_is_the_spread_of_independent_noise_and_its_bound_holds() -> None:
    covered = 0
    for seed in range(200):
        _, least, n = instability(noise(40, (), 0.5, 0.0, seed))
        covered += least <= 0.5
        assert n == 40
    assert covered >= 197
    assert np.isnan(instability(np.ones(9))[0])


def test_a_component_that_stops_to_learn_is_found_and_all_of_them_once() -> None:
    run = Run()
    run.efficiency["h.2"] *= np.where(STEPS < 30, 1, 0.01)
    (one,) = trends(*run.kept())
    assert (one.code, one.components) == ("learning-stalled", ("h.2",))
    for name in run.efficiency:
        run.efficiency[name] *= np.where(STEPS < 30, 1, 0.01)
    run.efficiency["h.2"] *= np.where(STEPS < 30, 1, 100)
    (every,) = trends(*run.kept())
    assert every.message.startswith("Nearly all components learn next to nothing")
    assert len(every.components) == 4


def test_one_thing_is_said_in_the_same_words_at_every_checkpoint() -> None:
    run = Run()
    run.units["h.1/mlp|neuron"][:, 2] *= np.where(STEPS < 30, 1, 1e-12)
    told = [{f.message for f in trends(*run.kept(n))} for n in (45, 52, 60)]
    assert told[0] == told[1] == told[2] != set()


def test_every_code_is_planted_here_and_the_empty_run_says_nothing() -> None:
    assert trends(History(), Series()) == ()
    assert len(set(CODES)) == 7


def test_a_series_comes_back_from_disk_to_the_bit(tmp_path) -> None:
    run = Run(epochs=12)
    run.pairs["h.0/mlp|neuron"] = {(1, 6): np.full(12, 0.97)}
    _, series = run.kept()
    save_series(series, tmp_path / "series.safetensors")
    again = load_series(tmp_path / "series.safetensors")
    for part in ("numbers", "activity", "pairs"):
        one, other = getattr(series, part), getattr(again, part)
        assert (one.steps, one.kept) == (other.steps, other.kept)
        assert {**one.values}.keys() == {**other.values}.keys()
        for name, rows in one.values.items():
            assert np.array_equal(rows, other.values[name], equal_nan=True)
    whole = (tmp_path / "series.safetensors").read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MemoryDamaged, match="one whole safetensors file"):
        load_series(tmp_path / "half.safetensors")
    with pytest.raises(UsageError, match="There is no series"):
        load_series(tmp_path / "none.safetensors")


def test_what_is_kept_is_bounded_and_what_was_not_measured_is_not_zero() -> None:
    run = Run(epochs=RECENT + 6, layers=2, heads=2, neurons=2)
    run.pairs["h.0/mlp|neuron"] = {(0, 1): np.where(np.arange(RECENT + 6) < 3, 0.99, 0.1)}
    _, series = run.kept()
    assert len(series.activity.steps) == RECENT
    assert len(series.epochs) == RECENT + 6
    assert series.pairs.values == {}  # nothing of it lies in the checkpoints kept
    assert np.isnan(series.of("", "accuracy")).all()
    assert np.isnan(series.of("h.0", "nonsense")).all()
    assert series.of("h.0/mlp|neuron", "alike_pairs").tolist()[:4] == [1, 1, 1, 0]


def test_units_keep_their_first_numbers_when_others_are_cut() -> None:
    def site(values: tuple[float, ...]) -> SiteMeasure:
        return SiteMeasure(component="m", kind="neuron", layer=0, parts={"taylor": values})

    series = follow(Series(), 1, sites=[site((1.0, 2.0, 3.0))], measurements={}, model={})
    series = follow(
        series, 2, sites=[site((5.0, 6.0))], measurements={}, model={},
        numbers={"m|neuron": (0, 2)},
    )  # fmt: skip
    assert np.array_equal(
        series.activity.values["m|neuron"], [[1, 2, 3], [5, np.nan, 6]], equal_nan=True
    )
    with pytest.raises(DataError, match="2 units at this checkpoint and 3 numbers"):
        follow(series, 3, sites=[site((5.0, 6.0))], measurements={}, model={},
               numbers={"m|neuron": (0, 1, 2)})  # fmt: skip
    with pytest.raises(DataError, match="in order"):
        follow(series, 2, sites=[], measurements={}, model={})


def test_limits_say_what_is_wrong_with_them() -> None:
    with pytest.raises(UsageError, match="at least 5 checkpoints"):
        TrendLimits(window=3)
    with pytest.raises(UsageError, match="between 0 and 1"):
        TrendLimits(change=2)
