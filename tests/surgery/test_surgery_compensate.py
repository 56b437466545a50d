"""Weight redistribution against the slow way, and where it must change nothing."""

import numpy as np
import pytest
import torch
from factories import FAMILIES
from oracles.repair import reader_rows, ridge_fit
from surgery_subjects import (
    difference,
    own_subject,
    sites,
    some_units,
    storages,
    subject,
    unchanged,
)
from torch import nn

from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.surgery.compensate import compensate
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.least_squares import LeastSquares
from zsei.surgery.program_form import apply_plan, plan_edits
from zsei.surgery.readers import find_readers
from zsei.surgery.weights import put_in_program

WITH_READERS = (
    "bert", "gpt2", "llama", "vit", "resnet", "patchtst", "mlp",
    pytest.param("t5", marks=pytest.mark.long),
)  # fmt: skip


@pytest.mark.parametrize("intercept", [True, False])
def test_a_fit_from_sums_is_the_stacked_least_squares_problem(intercept: bool) -> None:
    random = np.random.default_rng(0)
    x, noise = random.normal(size=(60, 7)) + 0.5, random.normal(size=(60, 4))
    y, prior = x @ random.normal(size=(7, 4)) + 1 + noise, random.normal(size=(4, 7))
    fit = LeastSquares(7, 4)
    for part in np.array_split(np.arange(60), 5):
        fit.add(torch.tensor(x[part]), torch.tensor(y[part]))
    weight, bias = fit.solve(torch.tensor(prior), ridge=0.3, intercept=intercept)
    wanted, constant = ridge_fit(x, y, prior, 0.3, intercept)
    assert np.allclose(weight, wanted, atol=1e-9)
    assert (bias is None) == (not intercept)
    if bias is not None and constant is not None:
        assert np.allclose(bias, constant, atol=1e-9)


@pytest.mark.parametrize("drift", [0.0, 1.0])
@pytest.mark.parametrize("family", WITH_READERS)
def test_each_reader_is_solved_as_by_hand(family: str, drift: float) -> None:
    found = subject(family)
    assert found.program is not None
    cuts = [
        RemoveUnits(site=s, units=some_units(s, family))
        for s in sites(found.anatomy, "head", "neuron", "channel")
    ]
    plan = plan_edits(found.program, cuts)
    before = storages(found.model)
    edited = apply_plan(found.program, plan)
    new = compensate(found.program, edited, plan, found.calibration, ridge=0.05, drift=drift)
    readers, _ = find_readers(edited, plan.group.parameters)
    assert readers
    assert {r.weight for r in readers} <= set(new)
    step_by_step = apply_plan(found.program, plan)
    for reader in readers:
        x, y = reader_rows(found.program, step_by_step, plan, reader, found.calibration, drift)
        cut = apply_plan(found.program, plan).graph_module.get_parameter(f"model.{reader.weight}")
        prior = cut.T if reader.transposed else cut.flatten(1)
        weight, bias = ridge_fit(x, y, prior.double().numpy(), 0.05, reader.bias is not None)
        own = new[reader.weight]
        mine = (own.T if reader.transposed else own.flatten(1)).double().numpy()
        scale = np.abs(weight).max()
        # Products of a batch are float32; few rows and a small ridge magnify their rounding.
        assert np.abs(mine - weight).max() <= 3e-3 * scale, reader.node
        values = {reader.weight: own}
        if reader.bias is not None and bias is not None:
            assert np.allclose(new[reader.bias].numpy(), bias, atol=3e-3 * max(1, scale))
            values[reader.bias] = new[reader.bias]
        put_in_program(step_by_step, values)
    assert unchanged(found.model, before)


@pytest.mark.parametrize("family", ["bert", "llama", "resnet"])
def test_repair_brings_outputs_nearer_on_the_data_it_saw(family: str) -> None:
    found = subject(family)
    assert found.program is not None
    kinds = ("head", "neuron", "channel")
    cuts = [RemoveUnits(site=s, units=some_units(s, family)) for s in sites(found.anatomy, *kinds)]
    plan = plan_edits(found.program, cuts)
    plain, repaired = apply_plan(found.program, plan), apply_plan(found.program, plan)
    compensate(found.program, repaired, plan, found.calibration, ridge=1e-3)
    inputs = found.calibration[0].inputs
    wanted = found.program(*inputs)
    assert difference(repaired(*inputs), wanted) < 0.7 * difference(plain(*inputs), wanted)


class Doubled(nn.Module):
    """Neurons 0 to 5 stand a second time as 6 to 11, at half their strength."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)
        with torch.no_grad():
            self.up.weight[6:] = self.up.weight[:6] / 2
            self.up.bias[6:] = self.up.bias[:6] / 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.relu(self.up(x)))


def test_exact_copies_are_made_up_for_without_a_trace() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Doubled(), Doubled(), nn.Linear(8, 3))
    many = Settings(samples=128, batch_size=16)
    found = prepare(model, {"input": torch.randn(128, 8)}, settings=many)
    assert found.program is not None
    cuts = [RemoveUnits(site=s, units=tuple(range(6, 12))) for s in sites(found.anatomy, "neuron")]
    plan = plan_edits(found.program, cuts)
    edited = apply_plan(found.program, plan)
    compensate(found.program, edited, plan, found.calibration, ridge=1e-9)
    for batch in found.held_out:
        assert difference(edited(*batch.inputs), found.program(*batch.inputs)) <= 1e-5


def test_nothing_is_redistributed_where_the_cut_took_nothing_that_is_read() -> None:
    model, data = FAMILIES["mlp"]()
    with torch.no_grad():
        model[2].weight[:, 3] = 0  # nobody reads neuron 3
    found = own_subject(model, data)
    assert found.program is not None
    site = sites(found.anatomy, "neuron")[0]
    plan = plan_edits(found.program, [RemoveUnits(site=site, units=(3,))])
    edited = apply_plan(found.program, plan)
    new = compensate(found.program, edited, plan, found.calibration)
    old = apply_plan(found.program, plan)
    for name, value in new.items():
        assert difference(value, old.graph_module.get_parameter(f"model.{name}")) <= 1e-5


def test_weights_read_in_two_places_are_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 24), nn.Linear(24, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for _ in range(2):
                x = x + self.down(torch.relu(self.up(x)))
            return x

    torch.manual_seed(0)
    found = own_subject(Twice(), {"x": torch.randn(16, 8)})
    assert found.program is not None
    both = sites(found.anatomy, "neuron")
    plan = plan_edits(found.program, [RemoveUnits(site=site, units=(0, 1)) for site in both])
    edited = apply_plan(found.program, plan)
    readers, missed = find_readers(edited, plan.group.parameters)
    assert not readers
    assert missed == 2
    assert compensate(found.program, edited, plan, found.calibration) == {}
