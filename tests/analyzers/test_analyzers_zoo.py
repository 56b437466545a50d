"""Every planted defect is found where it was planted, and not in the healthy twin."""

from collections.abc import Callable, Iterable

import pytest
import torch
from prepared import analysed
from torch import nn
from zoo import SAMPLES, ZOO, Planted

from zsei.analyzers import ANALYZERS, run_analyzers
from zsei.records import Check, Finding, digest
from zsei.resources import load_cards
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash

SETTINGS = Settings(samples=SAMPLES, batch_size=16, ablation_sample=24, probes=4)

PATHS = ("critical-path-information", "critical-path-effect", "critical-path-latency")
INFORMATIONAL = {
    **dict.fromkeys(PATHS, "a path is a description"),
    "roofline": "where parts stand on this machine",
    "low-effect": "the least effective twentieth, which every model has, listed for trials",
    "time-bottleneck": "a clock's word on parts that take microseconds",
}
"""Codes that accuse of nothing, and why; a healthy model may have them unless they are planted.
So may it have findings of severity 0: they describe, or say that something could not be told."""

Plant = Callable[[bool], Planted]


FOUND: dict[str, tuple[Finding, ...]] = {}
"""Model hash -> findings: many twins are one and the same model."""


def findings(plant: Plant, planted: bool) -> tuple[tuple[Finding, ...], Planted]:
    made = plant(planted)
    key = f"{model_hash(made.model)} {plain(made.model)} {digest(str(made.data))} {made.objective}"
    if key not in FOUND:
        settings = SETTINGS.model_copy(update={"samples": made.samples})
        subject = prepare(made.model, made.data, made.objective, settings)
        found, timed, failures = run_analyzers(analysed(subject, settings))
        assert failures == ()
        FOUND[key] = (*found, *timed)
    return FOUND[key], made


def plain(model: nn.Module) -> str:
    """What a model is set to besides its weights."""
    return str({k: v for k, v in vars(model).items() if isinstance(v, bool | int | float)})


def hits(plant: Plant, planted: bool) -> list[Finding]:
    found, made = findings(plant, planted)
    return [f for f in found if f.code == made.code and made.component in f.components]


@pytest.mark.parametrize("plant", ZOO, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_found(plant: Plant) -> None:
    assert hits(plant, True)


@pytest.mark.parametrize("plant", ZOO, ids=lambda plant: plant.__name__)
def test_a_healthy_twin_is_accused_of_nothing(plant: Plant) -> None:
    """Not of the planted defect, at any place, and not of any other one. Every model has its
    critical paths: where one is planted, the twin's may only not lead through the planted part.
    """
    found, made = findings(plant, False)
    accused = [
        f"{f.code}: {f.message}"
        for f in found
        if (f.code == made.code and (f.code not in PATHS or made.component in f.components))
        or (f.severity > 0 and f.code not in INFORMATIONAL)
    ]
    assert accused == []


def test_the_zoo_holds_every_kind_of_defect() -> None:
    codes = {plant(True).code for plant in ZOO}
    assert len(ZOO) >= 25
    assert {a.code for a in ANALYZERS} - codes <= set(INFORMATIONAL) - {"low-effect"}


@pytest.mark.parametrize("plant", ZOO, ids=lambda plant: plant.__name__)
def test_findings_are_few_distinct_and_say_what_they_rest_on(plant: Plant) -> None:
    known = set(load_cards(Settings()).metrics)
    for planted in (True, False):
        found, _ = findings(plant, planted)
        assert len(found) <= 20
        assert len({f.id for f in found}) == len(found)
        for finding in found:
            assert finding.components
            assert finding.evidence
            assert finding.message.endswith(".")
            assert "  " not in finding.message
            assert {m.name for m in finding.evidence} <= known


def _evidence(finding: Finding) -> dict[str, float | None]:
    return {measurement.name: measurement.value for measurement in finding.evidence}


def _plant(name: str) -> Plant:
    return next(plant for plant in ZOO if plant.__name__ == name)


def test_copied_heads_are_alike_and_back_each_other_up() -> None:
    [finding] = hits(_plant("duplicated_head"), True)
    assert finding.components == ("blocks.1/head.1", "blocks.1/head.3")
    evidence = _evidence(finding)
    assert evidence["head_similarity"] == pytest.approx(1, abs=1e-5)
    # Two equal changes move the output twice as far, four times in squares: Δ(both) = 4 Δ(one).
    singles = [m.value or 0.0 for m in finding.evidence if m.name == "ablation_effect"]
    assert singles[0] == pytest.approx(singles[1], rel=1e-4)
    assert evidence["joint_effect"] == pytest.approx(4 * singles[0], rel=0.1)
    assert evidence["interaction"] == pytest.approx((evidence["joint_effect"] or 0) - sum(singles))
    assert evidence["removable_units"] == 1
    assert "one of them must stay" in finding.message


@pytest.mark.parametrize(
    ("name", "kind", "units"),
    [
        ("dead_neurons", "always_zero_units", range(5, 17)),
        ("constant_neurons", "constant_units", range(6)),
        ("idle_head", "never_read_units", [2]),
    ],
)
def test_dead_units_are_counted_and_told_apart(name: str, kind: str, units: Iterable[int]) -> None:
    [finding] = hits(_plant(name), True)
    numbers = list(units)
    evidence = _evidence(finding)
    assert evidence["dead_units"] == evidence[kind] == len(numbers)
    listed = finding.evidence[0].note.split()[1:]
    assert [int(n) for n in listed] == numbers
    assert finding.severity == pytest.approx(len(numbers) / (evidence["units"] or 1))


def test_copied_neurons_form_one_group() -> None:
    [finding] = hits(_plant("duplicate_neurons"), True)
    evidence = _evidence(finding)
    assert evidence["removable_units"] == 4
    assert evidence["duplicate_groups"] == 1
    assert "3=10=11=12=13" in finding.evidence[0].note


def test_a_pinch_keeps_its_two_dimensions() -> None:
    [finding] = hits(_plant("rank_pinch"), True)
    assert 1 < (_evidence(finding)["rank_leaving"] or 0) <= 2.001
    [finding] = hits(_plant("low_rank_weight"), True)
    assert 2 < (_evidence(finding)["rank_leaving"] or 0) <= 3.001


def test_gradients_shrink_by_what_each_layer_was_given() -> None:
    """Orthogonal weights times a third, nine steps: the slope is log10 of three."""
    [vanishing] = hits(_plant("vanishing_gradient"), True)
    [exploding] = hits(_plant("exploding_gradient"), True)
    assert _evidence(vanishing)["gradient_slope"] == pytest.approx(0.481, abs=0.05)
    assert _evidence(exploding)["gradient_slope"] == pytest.approx(-0.477, abs=0.05)
    assert (_evidence(vanishing)["gradient_ratio"] or 1) < 1e-3
    assert (_evidence(exploding)["gradient_ratio"] or 1) > 1e3


def test_a_copied_layer_is_an_identity() -> None:
    [finding] = hits(_plant("identity_layer"), True)
    assert _evidence(finding)["bypass_effect"] == 0
    assert finding.severity == 1


def test_findings_repeat_byte_for_byte_without_the_clock() -> None:
    made = _plant("duplicated_head")(True)
    again = analysed(prepare(made.model, made.data, "fidelity", SETTINGS), SETTINGS)
    timed = {"time-bottleneck", "critical-path-latency", "roofline"}
    before = [f for f in findings(_plant("duplicated_head"), True)[0] if f.code not in timed]
    assert [f.model_dump_json() for f in run_analyzers(again)[0]] == [
        f.model_dump_json() for f in before
    ]


def _check(finding: Finding, name: str) -> Check:
    [found] = [check for check in finding.checks if check.name == name]
    return found


def test_widening_tells_an_artificial_pinch_from_a_necessary_one() -> None:
    """The labels of one hang on what is lost, those of the other on what gets through."""
    [artificial] = hits(_plant("artificial_pinch"), True)
    [necessary] = hits(_plant("necessary_pinch"), True)
    assert _check(artificial, "widening").outcome == "agrees"
    assert _check(necessary, "widening").outcome == "disagrees"
    # What lies behind reaches two of the eight outputs' directions, so a quarter is all there is.
    assert 0.2 < (_evidence(artificial)["widening_gain"] or 0) < 0.25
    assert abs(_evidence(necessary)["widening_gain"] or 0) < 0.05
    assert artificial.severity == pytest.approx(_evidence(artificial)["rank_lost"])
    assert necessary.severity == pytest.approx((_evidence(necessary)["rank_lost"] or 0) / 2)
    assert "artificial" in artificial.message
    assert "necessary" in necessary.message


def test_without_labels_the_widening_trial_says_what_it_would_take() -> None:
    [pinched] = hits(_plant("rank_pinch"), True)
    trial = _check(pinched, "widening")
    assert trial.outcome == "inconclusive"
    assert "it takes labels" in trial.message
    assert _check(pinched, "exact-ablation").outcome == "agrees"


def test_hot_spots_were_removed_together_and_judged_on_two_halves() -> None:
    for name in ("busy_idler", "slow_idler"):
        [finding] = hits(_plant(name), True)
        assert _check(finding, "exact-ablation").outcome == "agrees"
        assert _check(finding, "half-samples").outcome == "agrees"


def test_a_specialist_is_idle_on_the_other_group() -> None:
    [finding] = hits(_plant("specialist"), True)
    shares = {m.note: m.value or 0 for m in finding.evidence}
    assert shares["left"] > 0.05
    assert shares["right"] < 1e-6
    assert _check(finding, "half-samples").outcome == "agrees"


def test_the_calls_of_a_shared_module_are_judged_one_by_one() -> None:
    """The first call counts, the second does nothing, and both are there with the same weights."""
    [finding] = hits(_plant("idle_second_call"), True)
    effects = {m.note: m.value or 0 for m in finding.evidence}
    assert set(effects) == {"blocks.0#1", "blocks.0#2"}
    assert effects["blocks.0#2"] < 0.01 * effects["blocks.0#1"]
    assert _check(finding, "exact-ablation").outcome == "agrees"


def test_ablating_one_call_of_a_shared_module_leaves_the_other_alone() -> None:
    made = _plant("idle_second_call")(False)
    analysis = analysed(prepare(made.model, made.data, "fidelity", SETTINGS), SETTINGS)
    outputs = analysis.subject.anatomy.outputs
    first, second = outputs["blocks.0#1/mlp"], outputs["blocks.0#2/mlp"]
    batch, seen = analysis.subject.calibration[0], {}
    plain = analysis.engine.run(batch, {first: lambda v: seen.update(first=v.clone())})
    cut = {
        second: torch.zeros_like,
        first: lambda v: seen.update(again=v.clone()),
    }
    edited = analysis.engine.run(batch, cut)
    assert torch.equal(seen["first"], seen["again"])
    stream = batch.inputs[0] + seen["first"]
    assert isinstance(made.model.head, nn.Linear)
    assert torch.allclose(edited, made.model.head(stream.mean(1)), atol=1e-5)
    assert not torch.allclose(edited, plain, atol=1e-2)


def test_a_loop_waits_in_its_state_and_not_in_its_input() -> None:
    """Of nine products with the state eight wait for another; ten with the input wait for none."""
    [finding] = hits(_plant("unrolled_loop"), True)
    assert finding.components == tuple(f"again#{k}" for k in range(1, 10))
    evidence = _evidence(finding)
    assert evidence["sequential_steps"] == 9
    share = 8 * 32 * 32 / (10 * 32 * 32 + 9 * 32 * 32 + 32 * 6)
    assert evidence["sequential_share"] == pytest.approx(share)
    assert evidence["speedup_bound"] == pytest.approx(1 / share)
    assert _check(finding, "step-by-step").outcome == "agrees"
    [fused] = hits(_plant("recurrent_loop"), True)
    gates = 3 * 32 * 32
    share = 9 * gates / (10 * 2 * gates + 32 * 6)
    assert _evidence(fused)["sequential_share"] == pytest.approx(share)


def test_what_no_call_reads_can_be_zeroed() -> None:
    [finding] = hits(_plant("unread_branch"), True)
    assert _evidence(finding)["unread_parameters"] == 32 * 6 + 6
    assert _check(finding, "zeroed").outcome == "agrees"
