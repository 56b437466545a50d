"""Units held at their mean in the original, and folded into the bias behind them when removed."""

import pytest
import torch
from oracles.interpreter import all_values, run_with_edits
from surgery_subjects import difference, own_subject, sites, some_units, subject
from torch import Tensor, nn

from zsei.subject.types import Site, Subject, UnitKind
from zsei.surgery.apply import apply_edits, example_inputs
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.fold import bias_shifts, foldable
from zsei.surgery.module_form import run


def mean_of(found: Subject, site: Site) -> Tensor:
    """Mean over everything but the units' axis."""
    assert found.program is not None
    value = all_values(found.program, example_inputs(found))[site.node]
    assert site.axis is not None
    others = [axis for axis in range(value.ndim) if axis not in (site.axis, value.ndim - 1)]
    return value.mean(others, keepdim=True)


def held_at_mean(found: Subject, cuts: list[tuple[Site, tuple[int, ...]]]) -> Tensor:
    assert found.program is not None

    def hold(site: Site, units: tuple[int, ...]):
        def edit(value: Tensor) -> Tensor:
            value = value.clone()
            mean = mean_of(found, site).expand_as(value)
            for unit in units:
                assert site.axis is not None
                value.select(site.axis, unit).copy_(mean.select(site.axis, unit))
            return value

        return edit

    edits = {site.node: hold(site, units) for site, units in cuts}
    return run_with_edits(found.program, example_inputs(found), edits)


@pytest.mark.parametrize(
    ("family", "kind"), [("bert", "head"), ("bert", "neuron"), ("gpt2", "neuron")]
)
def test_folded_means_equal_units_held_at_their_mean(family: str, kind: UnitKind) -> None:
    found = subject(family)
    assert found.program is not None
    site = sites(found.anatomy, kind)[0]
    units = some_units(site)
    assert foldable(found.program, site)
    means = {(site.component, site.kind): mean_of(found, site)}
    smaller = apply_edits(found, [RemoveUnits(site=site, units=units)], means)
    wanted = held_at_mean(found, [(site, units)])
    assert smaller.form == "module"
    assert difference(smaller.output, wanted) < 1e-5
    assert difference(run(smaller.model, found.input_names, smaller.inputs), wanted) < 1e-5
    plain = apply_edits(found, [RemoveUnits(site=site, units=units)])
    assert difference(plain.output, wanted) > 1e-5


def test_a_bias_that_is_itself_cut_takes_the_mean_of_what_it_reads() -> None:
    """The mean of a neuron in front goes into those neurons behind that stay."""
    model = nn.Sequential(
        nn.Linear(4, 18), nn.ReLU(), nn.Linear(18, 19), nn.ReLU(), nn.Linear(19, 3)
    )
    found = own_subject(model.eval(), {"x": torch.randn(12, 4), "y": torch.randn(12, 3)})
    assert found.program is not None
    first, second = sites(found.anatomy, "neuron")
    means = {(first.component, "neuron"): mean_of(found, first)}
    cuts = [(first, (2, 7)), (second, (0, 5, 18))]
    edits = [RemoveUnits(site=site, units=units) for site, units in cuts]
    shifts = bias_shifts(found.program, edits, means)
    assert {name: len(shift) for name, shift in shifts.items()} == {"2.bias": 16}
    smaller = apply_edits(found, edits, means)

    def zero(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, [0, 5, 18]] = 0
        return value

    def mean(value: Tensor) -> Tensor:
        value = value.clone()
        value[:, [2, 7]] = value.mean(0)[[2, 7]]
        return value

    edited = {first.node: mean, second.node: zero}
    wanted = run_with_edits(found.program, example_inputs(found), edited)
    assert difference(smaller.output, wanted) < 1e-5


def test_without_a_bias_behind_the_units_nothing_is_folded() -> None:
    found = subject("llama")
    assert found.program is not None
    site = sites(found.anatomy, "neuron")[0]
    assert not foldable(found.program, site)
    edits = [RemoveUnits(site=site, units=(0,))]
    assert bias_shifts(found.program, edits, {(site.component, "neuron"): torch.ones(1)}) == {}
