"""Saturated units, undefined values and idle experts: what the findings say, in numbers."""

import factories
import pytest
import torch
from prepared import analysed
from zoo import saturated_units, undefined_root

from zsei.analyzers.dead_units import DeadUnits
from zsei.analyzers.saturated_units import SaturatedUnits
from zsei.analyzers.undefined_values import UndefinedValues
from zsei.settings import Settings
from zsei.subject.prepare import prepare

SETTINGS = Settings(samples=32, batch_size=16, ablation_sample=8, probes=2)


def test_saturated_units_are_counted_and_numbered() -> None:
    made = saturated_units(True)
    analysis = analysed(prepare(made.model, made.data, "fidelity", SETTINGS), SETTINGS)
    [finding] = SaturatedUnits().find(analysis)
    evidence = {m.name: m for m in finding.evidence}
    assert evidence["saturated_units"].value == 8
    assert evidence["saturated_units"].note == "tanh: 3 4 5 6 7 8 9 10"
    assert evidence["units"].value == 24
    assert finding.severity == pytest.approx(8 / 24)


def test_rectifiers_that_are_off_are_dead_and_not_saturated() -> None:
    model, data = factories.tiny_mlp()
    with torch.no_grad():
        dict(model.named_parameters())["0.bias"][:3] = -50
    analysis = analysed(prepare(model, data, settings=SETTINGS), SETTINGS)
    assert list(SaturatedUnits().find(analysis)) == []
    assert next(iter(DeadUnits().find(analysis))).components == ("0",)


def test_undefined_values_are_counted_by_group() -> None:
    made = undefined_root(True)
    bad = made.data[:, 0] < 0
    data = {"odd": made.data[bad], "even": made.data[~bad]}
    analysis = analysed(prepare(made.model, data, "fidelity", SETTINGS), SETTINGS)
    [finding] = UndefinedValues().find(analysis)
    by_group = {m.note: m for m in finding.evidence if m.name == "undefined_share"}
    assert by_group["group odd"].value == 1
    assert by_group["group even"].value == 0
    assert finding.evidence[0].value == by_group["group odd"].n
    assert "It reaches the output." in finding.message
    assert "of odd" in finding.message


@pytest.mark.parametrize("idle", [True, False])
def test_an_expert_its_router_never_picks_is_dead(idle: bool) -> None:
    """Its score is the mean of the others' scores, so that it is never the highest."""
    model, data = factories.tiny_mixtral(num_experts_per_tok=1)
    router = dict(model.named_parameters())["model.layers.1.mlp.gate.weight"]
    with torch.no_grad():
        router.normal_(generator=torch.Generator().manual_seed(3))
        if idle:
            router[2] = (router[0] + router[1] + router[3]) / 3
    analysis = analysed(prepare(model, data, settings=SETTINGS), SETTINGS)
    found = [
        f for f in DeadUnits().find(analysis) if f.components == ("model.layers.1/experts",)
    ]  # fmt: skip
    experts = [f for f in found if "router" in f.message]
    assert len(experts) == idle
    if idle:
        dead, units = experts[0].evidence
        assert (dead.value, dead.note, units.value) == (1, "experts 2", 4)
        assert experts[0].severity == pytest.approx(0.25)
