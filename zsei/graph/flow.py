"""The flow graph: a thin, typed wrapper of one `networkx.DiGraph`."""

from dataclasses import dataclass

import networkx as nx

from zsei.records import FlowData, GraphEdge, GraphNode

Attribute = float | int | str | None


@dataclass(frozen=True, kw_only=True)
class FlowGraph:
    """Components and residual joins as nodes, data that really flows between them as edges.

    Node attributes: kind, layer, parameters, flops, bytes, effective_rank, saturation, sensitivity
    and the like, all scalars. Edge attributes: `bytes` per sample; `share` of the reader's input
    that comes this way; `attribution` Σ a · g of the edge; `capacity`, the effective rank of what
    the writer writes. The graph has no cycles; a module called twice is two nodes.
    """

    graph: "nx.DiGraph[str]"

    def kind(self, node: str) -> str:
        """Kind of a node."""
        return str(self.graph.nodes[node]["kind"])

    def number(self, node: str, name: str) -> float | None:
        """A numeric attribute of a node, None where it was not measured."""
        value = self.graph.nodes[node].get(name)
        return float(value) if isinstance(value, int | float) else None

    def sources(self) -> list[str]:
        """Nodes the user's inputs enter at; where inputs are not known, nodes nothing leads to."""
        inputs = [node for node in self.graph if self.kind(node) == "input"]
        return inputs or [node for node in self.graph if not self.graph.pred[node]]

    @property
    def sink(self) -> str:
        """The node the output leaves at; where it is not known, the last that leads nowhere."""
        ends = [node for node in self.graph if not self.graph.succ[node]]
        return "output" if "output" in self.graph or not ends else ends[-1]

    def endings(self) -> frozenset[str]:
        """The sink, and what hands its value to the output."""
        before = self.graph.pred[self.sink] if self.kind(self.sink) == "output" else ()
        return frozenset({self.sink, *before})

    def data(self) -> FlowData:
        """The graph as a record, nodes and edges in the graph's own order."""
        return FlowData(
            nodes=tuple(
                GraphNode(
                    id=node,
                    kind=str(attributes["kind"]),
                    attributes={k: v for k, v in attributes.items() if k != "kind"},
                )
                for node, attributes in self.graph.nodes(data=True)
            ),
            edges=tuple(
                GraphEdge(source=source, target=target, attributes=dict(attributes))
                for source, target, attributes in self.graph.edges(data=True)
            ),
        )
