"""Random paths and the test of critical paths, against trying everything and running it whole."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import networkx as nx
import numpy as np
import pytest
import torch
from factories import FAMILIES
from oracles.graph import every_path
from oracles.paths import (
    effect_by_whole_runs,
    heaviest_by_trying,
    lengths_by_trying,
    percentile_by_counting,
)
from prepared import SMALL, analysed, family, measured_only, traced
from scipy.stats import binom, chisquare
from zoo import Planted, loud_unread_route, one_true_path

from zsei.analyzers import Analysis
from zsei.analyzers.check_paths import FEWEST_PATHS, SAMPLES, path_checks
from zsei.analyzers.check_paths import _outcome as outcome_of
from zsei.analyzers.check_paths import _Rivals as Rivals
from zsei.analyzers.critical_path_effect import CriticalPathEffect
from zsei.analyzers.critical_path_information import CriticalPathInformation
from zsei.analyzers.path_parts import part_effects, path_share, removable_parts
from zsei.graph.flow import FlowGraph
from zsei.graph.paths import dominators
from zsei.graph.routes import count_routes, heaviest_routes, number_of_routes, random_routes
from zsei.records import Check, Finding
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.trace.ablation import ReplacementName, Target, ablate_together
from zsei.trace.engine import engine_for
from zsei.trace.sets import ablate_sets

SEEDS = range(8)
SETTINGS = Settings(samples=32, batch_size=16, ablation_sample=24, probes=2, random_paths=40)


def random_flow(seed: int) -> FlowGraph:
    """Two inputs, nine nodes and an output; every edge goes forward with even odds."""
    generator = np.random.default_rng(seed)
    graph: nx.DiGraph[str] = nx.DiGraph()
    nodes = ["input.a", "input.b", *(f"n{i}" for i in range(9)), "output"]
    for node in nodes:
        graph.add_node(node, kind=node.split(".")[0] if node[:2] in ("in", "ou") else "linear")
    for i, target in enumerate(nodes[2:], 2):
        for source in nodes[:i]:
            if generator.random() < 0.45:
                graph.add_edge(source, target, share=float(generator.random()))
    return FlowGraph(graph=graph)


def counted_of(flow: FlowGraph, seed: int) -> set[str]:
    generator = np.random.default_rng([seed, 1])
    return {node for node in flow.graph if generator.random() < 0.6}


@pytest.mark.parametrize("seed", SEEDS)
def test_routes_are_counted_by_length(seed: int) -> None:
    flow = random_flow(seed)
    counted = counted_of(flow, seed)
    ways = count_routes(flow, counted)
    expected = lengths_by_trying(flow.graph, flow.sources(), flow.sink, counted)
    assert sum(expected.values()) > 3
    for length in range(12):
        assert number_of_routes(flow, ways, length) == expected[length]


@pytest.mark.parametrize("seed", SEEDS)
def test_drawn_routes_are_different_paths_of_the_length(seed: int) -> None:
    flow = random_flow(seed)
    counted = counted_of(flow, seed)
    known = every_path(flow.graph, flow.sources(), flow.sink)
    for length, number in lengths_by_trying(flow.graph, flow.sources(), flow.sink, counted).items():
        of_length = {p for p in known if sum(n in counted for n in p) == length}
        few = random_routes(flow, length, 3, counted=counted, seed=seed)
        assert len(few) == len(set(few)) == min(3, number)
        assert set(few) <= of_length
        assert few == random_routes(flow, length, 3, counted=counted, seed=seed)
        assert set(random_routes(flow, length, 999, counted=counted, seed=0)) == of_length
    assert random_routes(flow, 99, 5, counted=counted, seed=0) == []


def test_every_route_is_drawn_as_often_as_any_other() -> None:
    flow = random_flow(1)
    lengths = lengths_by_trying(flow.graph, flow.sources(), flow.sink, set(flow.graph))
    length, number = lengths.most_common(1)[0]
    assert number >= 8
    seen = Counter(random_routes(flow, length, 1, seed=seed)[0] for seed in range(60 * number))
    assert len(seen) == number
    assert chisquare([*seen.values()]).pvalue > 0.001


@pytest.mark.parametrize("seed", SEEDS)
def test_heaviest_routes_have_the_largest_sum_for_their_number_of_parts(seed: int) -> None:
    flow = random_flow(seed)
    generator = np.random.default_rng([seed, 2])
    weight = {node: float(generator.random()) for node in sorted(counted_of(flow, seed))}
    expected = heaviest_by_trying(flow.graph, flow.sources(), flow.sink, weight)
    found = heaviest_routes(flow, weight)
    assert {k: total for k, (_, total) in found.items()} == pytest.approx(expected)
    for k, (path, total) in found.items():
        assert path in every_path(flow.graph, flow.sources(), flow.sink)
        assert sum(node in weight for node in path) == k
        assert sum(weight.get(node, 0.0) for node in path) == pytest.approx(total)


@pytest.mark.parametrize(
    ("name", "replacement"), [("bert", "mean"), ("t5", "resample"), ("resnet", "mean")]
)
def test_sets_share_runs_and_still_do_what_whole_runs_do(
    name: str, replacement: ReplacementName
) -> None:
    subject, means = family(name), traced(name).means
    engine, batch = engine_for(subject), subject.calibration[0]
    targets = [
        Target(site=site, units=(unit,))
        for site in subject.anatomy.sites
        if site.kind in ("head", "branch")
        for unit in range(site.units)
    ]
    generator = np.random.default_rng(3)
    sets = [
        [targets[i] for i in generator.choice(len(targets), size, replace=False)]
        for size in (1, 2, 2, 4, len(targets))
    ]
    found = ablate_sets(
        engine, subject.objective, batch, sets, means=means, replacement=replacement, seed=5
    )
    for members, effect in zip(sets, found, strict=True):
        together = ablate_together(
            engine, subject.objective, [batch], members, means=means, replacement=replacement,
            seed=5,
        )  # fmt: skip
        assert torch.equal(effect, together)
        if replacement == "mean":
            whole = effect_by_whole_runs(engine, subject, 99, members, means)
            torch.testing.assert_close(effect, whole, rtol=1e-4, atol=1e-7)
    assert float(found[-1].abs().max()) > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_paths_are_branches_that_not_every_path_crosses(name: str) -> None:
    analysis = measured_only(name)
    parts = removable_parts(analysis)
    assert not set(parts) & set(dominators(analysis.flow))
    for node, target in parts.items():
        assert target.site.kind in ("head", "branch")
        assert node in analysis.flow.graph
    assert set(part_effects(analysis, parts)) == set(parts)
    findings = (*CriticalPathInformation().find(analysis), *CriticalPathEffect().find(analysis))
    found = path_checks(analysis, findings, out_of_time=lambda: False)
    assert set(found) == {f.id for f in findings}


def test_one_chain_has_no_other_path() -> None:
    analysis = measured_only("mlp")
    assert removable_parts(analysis) == {}
    assert list(CriticalPathEffect().find(analysis)) == []
    findings = list(CriticalPathInformation().find(analysis))
    for check in path_checks(analysis, findings, out_of_time=lambda: False).values():
        assert check.outcome == "inconclusive"


@cache
def checked(plant: Callable[[], Planted]) -> tuple[Analysis, dict[str, Check]]:
    made = plant()
    subject = prepare(made.model, made.data, "fidelity", SETTINGS)
    analysis = analysed(subject, SETTINGS)
    findings = (*CriticalPathInformation().find(analysis), *CriticalPathEffect().find(analysis))
    return analysis, path_checks(analysis, findings, out_of_time=lambda: False)


def strongest(analysis: Analysis) -> Finding:
    return next(CriticalPathInformation().find(analysis))


def numbers(check: Check) -> dict[str, float | None]:
    return {m.name: m.value for m in check.evidence}


def test_the_true_path_is_confirmed() -> None:
    made = one_true_path()
    analysis, checks = checked(one_true_path)
    path = strongest(analysis)
    assert made.component in path.components
    check = checks[path.id]
    assert check.outcome == "agrees"
    assert numbers(check)["path_percentile"] == 1.0
    [whole] = CriticalPathEffect().find(analysis)
    assert made.component in whole.components
    assert checks[whole.id].outcome == "agrees"


def test_a_loud_route_that_nobody_reads_is_called_no_more_critical_than_a_random_one() -> None:
    made = loud_unread_route()
    analysis, checks = checked(loud_unread_route)
    path = strongest(analysis)
    assert made.component in path.components
    check = checks[path.id]
    assert check.outcome == "disagrees"
    assert numbers(check)["path_effect"] == pytest.approx(0, abs=1e-12)
    assert "no more critical than a random one" in check.message
    [whole] = CriticalPathEffect().find(analysis)
    assert made.component not in whole.components


def test_the_numbers_of_a_check_against_whole_runs_of_every_path() -> None:
    """There are fewer paths through two parts than are drawn, so that all of them are."""
    analysis, checks = checked(loud_unread_route)
    path = strongest(analysis)
    parts = removable_parts(analysis)
    every = [
        p
        for p in random_routes(analysis.flow, 2, 999, counted=parts.keys(), seed=0)
        if p != path.components
    ]
    assert FEWEST_PATHS <= len(every) < SETTINGS.random_paths

    def effect(crossed: tuple[str, ...]) -> float:
        targets = [parts[node] for node in crossed if node in parts]
        assert len(targets) == 2
        found = effect_by_whole_runs(
            analysis.engine, analysis.subject, SAMPLES, targets, analysis.trace.means
        )
        return float(found.double().square().mean())

    others = [effect(p) for p in every]
    found = numbers(checks[path.id])
    assert found["path_effect"] == pytest.approx(effect(path.components), abs=1e-12)
    assert found["random_path_effect"] == pytest.approx(float(np.median(others)), rel=1e-3)
    expected = percentile_by_counting(effect(path.components), others)
    assert found["path_percentile"] == pytest.approx(expected)
    shares = [path_share(analysis.flow, p) for p in every]
    ranks = [np.argsort(np.argsort(values)) for values in (shares, others)]
    agreement = float(np.corrcoef(ranks[0], ranks[1])[0, 1])
    assert found["path_rank_agreement"] == pytest.approx(agreement, abs=1e-6)


@pytest.mark.parametrize(
    ("percentile", "count", "every", "outcome"),
    [
        (0.95, 40, False, "agrees"),
        (0.92, 40, False, "inconclusive"),
        (0.92, 40, True, "disagrees"),
        (0.89, 200, False, "disagrees"),
        (0.2, 20, False, "disagrees"),
    ],
)
def test_a_place_that_another_draw_could_change_is_not_decided(
    percentile: float, count: int, every: bool, outcome: str
) -> None:
    rivals = Rivals(paths=((),) * count, effects=(0.0,) * count, every=every)
    assert outcome_of(percentile, rivals) == outcome
    # The interval's end is where so few above are seen one time in twenty.
    if outcome == "inconclusive":
        assert binom.cdf(int(percentile * count), count, 0.95) > 0.05


def test_too_few_other_paths_cannot_tell() -> None:
    analysis = measured_only("vit")
    [path] = CriticalPathEffect().find(analysis)
    few = replace(analysis, settings=SMALL.model_copy(update={"random_paths": 5}))
    [check] = path_checks(few, [path], out_of_time=lambda: False).values()
    assert check.outcome == "inconclusive"
    assert f"fewer than {FEWEST_PATHS}" in check.message


def test_a_spent_budget_and_a_setting_of_zero_say_so() -> None:
    analysis = measured_only("vit")
    [path] = CriticalPathEffect().find(analysis)
    [late] = path_checks(analysis, [path], out_of_time=lambda: True).values()
    assert (late.outcome, "budget" in late.message) == ("inconclusive", True)
    off = replace(analysis, settings=SMALL.model_copy(update={"random_paths": 0}))
    [check] = path_checks(off, [path], out_of_time=lambda: False).values()
    assert (check.outcome, "random_paths" in check.message) == ("inconclusive", True)
