"""What a unit costs once the others make up for it, by brute force; and what a budget takes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracles.repair import removal_cost
from prepared import subject_of
from torch import nn

from zsei.pruning.allocate import allocate, joined, worth_of
from zsei.pruning.evidence import Moments, PlaceEvidence, gather
from zsei.pruning.order import DAMPING, Curve, removal_curve
from zsei.pruning.places import Left, Place, find_places, sites_left
from zsei.settings import Settings
from zsei.subject.objective import Objective
from zsei.subject.types import Site
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.readers import Reader

READER = Reader(
    node="reader", source="x", weight_node="w", weight="weight", bias=None, transposed=False,
    join=None, skip=None,
)  # fmt: skip


def place_of(units: int, count: int, *, least: int = 1, together: int = 1, kind: str = "neuron",
             parameters: int = 1, name: str = "mlp") -> Place:  # fmt: skip
    """A place that no program has, for arithmetic."""
    site = Site(component=name, kind=kind, node="x", axis=1, units=units)  # type: ignore[arg-type]
    return Place(
        left=Left(site=site, whole=site, numbers=tuple(range(units))), together=together,
        readers=(READER,), inputs=((0, count * together),), parameters=parameters, flops=0.01,
        least=least,
    )  # fmt: skip


def evidence_of(x: np.ndarray, metric: np.ndarray, single: np.ndarray) -> PlaceEvidence:
    """What a pass over rows x would say."""
    rows = torch.tensor(x)
    moments = Moments(rows=len(x), products=rows.T @ rows, metric=torch.tensor(metric), samples=1)
    return PlaceEvidence(sensitivity=torch.tensor(single), moments=(moments,))


@pytest.mark.parametrize("count", [1, 3])
def test_costs_along_a_curve_are_those_of_refitting_by_hand(count: int) -> None:
    random = np.random.default_rng(count)
    units, outputs = 8, 5
    mixed = random.normal(size=(units * count, units * count))
    x = random.normal(size=(200, units * count)) @ mixed
    weight = random.normal(size=(outputs, units * count))
    root = random.normal(size=(outputs, outputs))
    metric = root @ root.T
    place = place_of(units, count)

    def columns(groups: list[int]) -> list[int]:
        return [g * count + i for g in groups for i in range(count)]

    # Measured sensitivities that agree with the rows' own: the sum is then scaled by 1.
    covariance = x.T @ x / len(x) + DAMPING * (x**2).mean() * np.eye(x.shape[1])
    single = []
    for unit in range(units):
        own = columns([unit])
        block = weight[:, own] @ covariance[np.ix_(own, own)] @ weight[:, own].T
        single.append(np.trace(metric @ block) / 2)
    curve = removal_curve(place, evidence_of(x, metric, np.array(single)), [torch.tensor(weight)])
    assert len(curve.groups) == units - 1
    for number in range(1, units):
        gone = list(curve.groups[:number])
        wanted = removal_cost(x, weight, metric, columns(gone), DAMPING)
        assert sum(curve.costs[:number]) == pytest.approx(wanted, rel=1e-6)
        # Greedy: no other unit would have been cheaper at this point.
        before = gone[:-1]
        others = [
            removal_cost(x, weight, metric, columns([*before, unit]), DAMPING)
            for unit in range(units) if unit not in before
        ]  # fmt: skip
        assert wanted == pytest.approx(min(others), rel=1e-6)


def test_of_two_copies_one_goes_for_nothing_and_the_other_does_not() -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=(300, 6))
    x[:, 5] = x[:, 2]
    weight = np.ones((1, 6))
    place = place_of(6, 1)
    curve = removal_curve(place, evidence_of(x, np.eye(1), np.ones(6)), [torch.tensor(weight)])
    assert curve.groups[0] in (2, 5)
    assert curve.costs[0] < 0.05 * curve.costs[1]
    other = ({2, 5} - {curve.groups[0]}).pop()
    assert other not in curve.groups[:1]
    assert curve.costs[-1] > 0.5


def test_a_place_whose_readers_are_unknown_goes_by_what_was_measured() -> None:
    place = replace(place_of(6, 1, least=2), readers=(), inputs=())
    single = torch.tensor([3.0, 1.0, 2.0, 6.0, 5.0, 4.0])
    curve = removal_curve(place, PlaceEvidence(sensitivity=single, moments=()), [])
    assert curve.groups == (1, 2, 0, 5)
    assert curve.costs == (1.0, 2.0, 3.0, 4.0)


def curve_of(name: str, costs: list[float], parameters: int, kind: str = "neuron") -> Curve:
    """A curve that takes units in their own order."""
    place = place_of(len(costs) + 1, 1, parameters=parameters, name=name, kind=kind)
    return Curve(place=place, groups=tuple(range(len(costs))), costs=tuple(costs))


def test_a_budget_takes_the_cheapest_for_what_they_save() -> None:
    curves = [curve_of("a", [1, 2, 9], 10), curve_of("b", [3, 4, 30], 100)]
    chosen = allocate(curves, 205, "parameters")
    taken = {edit.site.component: edit.units for edit in chosen.edits}
    # Per parameter: b 0.03, 0.04, 0.3; a 0.1, 0.2, 0.9.
    assert taken == {"a": (0,), "b": (0, 1)}
    assert (chosen.saved, chosen.cost) == (210, 8)
    assert worth_of(curves[0], "flops") == 0.01
    nothing_left = allocate(curves, 1e9, "parameters")
    assert sum(len(edit.units) for edit in nothing_left.edits) == 6


def test_counts_are_kept_to_the_unit_whatever_they_save() -> None:
    curves = [
        curve_of("h", [1, 5], 10, "head"), curve_of("i", [2, 3], 10, "head"),
        curve_of("n", [0.1, 0.2], 1),
    ]  # fmt: skip
    chosen = allocate(curves, 0, "parameters", counts={"head": 3, "neuron": 1})
    taken = {edit.site.component: edit.units for edit in chosen.edits}
    assert taken == {"h": (0,), "i": (0, 1), "n": (0,)}


def test_further_cuts_are_counted_in_the_originals_numbers() -> None:
    whole = Site(component="mlp", kind="neuron", node="x", axis=1, units=6, unit_ids=("mlp",))
    first = RemoveUnits(site=whole, units=(1, 4))

    class Anatomy:
        sites = (whole,)

    left = sites_left(Anatomy(), [first])[0]  # type: ignore[arg-type]
    assert left.numbers == (0, 2, 3, 5)
    assert left.site.units == 4
    more = RemoveUnits(site=whole, units=(left.numbers[1],))
    assert joined([first], [more])[0].units == (1, 2, 4)


class Net(nn.Module):
    """Convolutions whose channels are read by convolutions, a residual, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.inside = nn.Conv2d(6, 8, 3, padding=1)
        self.back = nn.Conv2d(8, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.stem(x))
        hidden = hidden + self.back(torch.relu(self.inside(hidden)))
        return self.head(hidden.mean((2, 3)))


def test_sensitivities_and_sums_of_a_pass_are_those_of_one_sample_at_a_time() -> None:
    torch.manual_seed(0)
    images = torch.randn(12, 2, 5, 5)
    objective = Objective(name="fidelity", output="values", reason="test")
    found = subject_of(Net(), [images], objective, batch_size=4)
    assert found.program is not None
    settings = Settings(min_channels=2)
    places, refused = find_places(found.program, sites_left(found.anatomy, []), settings)
    inner = [p for p in places if p.left.site.component == "inside"]
    assert inner
    assert inner[0].inputs == ((0, 9),)
    assert inner[0].readers[0].weight == "back.weight"
    evidence = gather(found.program, objective, places, found.calibration, draws=64, seed=0)
    own = evidence[places.index(inner[0])]
    model: Any = found.model
    wanted = torch.zeros(8, dtype=torch.float64)
    with torch.no_grad():
        hidden = torch.relu(model.stem(images))
        inside = torch.relu(model.inside(hidden))

        def rest(inside: torch.Tensor) -> torch.Tensor:
            return model.head((hidden + model.back(inside)).mean((2, 3)))

        clean = rest(inside)
        for unit in range(8):
            held = inside.clone()
            held[:, unit] = 0
            moved = (rest(held) - clean).norm(dim=1) / clean.norm(dim=1)
            wanted[unit] = moved.square().mean() / 2
        patches = nn.functional.unfold(inside, 3, padding=1).transpose(1, 2).flatten(0, 1)
    # The model is linear behind these channels, so the probes' mean square is the exact one.
    assert torch.allclose(own.sensitivity, wanted, rtol=0.35)
    moments = own.moments[0]
    assert moments.rows == len(patches)
    assert torch.allclose(moments.products, patches.T @ patches, rtol=1e-4, atol=1e-3)
    assert refused == {} or all(isinstance(reason, str) for reason in refused.values())
