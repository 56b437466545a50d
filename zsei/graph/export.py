"""The flow graph outside: networkx, GraphML, node-link JSON. Attributes are scalars everywhere."""

import json
from pathlib import Path

import networkx as nx

from zsei.graph.flow import FlowGraph
from zsei.records import FlowData


class FlowDiGraph(nx.DiGraph):
    """A `networkx.DiGraph` that draws itself in a notebook."""

    def _repr_html_(self) -> str:
        from zsei.report.notebook import graph_html

        return graph_html(FlowGraph(graph=self).data())


def to_networkx(flow: FlowData) -> FlowDiGraph:
    """The graph as networkx; node `kind` is an attribute like the others."""
    graph = FlowDiGraph()
    for node in flow.nodes:
        known = {k: v for k, v in node.attributes.items() if v is not None}
        graph.add_node(node.id, kind=node.kind, **known)
    for edge in flow.edges:
        known = {k: v for k, v in edge.attributes.items() if v is not None}
        graph.add_edge(edge.source, edge.target, **known)
    return graph


def write_graphml(flow: FlowData, path: Path) -> Path:
    """Write GraphML, which Gephi, yEd and Cytoscape read."""
    graph = to_networkx(flow)
    _same_types(graph)
    nx.write_graphml(graph, path)
    return path


def write_json(flow: FlowData, path: Path) -> Path:
    """Write networkx's node-link JSON."""
    data = nx.node_link_data(to_networkx(flow), edges="edges")
    path.write_text(json.dumps(data, indent=1, allow_nan=False), encoding="utf-8")
    return path


def _same_types(graph: nx.DiGraph) -> None:
    """GraphML wants one type per attribute: numbers that are mixed become floats."""
    for items in (graph.nodes(data=True), graph.edges(data=True)):
        rows = [entry[-1] for entry in items]
        mixed = {
            key
            for row in rows
            for key, value in row.items()
            if isinstance(value, float)
        }  # fmt: skip
        for row in rows:
            for key in mixed & set(row):
                if isinstance(row[key], int):
                    row[key] = float(row[key])
