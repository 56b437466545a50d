"""Builds the flow graph from a subject's program and what was traced."""

from collections import Counter
from itertools import pairwise

import networkx as nx
from torch import fx

from zsei.graph.flow import Attribute, FlowGraph
from zsei.graph.traffic import CONTAINERS
from zsei.records import Component
from zsei.subject.cost import value_bytes
from zsei.subject.reading import is_float, shape
from zsei.subject.types import Subject
from zsei.trace.summary import Trace

NODE_MEASUREMENTS = (
    "rms", "effective_rank", "rank_cap", "saturation", "gradient_rms", "sensitivity",
    "unit_sensitivity", "attribution", "branch_to_stream", "flops_share", "bytes_share",
)  # fmt: skip


def build_graph(subject: Subject, trace: Trace) -> FlowGraph:
    """The flow graph of a subject, with shares, attributions and capacities on its edges."""
    graph: nx.DiGraph[str] = nx.DiGraph()
    for component in subject.anatomy.components:
        if _is_node(component, subject):
            graph.add_node(component.id, **_node_attributes(component, trace))
    carried = (
        _module_edges(subject) if subject.program is None else _program_edges(subject, set(graph))
    )
    heads = _heads_by_attention(subject)
    # What several writers put into one summand (word and position embeddings) is split evenly, and
    # its attribution is nobody's alone.
    writers = Counter((operand, target) for (_, target), (operand, _) in carried.items())
    for (source, target), (operand, size) in carried.items():
        summand, together = (operand, subject.anatomy.outputs[target]), writers[operand, target]
        share = trace.shares[summand] / together if summand in trace.shares else None
        attribution = trace.attributions.get(summand) if together == 1 else None
        if target in heads:
            for head in heads[target]:
                graph.add_edge(source, head, bytes=size // len(heads[target]))
        else:
            graph.add_edge(
                source, target, **_known(bytes=size, share=share, attribution=attribution)
            )
    for attention, members in heads.items():
        size = subject.anatomy.component(members[0]).bytes // max(len(members), 1)
        for head in members:
            share = trace.shares.get((head, attention))
            found = trace.measurements.get(head, {}).get("attribution")
            value = None if found is None else found.value
            graph.add_edge(head, attention, **_known(bytes=size, share=share, attribution=value))
    _fill(graph)
    return FlowGraph(graph=graph)


def _is_node(component: Component, subject: Subject) -> bool:
    if component.kind == "layer":
        return False
    if component.kind == "head" or component.parent is None:
        return True
    return subject.anatomy.component(component.parent).kind not in CONTAINERS


def _known(**attributes: float | int | None) -> dict[str, float | int]:
    return {name: value for name, value in attributes.items() if value is not None}


def _node_attributes(component: Component, trace: Trace) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {
        "kind": component.kind,
        "layer": component.layer,
        "parameters": component.parameters,
        "flops": component.flops,
        "bytes": component.bytes,
        "width": component.width,
    }
    measured = trace.measurements.get(component.id, {})
    for name in NODE_MEASUREMENTS:
        if name in measured and measured[name].value is not None:
            found[name] = measured[name].value
    return {name: value for name, value in found.items() if value is not None}


def _heads_by_attention(subject: Subject) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for component in subject.anatomy.components:
        if component.kind == "head" and component.parent is not None:
            found.setdefault(component.parent, []).append(component.id)
    return found


def _program_edges(subject: Subject, members: set[str]) -> dict[tuple[str, str], tuple[str, int]]:
    """(writer, reader) -> (node that carries the value into the reader, bytes per sample).

    Calls that belong to no component (reshapes, masks, activations between convolutions) pass
    their inputs on. Integer and boolean values count only where an embedding reads them: masks
    steer a computation, they are not what flows.
    """
    assert subject.program is not None
    anatomy = subject.anatomy
    owner: dict[str, str] = {}
    for component in anatomy.components:
        if component.id in members and component.kind not in ("head", "output"):
            for node in anatomy.nodes[component.id]:
                owner[node] = component.id
    samples = subject.calibration[0].size
    reaching: dict[fx.Node, tuple[str, ...]] = {}
    edges: dict[tuple[str, str], tuple[str, int]] = {}
    nodes = list(subject.program.graph_module.graph.nodes)
    for node in nodes:
        here = owner.get(node.name)
        arriving: dict[str, None] = {}
        for argument in node.all_input_nodes:
            flows = is_float(argument) or not shape(argument) or _is_lookup(node, argument)
            # Indices are passed on, perhaps in another shape, until something looks them up.
            passed = flows or not is_float(node)
            if argument.op == "get_attr" or not passed:
                continue
            for source in reaching.get(argument, ()):
                arriving[source] = None
                if flows and here is not None and source != here:
                    edges.setdefault(
                        (source, here), (argument.name, value_bytes(argument) // samples)
                    )
        reaching[node] = tuple(arriving) if here is None else (here,)
    last = nodes[-1].all_input_nodes[0]
    for source in reaching.get(last, ()):
        edges.setdefault((source, "output"), (last.name, value_bytes(last) // samples))
    return edges


def _is_lookup(node: fx.Node, argument: fx.Node) -> bool:
    return "embedding" in str(node.target) and len(node.args) > 1 and node.args[1] is argument


def _module_edges(subject: Subject) -> dict[tuple[str, str], tuple[str, int]]:
    """Leaf modules in the order they were called: all that hooks alone can tell for certain."""
    anatomy = subject.anatomy
    chain = [c for c in anatomy.components if _is_node(c, subject)]
    return {
        (first.id, second.id): (anatomy.outputs[first.id], first.bytes)
        for first, second in pairwise(chain)
    }


def _fill(graph: "nx.DiGraph[str]") -> None:
    """Shares and attributions of edges where nothing is added up, and capacities everywhere.

    A single way in has share 1. Where several ways meet and no sum says how much each brings, the
    share is split evenly and `share_basis` says so.
    """
    for node in graph:
        incoming = list(graph.in_edges(node, data=True))
        measured = [a for _, _, a in incoming if "share" in a]
        for _, _, attributes in incoming:
            if "share" in attributes:
                attributes["share_basis"] = "proximity"
            else:
                left = 1.0 - sum(float(a["share"]) for a in measured)
                unknown = len(incoming) - len(measured)
                attributes["share"] = max(left, 0.0) / unknown
                attributes["share_basis"] = "only way" if len(incoming) == 1 else "even split"
    for source, _, attributes in graph.edges(data=True):
        rank = graph.nodes[source].get("effective_rank")
        if rank is not None:
            attributes["capacity"] = rank
        if "attribution" not in attributes:
            value = graph.nodes[source].get("attribution", graph.nodes[source].get("sensitivity"))
            if value is not None:
                attributes["attribution"] = value
