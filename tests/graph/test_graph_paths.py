"""Paths, dominators and cuts of small random graphs against trying everything."""

import math

import networkx as nx
import numpy as np
import pytest
from oracles.graph import (
    cut_by_trying,
    dominators_by_trying,
    every_path,
    longest_by_trying,
    strongest_by_trying,
)

from zsei.graph.flow import FlowGraph
from zsei.graph.paths import dominators, longest_path, minimum_cut, strongest_paths

SEEDS = range(12)


def random_flow(seed: int) -> FlowGraph:
    """One or two inputs, seven nodes and an output; edges only forward, shares sum to one."""
    generator = np.random.default_rng(seed)
    inputs = [f"input.{i}" for i in range(1 + seed % 2)]
    inner = [f"n{i}" for i in range(7)]
    nodes = [*inputs, *inner, "output"]
    graph: nx.DiGraph[str] = nx.DiGraph()
    for node in nodes:
        kind = "input" if node in inputs else "output" if node == "output" else "linear"
        graph.add_node(node, kind=kind, effective_rank=float(generator.integers(1, 9)))
    # Some ranks are not known.
    del graph.nodes["n2"]["effective_rank"]
    for i, node in enumerate(nodes[len(inputs) :], len(inputs)):
        earlier = nodes[:i] if node != "output" else [n for n in nodes[:i] if n not in inputs]
        chosen = generator.choice(
            len(earlier), size=min(len(earlier), 1 + int(i > 3)), replace=False
        )
        shares = generator.dirichlet(np.ones(len(chosen)))
        for index, share in zip(chosen, shares, strict=True):
            graph.add_edge(earlier[index], node, share=float(share))
    return FlowGraph(graph=graph)


def _connected(flow: FlowGraph) -> bool:
    return bool(every_path(flow.graph, flow.sources(), "output"))


@pytest.mark.parametrize("seed", SEEDS)
def test_strongest_paths_are_the_largest_products(seed: int) -> None:
    flow = random_flow(seed)
    expected = strongest_by_trying(flow.graph, flow.sources(), "output")
    for k in (1, 3, 50):
        found = strongest_paths(flow, k)
        assert [share for _, share in found] == pytest.approx([s for s, _ in expected[:k]])
        assert {path for path, _ in found} <= {path for _, path in expected}
        assert len(found) == len({path for path, _ in found}) == min(k, len(expected))


@pytest.mark.parametrize("seed", SEEDS)
def test_longest_path_is_the_largest_sum(seed: int) -> None:
    flow = random_flow(seed)
    weight = {n: float(w) for n, w in zip(flow.graph, np.random.default_rng(seed).random(99))}  # noqa: B905
    path, total = longest_path(flow, weight)
    if not _connected(flow):
        assert (path, total) == ((), 0.0)
        return
    best = longest_by_trying(flow.graph, flow.sources(), "output", weight)
    assert total == pytest.approx(best)
    assert total == pytest.approx(sum(weight[node] for node in path))
    assert path in every_path(flow.graph, flow.sources(), "output")


@pytest.mark.parametrize("seed", SEEDS)
def test_dominators_are_on_every_path(seed: int) -> None:
    flow = random_flow(seed)
    found = dominators(flow)
    if not _connected(flow):
        assert found == ()
        return
    assert set(found) == dominators_by_trying(flow.graph, flow.sources(), "output")
    order = list(nx.topological_sort(flow.graph))
    assert list(found) == sorted(found, key=order.index)


@pytest.mark.parametrize("seed", SEEDS)
def test_minimum_cut_is_the_cheapest_set_that_every_path_crosses(seed: int) -> None:
    flow = random_flow(seed)
    ends = {*flow.sources(), "output"}
    capacity = {
        node: rank
        for node in flow.graph
        if node not in ends and (rank := flow.number(node, "effective_rank")) is not None
    }
    value, nodes = minimum_cut(flow)
    if not _connected(flow):
        assert (value, nodes) == (0.0, ())
        return
    assert value == cut_by_trying(flow.graph, flow.sources(), "output", capacity)
    if math.isinf(value):
        assert nodes == ()
        return
    assert sum(capacity[node] for node in nodes) == value
    paths = every_path(flow.graph, flow.sources(), "output")
    assert all(set(path) & set(nodes) for path in paths)


def test_the_random_graphs_cover_the_cases() -> None:
    flows = [random_flow(seed) for seed in SEEDS]
    assert sum(_connected(flow) for flow in flows) >= 8
    assert any(len(strongest_paths(flow, 9)) > 3 for flow in flows)
    cuts = [minimum_cut(flow) for flow in flows]
    assert any(len(nodes) > 1 for _, nodes in cuts)
    assert any(math.isinf(value) for value, _ in cuts)


def test_a_share_of_zero_is_no_way() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name, kind in (("input.x", "input"), ("a", "linear"), ("output", "output")):
        graph.add_node(name, kind=kind)
    graph.add_edge("input.x", "a", share=1.0)
    graph.add_edge("a", "output", share=0.0)
    assert strongest_paths(FlowGraph(graph=graph), 3) == []


def test_without_known_ends_a_chain_still_has_them() -> None:
    graph: nx.DiGraph[str] = nx.DiGraph()
    for name in "abc":
        graph.add_node(name, kind="linear", effective_rank=2.0)
    graph.add_edge("a", "b", share=1.0)
    graph.add_edge("b", "c", share=1.0)
    flow = FlowGraph(graph=graph)
    assert flow.sources() == ["a"]
    assert flow.sink == "c"
    assert flow.endings() == {"c"}
    assert dominators(flow) == ("a", "b", "c")
    assert strongest_paths(flow, 2) == [(("a", "b", "c"), 1.0)]
    assert minimum_cut(flow) == (2.0, ("b",))
