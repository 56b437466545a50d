"""How an MLP uses its neurons: who carries its output, who is always on, what rank gets through."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor, fx

from zsei.measures.samples import could_not_tell
from zsei.records import Measurement
from zsei.subject.blocks import is_linear
from zsei.subject.reading import LAYOUT, operation
from zsei.subject.types import Site
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.summary import NEAR_ZERO
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class NeuronActivity:
    """Concentration of an MLP's output on few neurons, neurons that are always on, rank in and out.

    Measures: the share of the output's norm that the top tenth of the neurons carries; how many
    neurons are on at every position; the effective rank of what enters and of what leaves.

    Formula: neuron u writes a_u w_u, w_u its row of the second weight; e_u = E a_u² ‖w_u‖²;
    top_neuron_share = Σ of the largest tenth of e over Σ e. Always on: a_u above 0.001 RMS (and
    positive) on every row. rank_in is the effective rank of the value the first linear reads,
    rank_ratio = rank out / rank in.

    Reading it: 0.1 when all neurons carry alike; near 1 when a tenth would nearly do. A neuron that
    is always on only adds something linear. A ratio far below 1 says that the MLP writes into few
    directions.

    Misleads when: contributions cancel (the norm of the sum is not the sum of the norms), or the
    function is never flat, so that "on" means little.

    References: Voita, Ferrando and Nalmpantis, "Neurons in large language models: dead, n-gram,
    positional", Findings of ACL 2024; Geva, Schuster, Berant and Levy, "Transformer feed-forward
    layers are key-value memories", EMNLP 2021.
    """

    name: ClassVar[str] = "neuron-activity"

    top: float = 0.1
    """Share of the neurons that counts as the top."""
    fewest_rows: int = 16
    """Rows below which no neuron is called always on."""

    def measure(self, view: View) -> Measured:
        """Up to five measurements per component with neurons."""
        found: dict[str, tuple[Measurement, ...]] = {}
        nodes = {}
        if view.subject.program is not None:
            nodes = {n.name: n for n in view.subject.program.graph_module.graph.nodes}
        for site in view.taps.sites:
            rows = view.rows.get(site.node)
            if site.kind != "neuron" or rows is None or rows.shape[1] != site.units:
                continue
            n = len(view.row_samples[site.node].unique())
            found[site.component] = (
                self._concentration(view, nodes.get(site.node), rows, n),
                *self._always_on(rows, n),
                *_ranks(view, site, nodes, n),
            )
        return Measured(measurements=found)

    def _concentration(self, view: View, node: fx.Node | None, rows: Tensor, n: int) -> Measurement:
        name = "top_neuron_share"
        weight = _read_by(view, node, rows.shape[1])
        if weight is None:
            return could_not_tell(name, "share", "no single weight reads these neurons", n)
        energy = rows.float().square().mean(0) * weight.float().square().sum(1)
        total = float(energy.sum())
        if total <= 0:
            return could_not_tell(name, "share", "all neurons are zero on this data", n)
        count = max(1, round(self.top * len(energy)))
        top = float(energy.topk(count).values.sum()) / total
        note = f"the top {count} of {len(energy)}; from {rows.shape[0]} rows"
        return Measurement(name=name, value=top, unit="share", n=n, note=note)

    def _always_on(self, rows: Tensor, n: int) -> tuple[Measurement, ...]:
        name = "always_on_units"
        if len(rows) < self.fewest_rows:
            why = f"{self.fewest_rows} rows are needed; there are {len(rows)}"
            return (could_not_tell(name, "count", why, n),)
        limit = NEAR_ZERO * float(rows.square().mean().sqrt())
        count = int((rows.amin(0) > limit).sum()) if limit > 0 else 0
        note = f"of {rows.shape[1]}; on {rows.shape[0]} rows"
        return (Measurement(name=name, value=count, unit="count", n=n, note=note),)


def _ranks(
    view: View, site: Site, nodes: dict[str, fx.Node], n: int
) -> tuple[Measurement, ...]:  # fmt: skip
    """Rank of what the component reads, where that was measured, and rank out over rank in."""
    out = view.measurements.get(site.component, {}).get("effective_rank")
    owned = [nodes[name] for name in view.subject.anatomy.nodes[site.component] if name in nodes]
    first = next((node for node in owned if is_linear(node)), None)
    if first is None or out is None or out.value is None:
        return ()
    writers = {node: component for component, node in view.taps.writers.items()}
    source = next((a for a in first.all_input_nodes if a.op != "get_attr"), None)
    while source is not None and source.name not in writers and operation(source) in LAYOUT:
        source = source.all_input_nodes[0] if source.all_input_nodes else None
    component = writers.get(source.name) if source is not None else None
    rank = view.measurements.get(component or "", {}).get("effective_rank")
    if rank is None or not rank.value:
        return ()
    note = f"what {component} writes"
    return (
        Measurement(name="rank_in", value=rank.value, unit="dimensions", n=n, note=note),
        Measurement(name="rank_ratio", value=out.value / rank.value, unit="ratio", n=n, note=note),
    )


def _read_by(view: View, node: fx.Node | None, units: int) -> Tensor | None:
    """The one weight that reads the neurons, [u, c]; None where there is none, or several."""
    if node is None or not isinstance(view.engine, ProgramEngine):
        return None
    readers, stack = [], [node]
    while stack:
        for user in stack.pop().users:
            if is_linear(user):
                readers.append(user)
            elif operation(user) in LAYOUT:
                stack.append(user)
            else:
                return None
    if len(readers) != 1:
        return None
    names = [a.name for a in readers[0].all_input_nodes if a.op == "get_attr"]
    weights = [view.engine.constants[name] for name in names]
    wide = [w for w in weights if isinstance(w, Tensor) and w.ndim == 2]
    if len(wide) != 1:
        return None
    weight = wide[0].T if operation(readers[0]) == "linear" else wide[0]
    return weight if weight.shape[0] == units and torch.isfinite(weight).all() else None
