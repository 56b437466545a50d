"""Fewer bits go where they do least harm, and never beyond the bound, measured together."""

import itertools
import math
from collections.abc import Sequence
from functools import cache

import networkx
import pytest
import torch
from oracles.precision import best_beginning
from precision_models import cancelling, of_family, workload
from torch import Tensor, nn

from zsei.errors import SpeedUpRefused
from zsei.graph.build import build_graph
from zsei.settings import Settings
from zsei.speedups.lower_precision import LowerPrecision
from zsei.speedups.placement import Placement, critical_of, mean_divergence, place, upper
from zsei.speedups.runnable import Runnable, bare
from zsei.speedups.workload import Workload
from zsei.trace.run import trace


class Sum(nn.Module):
    """One value, and by how much each of its parts moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.sum() / 4


class Moved(nn.Module):
    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + self.by)


@cache
def given() -> Workload:
    return workload(Sum(), [torch.randn(16, 4)])


def placed(
    parts: dict[str, float], bound: float, critical: Sequence[str] = (), refused: str = ""
) -> tuple[Placement, list[tuple[str, ...]]]:
    """Parts whose divergences add up: relative L2 is exactly the factor that is added."""
    start, asked = given(), []

    def lower(ids: Sequence[str]) -> Runnable:
        asked.append(tuple(ids))
        if refused in ids:
            raise SpeedUpRefused("not this one")
        return bare(start.model, ("x",)).with_module(Moved(sum(parts[name] for name in ids)))

    return place(start, list(parts), lower, bound=bound, critical=critical), asked


@pytest.mark.parametrize("bound", [0.0005, 0.0011, 0.0026, 0.0035, 0.0061, 0.1])
def test_as_many_as_the_bound_allows(bound: float) -> None:
    parts = {"d": 0.005, "a": 0.001, "c": 0.003, "b": 0.002}
    found, asked = placed(parts, bound)
    fit = [name for name in "abcd" if parts[name] <= bound]
    joint = {k: sum(parts[name] for name in fit[:k]) for k in range(1, len(fit) + 1)}
    assert list(found.lowered) == best_beginning(fit, joint, bound)
    assert found.joint.value == pytest.approx(sum(parts[n] for n in found.lowered), abs=1e-6)
    assert found.runs == len(asked) <= len(parts) + math.ceil(math.log2(len(parts) + 1))
    for row in found.table:
        assert row.sensitivity.value == pytest.approx(parts[row.component], abs=1e-6)


def test_off_the_critical_path_first() -> None:
    parts = {"a": 0.001, "b": 0.002, "c": 0.003}
    assert placed(parts, 0.0055)[0].lowered == ("a", "b")
    assert placed(parts, 0.0055, critical=("a",))[0].lowered == ("b", "c")


def test_the_order_is_critical_last_then_sensitivity() -> None:
    parts = {"a": 0.001, "b": 0.002, "c": 0.003}
    found = placed(parts, 1.0, critical=("a",))[0]
    assert [row.component for row in found.table] == ["b", "c", "a"]
    assert [row.critical for row in found.table] == [False, False, True]


def test_what_passes_the_bound_alone_holds_up_no_other() -> None:
    found = placed({"a": 0.001, "loud": 5.0, "b": 0.002}, 0.004, critical=("b",))[0]
    assert found.lowered == ("a", "b")
    assert found.kept == ("loud",)


def test_what_is_refused_or_not_finite_stays_out() -> None:
    found = placed({"a": 0.001, "b": 0.001, "c": math.nan}, 0.01, refused="b")[0]
    assert found.lowered == ("a",)
    states = {row.component: row.sensitivity for row in found.table}
    assert states["b"].value is states["c"].value is None
    assert "not this one" in states["b"].note


def test_nothing_is_lowered_where_nothing_fits() -> None:
    found = placed({"a": 0.1, "b": 0.2}, 0.01)[0]
    assert found.lowered == ()
    assert found.joint.value == 0


def test_a_planted_sensitive_layer_stays_in_float32() -> None:
    start = cancelling()

    def lower(ids: Sequence[str]) -> Runnable:
        speedup = LowerPrecision()
        params = speedup.params.model_validate({"components": list(ids)})
        return speedup.apply(bare(start.model, start.input_names), params, workload=start)  # type: ignore[arg-type]

    found = place(start, ["first", "middle", "last"], lower, bound=0.01)
    assert set(found.lowered) == {"first", "last"}
    assert found.kept == ("middle",)
    assert upper(found.joint) <= 0.01


def test_the_divergence_is_the_mean_over_real_samples() -> None:
    start = of_family("bert")
    runnable = bare(start.model, start.input_names)
    assert mean_divergence(runnable, start).value == 0
    moved = Moved(0.01)
    values = given()
    told = mean_divergence(runnable.with_module(moved), values, batches=1)
    assert told.value == pytest.approx(0.01, abs=1e-6)
    assert told.n == values.calibration[0].size


def test_the_critical_path_is_the_strongest_of_all_paths() -> None:
    subject = of_family("bert").subject
    traced = trace(subject, Settings(), clock=False)
    whole = build_graph(subject, traced)
    flow = whole.graph

    def strength(path: list[str]) -> float:
        pairs = itertools.pairwise(path)
        return math.prod(flow.edges[pair].get("share") or 0.0 for pair in pairs)

    every = (networkx.all_simple_paths(flow, source, whole.sink) for source in whole.sources())
    strongest = max(itertools.chain.from_iterable(every), key=strength)
    critical = critical_of(subject)
    assert set(strongest) <= critical
    parents = {component.id: component.parent for component in subject.anatomy.components}
    for name, parent in parents.items():
        if parent in strongest:
            assert name in critical, "what a critical component holds is critical"
    assert critical < parents.keys() | set(strongest), "not everything is critical"
