"""How often each expert of a mixture is picked by its router."""

from collections.abc import Callable

import torch
from torch import Tensor, fx

from zsei.analyzers.context import Analysis
from zsei.subject.reading import operation, shape

COUNTS = {"histc", "bincount"}


def expert_use(analysis: Analysis) -> dict[str, Tensor]:
    """Experts component -> positions routed to each expert over the calibration data [e].

    Read off the router's own count where the program has one, else off the indices of its top k;
    padding is routed too. Empty without experts, or when neither is found.
    """
    program = analysis.subject.program
    if program is None:
        return {}
    nodes: list[fx.Node] = list(program.graph_module.graph.nodes)
    watched: dict[str, tuple[str, int]] = {}
    for component in analysis.subject.anatomy.components:
        if component.kind == "experts":
            owned = set(analysis.subject.anatomy.nodes[component.id])
            found = _router(nodes, owned, component.units)
            if found is not None:
                watched[found[0]] = component.id, found[1]
    if not watched:
        return {}
    totals = {name: torch.zeros(e, dtype=torch.long) for name, e in watched.values()}

    def counting(component: str, experts: int) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            counts = value.long()
            if value.shape != (experts,):
                counts = torch.bincount(value.flatten().long(), minlength=experts)
            totals[component] += counts

        return see

    with torch.no_grad():
        for batch in analysis.subject.calibration:
            analysis.engine.run(batch, {n: counting(*which) for n, which in watched.items()})
    return totals


def _router(nodes: list[fx.Node], owned: set[str], experts: int) -> tuple[str, int] | None:
    """(node of counts [e] or of expert numbers, e); None when neither is found."""
    for node in nodes:
        if node.name in owned and operation(node) in COUNTS and len(shape(node)) == 1:
            return node.name, shape(node)[0]
    start = min((i for i, node in enumerate(nodes) if node.name in owned), default=0)
    for node in reversed(nodes[:start]):
        if operation(node) == "topk":
            width = shape(node.all_input_nodes[0])[-1]
            picked = [u for u in node.users if operation(u) == "getitem" and u.args[1] == 1]
            if picked and experts in (0, width):
                return picked[0].name, width
    return None
