"""Every planted defect is found where it was planted, and not in the healthy twin."""

from collections.abc import Callable

import pytest
from prepared import analysed
from torch import Tensor
from zoo import ZOO, Planted

from zsei.analyzers import run_analyzers
from zsei.records import Finding
from zsei.resources import load_cards
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.program import model_hash

SETTINGS = Settings(samples=32, batch_size=16, ablation_sample=24, probes=4)

Plant = Callable[[bool], Planted]


FOUND: dict[str, tuple[Finding, ...]] = {}
"""Model hash -> findings: many twins are one and the same model."""


def findings(plant: Plant, planted: bool) -> tuple[tuple[Finding, ...], Planted]:
    made = plant(planted)
    key = f"{model_hash(made.model)} {hash_of(made.data)}"
    if key not in FOUND:
        analysis = analysed(prepare(made.model, made.data, "fidelity", SETTINGS), SETTINGS)
        found, timed, failures = run_analyzers(analysis)
        assert failures == ()
        FOUND[key] = (*found, *timed)
    return FOUND[key], made


def hash_of(data: Tensor) -> str:
    return f"{tuple(data.shape)} {float(data.double().square().sum())}"


def hits(plant: Plant, planted: bool) -> list[Finding]:
    found, made = findings(plant, planted)
    return [f for f in found if f.code == made.code and made.component in f.components]


@pytest.mark.parametrize("plant", ZOO, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_found(plant: Plant) -> None:
    assert hits(plant, True)


@pytest.mark.parametrize("plant", ZOO, ids=lambda plant: plant.__name__)
def test_its_healthy_twin_is_not_accused(plant: Plant) -> None:
    assert hits(plant, False) == []


@pytest.mark.parametrize("plant", ZOO, ids=lambda plant: plant.__name__)
def test_findings_are_few_distinct_and_say_what_they_rest_on(plant: Plant) -> None:
    known = set(load_cards(Settings()).metrics)
    for planted in (True, False):
        found, _ = findings(plant, planted)
        assert len(found) <= 15
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
    singles = [m.value for m in finding.evidence if m.name == "ablation_effect"]
    assert singles[0] == pytest.approx(singles[1], rel=1e-4)
    assert evidence["joint_effect"] == pytest.approx(4 * singles[0], rel=0.1)
    assert evidence["interaction"] == pytest.approx(evidence["joint_effect"] - sum(singles))
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
def test_dead_units_are_counted_and_told_apart(name: str, kind: str, units: object) -> None:
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
    timed = {"time-bottleneck", "critical-path-latency"}
    before = [f for f in findings(_plant("duplicated_head"), True)[0] if f.code not in timed]
    assert [f.model_dump_json() for f in run_analyzers(again)[0]] == [
        f.model_dump_json() for f in before
    ]
