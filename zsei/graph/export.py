"""The flow graph outside: networkx, GraphML, node-link JSON. Attributes are scalars everywhere."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import networkx as nx

from zsei.graph.flow import FlowGraph
from zsei.records import FlowData

Value = float | int | str | None
_HEAD = """<?xml version='1.0' encoding='utf-8'?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns \
http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""


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
    """Write GraphML, which Gephi, yEd and Cytoscape read; `networkx.read_graphml` gives the graph.

    Written line by line: a tree of XML elements takes ten times as long and as much memory.
    """
    nodes = [(f"node id={quoteattr(n.id)}", {"kind": n.kind} | n.attributes) for n in flow.nodes]
    edges = [
        (f"edge source={quoteattr(e.source)} target={quoteattr(e.target)}", e.attributes)
        for e in flow.edges
    ]
    keys = {"node": _types(row for _, row in nodes), "edge": _types(row for _, row in edges)}
    numbers = {key: f"d{i}" for i, key in enumerate((d, name) for d in keys for name in keys[d])}
    with path.open("w", encoding="utf-8") as file:
        file.write(_HEAD)
        for (domain, name), number in numbers.items():
            kind, named = keys[domain][name], quoteattr(name)
            file.write(
                f'<key id="{number}" for="{domain}" attr.name={named} attr.type="{kind}" />\n'
            )
        file.write('<graph edgedefault="directed">\n')
        for domain, items in (("node", nodes), ("edge", edges)):
            for tag, row in items:
                data = "".join(
                    f'<data key="{numbers[domain, name]}">{_text(value, keys[domain][name])}</data>'
                    for name, value in row.items()
                    if value is not None
                )
                file.write(f"<{tag}>{data}</{domain}>\n")
        file.write("</graph>\n</graphml>\n")
    return path


def write_json(flow: FlowData, path: Path) -> Path:
    """Write networkx's node-link JSON."""
    data = nx.node_link_data(to_networkx(flow), edges="edges")
    # Without indentation: json is then written in C, ten times as fast.
    path.write_text(json.dumps(data, allow_nan=False), encoding="utf-8")
    return path


def _types(rows: Iterable[Mapping[str, Value]]) -> dict[str, str]:
    """Attribute -> its GraphML type. One type per attribute: mixed numbers are doubles."""
    found: dict[str, str] = {}
    for row in rows:
        for name, value in row.items():
            if value is None:
                continue
            kind = "string" if isinstance(value, str) else "double"
            kind = "long" if isinstance(value, int) else kind
            before = found.setdefault(name, kind)
            if before != kind:
                found[name] = "string" if "string" in (before, kind) else "double"
    return found


def _text(value: Value, kind: str) -> str:
    if kind == "double" and not isinstance(value, str):
        return repr(float(value or 0))
    return escape(str(value))
