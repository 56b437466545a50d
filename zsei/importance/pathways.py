"""Ways through the model: how much passes a component, and what removing a whole way does."""

from collections.abc import Iterable, Mapping, Sequence

import networkx as nx
from torch import Tensor

from zsei.graph.flow import FlowGraph
from zsei.importance.candidates import PARTS
from zsei.importance.effects import few
from zsei.settings import Settings
from zsei.subject.types import Anatomy, Batch, Subject
from zsei.trace.ablation import Target, ablate_together
from zsei.trace.engine import Engine
from zsei.trace.summary import Trace


def throughput(flow: FlowGraph) -> Mapping[str, float]:
    """Share of what the output is made of that passes each node, 0 to 1.

    Formula: t(output) = 1, t(u) = Σ over readers v of share(u, v) · t(v): the summed share products
    of all ways from u to the output. Reading it: pathway criticality; a node that every way crosses
    has 1. Misleads when: shares are taken for importance (a small summand can decide the output).
    """
    found = dict.fromkeys(flow.graph, 0.0)
    if flow.sink in found:
        found[flow.sink] = 1.0
    for node in reversed(list(nx.lexicographical_topological_sort(flow.graph))):
        for source, _, attributes in flow.graph.in_edges(node, data=True):
            found[source] += float(attributes.get("share", 0.0)) * found[node]
    return found


def path_targets(anatomy: Anatomy, components: Iterable[str]) -> tuple[Target, ...]:
    """What to ablate so that these components are gone: heads, branches, whole layers.

    Components that no ablation stands for (norms, residual joins, embeddings) are passed over:
    what goes through them is what the others wrote. Heads of one attention become one target.
    """
    wanted = list(dict.fromkeys(components))
    found: list[Target] = []
    for site in anatomy.sites:
        if site.kind not in PARTS:
            continue
        units = tuple(i for i, unit in enumerate(site.unit_ids) if unit in wanted)
        if units:
            found.append(Target(site=site, units=units))
    return tuple(found)


def path_effect(
    subject: Subject, engine: Engine, trace: Trace, settings: Settings,
    components: Sequence[str], *, batches: Sequence[Batch] | None = None,
) -> Tensor:  # fmt: skip
    """Exact effect per sample [n], in the objective's metric, of removing a whole way at once.

    Args:
        subject: Model, data, objective.
        engine: Runs the model.
        trace: Its means stand in for what is removed.
        settings: `truth_samples`, `replacement`, `seed`.
        components: Ids along the way; see `path_targets` for those that cannot be ablated.
        batches: Data; None takes the calibration batches exact ablation is run on.

    Raises:
        ValueError: None of the components can be ablated.
    """
    targets = path_targets(subject.anatomy, components)
    if not targets:
        raise ValueError(
            f"A path must hold a head, a layer or a part that computes; "
            f"{', '.join(components) or 'nothing'} holds none."
        )
    if batches is None:
        batches = few(subject.calibration, settings.truth_samples)
    return ablate_together(
        engine, subject.objective, batches, targets, means=trace.means,
        replacement=settings.replacement, seed=settings.seed,
    )  # fmt: skip
