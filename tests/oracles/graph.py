"""Paths, cuts and edges of small graphs, by trying everything."""

from collections.abc import Iterable, Iterator
from itertools import combinations, pairwise
from math import inf, prod
from typing import Any

import networkx as nx
import torch
from torch import Tensor, fx

from zsei.subject.reading import is_float, shape
from zsei.subject.types import Subject


def every_path(graph: "nx.DiGraph[str]", sources: list[str], sink: str) -> list[tuple[str, ...]]:
    """All paths from any source to the sink."""
    found: list[tuple[str, ...]] = []

    def walk(path: tuple[str, ...]) -> None:
        if path[-1] == sink:
            found.append(path)
            return
        for following in graph.successors(path[-1]):
            walk((*path, following))

    for source in sources:
        walk((source,))
    return found


def strongest_by_trying(
    graph: "nx.DiGraph[str]", sources: list[str], sink: str
) -> list[tuple[float, tuple[str, ...]]]:
    """All paths with their product of shares, largest first."""
    paths = every_path(graph, sources, sink)
    ranked = [(prod(graph.edges[u, v]["share"] for u, v in pairwise(p)), p) for p in paths]
    return sorted(ranked, key=lambda item: (-item[0], item[1]))


def longest_by_trying(
    graph: "nx.DiGraph[str]", sources: list[str], sink: str, weight: dict[str, float]
) -> float:
    """Largest sum of node weights along a path."""
    return max(sum(weight[n] for n in path) for path in every_path(graph, sources, sink))


def dominators_by_trying(graph: "nx.DiGraph[str]", sources: list[str], sink: str) -> set[str]:
    """Nodes that are on every path."""
    return set.intersection(*(set(path) for path in every_path(graph, sources, sink)))


def cut_by_trying(
    graph: "nx.DiGraph[str]", sources: list[str], sink: str, capacity: dict[str, float]
) -> float:
    """Least summed capacity of a set of nodes that every path crosses; inf when there is none."""
    paths = [set(path) for path in every_path(graph, sources, sink)]
    least = inf
    for size in range(1, len(capacity) + 1):
        for nodes in combinations(capacity, size):
            if all(path & set(nodes) for path in paths):
                least = min(least, sum(capacity[node] for node in nodes))
    return least


def edges_by_reaching(subject: Subject, members: set[str]) -> set[tuple[str, str]]:
    """(writer, reader) for every pair of components between which a value flows directly.

    For each node that a component owns, and each of its arguments: walk back through calls that no
    component owns, and note the first owned call on every way.
    """
    assert subject.program is not None
    owner: dict[str, str] = {}
    for component in subject.anatomy.components:
        if component.id in members and component.kind not in ("head", "output"):
            owner |= dict.fromkeys(subject.anatomy.nodes[component.id], component.id)

    def writers(node: fx.Node) -> set[str]:
        if node.name in owner:
            return {owner[node.name]}
        found: set[str] = set()
        for argument in node.all_input_nodes:
            if argument.op == "get_attr":
                continue
            indices = not is_float(argument) and not is_float(node)
            if _flows(node, argument) or indices:
                found |= writers(argument)
        return found

    edges: set[tuple[str, str]] = set()
    nodes = list(subject.program.graph_module.graph.nodes)
    for node in nodes:
        for argument in node.all_input_nodes:
            if node.name in owner and _flows(node, argument):
                here = owner[node.name]
                edges |= {(writer, here) for writer in writers(argument) if writer != here}
    edges |= {(writer, "output") for writer in writers(nodes[-1].all_input_nodes[0])}
    return edges


def _flows(node: fx.Node, argument: fx.Node) -> bool:
    """Whether an argument brings what flows: real numbers, tuples, indices that are looked up."""
    if argument.op == "get_attr":
        return False
    looked_up = "embedding" in str(node.target) and node.args[1] is argument
    return is_float(argument) or not shape(argument) or looked_up


def bytes_by_running(subject: Subject) -> dict[str, int]:
    """Bytes each call really reads and writes for one batch: those of the tensors it is given and
    of the one it makes; none where the result lies in the storage of an argument, and of a table
    only as many rows as are looked up.
    """
    assert subject.program is not None
    found: dict[str, int] = {}

    class Weigher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op != "call_function":
                return value
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            given = {id(t): t for t in tensors([*args, *kwargs.values()])}.values()
            made = list(tensors([value]))
            homes = {t.untyped_storage().data_ptr() for t in given}
            if not made or all(t.untyped_storage().data_ptr() in homes for t in made):
                return value
            table = "embedding" in str(n.target)
            read = list(given)[1:] + made if table else given
            found[n.name] = sum(t.numel() * t.element_size() for t in [*read, *made])
            return value

    with torch.no_grad():
        Weigher(subject.program.graph_module).run(*subject.calibration[0].inputs)
    return found


def tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """Every tensor in nested lists and tuples."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors(value)


def heaviest_chain_by_walking(subject: Subject, weight: dict[str, int]) -> int:
    """Largest sum of weights along calls that read one another, by going back from every call."""
    assert subject.program is not None
    known: dict[fx.Node, int] = {}

    def back(node: fx.Node) -> int:
        if node not in known:
            before = [back(argument) for argument in node.all_input_nodes]
            known[node] = weight.get(node.name, 0) + max(before, default=0)
        return known[node]

    return max(back(node) for node in subject.program.graph_module.graph.nodes)
