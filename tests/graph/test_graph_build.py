"""The flow graph: edges where data flows, and shares that add up."""

import networkx as nx
import pytest
from factories import FAMILIES
from oracles.graph import edges_by_reaching
from prepared import SMALL, family, seeded, subject_of, traced
from torch import Tensor, nn

from zsei.graph.build import build_graph
from zsei.graph.flow import FlowGraph
from zsei.subject.objective import Objective
from zsei.trace.engine import engine_for
from zsei.trace.run import trace
from zsei.trace.taps import find_taps


def flow_of(name: str) -> FlowGraph:
    return build_graph(family(name), traced(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_edges_are_those_a_search_back_through_the_program_finds(name: str) -> None:
    subject, flow = family(name), flow_of(name)
    heads = {c.id: c.parent for c in subject.anatomy.components if c.kind == "head"}
    expected = edges_by_reaching(subject, set(flow.graph))
    # An attention with heads is entered through its heads.
    entered = {parent: [h for h in heads if heads[h] == parent] for parent in heads.values()}
    spread = {
        (source, target) for source, reader in expected for target in entered.get(reader, [reader])
    } | {(head, parent) for head, parent in heads.items()}
    assert set(flow.graph.edges) == spread


@pytest.mark.parametrize("name", FAMILIES)
def test_the_graph_is_acyclic_and_runs_from_the_inputs_to_the_output(name: str) -> None:
    flow = flow_of(name)
    assert nx.is_directed_acyclic_graph(flow.graph)
    inputs = flow.sources()
    assert any(nx.has_path(flow.graph, source, "output") for source in inputs)
    behind = nx.ancestors(flow.graph, "output")
    masks = {"input.attention_mask"}
    assert set(flow.graph) - behind - {"output"} <= masks
    kinds = {flow.kind(node) for node in flow.graph}
    assert "layer" not in kinds


@pytest.mark.parametrize("name", FAMILIES)
def test_the_shares_into_every_node_sum_to_one(name: str) -> None:
    flow = flow_of(name)
    for node in flow.graph:
        incoming = [a["share"] for _, _, a in flow.graph.in_edges(node, data=True)]
        if incoming:
            assert sum(incoming) == pytest.approx(1, abs=1e-6), node
            assert min(incoming) >= 0


@pytest.mark.parametrize("name", ["bert", "llama", "resnet"])
def test_a_join_takes_its_shares_from_its_summands(name: str) -> None:
    subject, flow = family(name), flow_of(name)
    for join in find_taps(subject, engine_for(subject)).joins:
        attributes = [a for _, _, a in flow.graph.in_edges(join.component, data=True)]
        assert {a["share_basis"] for a in attributes} == {"proximity"}
        assert sorted(a["share"] for a in attributes) == pytest.approx(
            sorted(traced(name).shares[x, join.node] for x in (join.skip, join.branch))
        )
        assert all("attribution" in a for a in attributes)


def test_two_embeddings_share_the_stream_they_make_together() -> None:
    """GPT-2 adds word and position embeddings outside of any component."""
    flow = flow_of("gpt2")
    into = {s: a for s, _, a in flow.graph.in_edges("transformer.h.0/residual", data=True)}
    assert set(into) == {"transformer.wte", "transformer.wpe", "transformer.h.0/attention"}
    assert into["transformer.wte"]["share"] == into["transformer.wpe"]["share"]


def test_token_ids_reach_the_embedding_through_a_reshape() -> None:
    assert flow_of("gpt2").graph.has_edge("input.input_ids", "transformer.wte")


def test_masks_steer_and_do_not_flow() -> None:
    assert list(flow_of("bert").graph.successors("input.attention_mask")) == []


def test_bytes_and_capacities_are_those_of_the_writer() -> None:
    subject, flow = family("bert"), flow_of("bert")
    edge = flow.graph.edges["encoder.layer.0/mlp", "encoder.layer.0/residual.2"]
    assert edge["bytes"] == 16 * 32 * 4
    measured = traced("bert").measurements["encoder.layer.0/mlp"]["effective_rank"]
    assert edge["capacity"] == measured.value
    heads = [c for c in subject.anatomy.components if c.parent == "encoder.layer.0/attention"]
    heads = [c for c in heads if c.kind == "head"]
    out = [flow.graph.edges[h.id, "encoder.layer.0/attention"]["bytes"] for h in heads]
    assert sum(out) == 16 * 32 * 4


def test_a_shared_module_called_twice_is_two_nodes() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(self.inner(self.inner(x).tanh()).tanh())

    objective = Objective(name="fidelity", output="values", reason="")
    subject = subject_of(Shared(), [seeded(16, 5)], objective)
    flow = build_graph(subject, trace(subject, SMALL))
    assert list(flow.graph.edges) == [
        ("input.x", "inner#1"), ("inner#1", "inner#2"), ("inner#2", "outer"), ("outer", "output")
    ]  # fmt: skip


def test_the_same_trace_gives_the_same_graph() -> None:
    first, second = flow_of("bert").data(), flow_of("bert").data()
    assert first.model_dump_json() == second.model_dump_json()
    assert SMALL.seed == 0
