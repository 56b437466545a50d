"""Round trips: GraphML and node-link JSON give back the graph that was written."""

import json
from pathlib import Path

import networkx as nx
import pytest
from prepared import family, traced

from zsei.graph.build import build_graph
from zsei.graph.export import to_networkx, write_graphml, write_json
from zsei.records import FlowData


@pytest.fixture(scope="module", params=["bert", "resnet", "mlp"])
def flow(request: pytest.FixtureRequest) -> FlowData:
    return build_graph(family(request.param), traced(request.param)).data()


def _assert_equal(found: nx.DiGraph, expected: nx.DiGraph) -> None:
    assert list(found.nodes) == list(expected.nodes)
    assert set(found.edges) == set(expected.edges)
    for node, attributes in expected.nodes(data=True):
        assert found.nodes[node] == pytest.approx(attributes), node
    for source, target, attributes in expected.edges(data=True):
        assert found.edges[source, target] == pytest.approx(attributes), (source, target)


def test_data_becomes_a_graph_and_its_attributes_are_scalars(flow: FlowData) -> None:
    graph = to_networkx(flow)
    assert len(graph) == len(flow.nodes) > 3
    assert graph.number_of_edges() == len(flow.edges) > 3
    rows = [a for _, a in graph.nodes(data=True)] + [a for _, _, a in graph.edges(data=True)]
    assert all(isinstance(value, str | int | float) for row in rows for value in row.values())


def test_graphml_gives_back_what_was_written(flow: FlowData, tmp_path: Path) -> None:
    path = write_graphml(flow, tmp_path / "flow.graphml")
    _assert_equal(nx.read_graphml(path), to_networkx(flow))


def test_graphml_has_one_type_per_attribute(flow: FlowData, tmp_path: Path) -> None:
    text = write_graphml(flow, tmp_path / "flow.graphml").read_text()
    keys = [line for line in text.splitlines() if "<key " in line]
    named = [(line.split('for="')[1].split('"')[0], line.split('attr.name="')[1].split('"')[0])
             for line in keys]  # fmt: skip
    assert len(named) == len(set(named))


def test_json_gives_back_what_was_written(flow: FlowData, tmp_path: Path) -> None:
    path = write_json(flow, tmp_path / "flow.json")
    loaded = nx.node_link_graph(json.loads(path.read_text()), edges="edges")
    _assert_equal(loaded, to_networkx(flow))


def test_a_record_keeps_the_graph_as_it_was(flow: FlowData) -> None:
    again = FlowData.model_validate_json(flow.model_dump_json())
    assert again == flow
    _assert_equal(to_networkx(again), to_networkx(flow))
