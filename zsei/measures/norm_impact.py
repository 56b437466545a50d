"""What a norm does to scale, outliers and rank of what goes through it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, fx

from zsei.records import Component, Measurement
from zsei.subject.reading import LAYOUT, is_float, operation, shape
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class NormImpact:
    """Ratios between what leaves a norm and what enters it.

    Measures: how a norm changes the size of its values, the weight of outliers, the spread of sizes
    between positions and the number of directions in use.

    Formula: over the kept rows [r, c], out over in: norm_rms_ratio of the RMS; norm_outlier_ratio
    of max|a| / RMS; norm_rank_ratio of the effective rank; norm_size_spread of the coefficient of
    variation of the rows' own RMS (0: every position leaves equally loud).

    Reading it: an outlier ratio above 1 is a gain that singles channels out: what follows has to be
    computed with more care (low precision suffers first). A rank ratio above 1 is a norm that takes
    the weight off a few loud channels; below 1 one that puts it there. A size spread near 0 says
    that how long the stream is at a position is lost behind the norm.

    Misleads when: outliers are rarer than one in the kept rows; rank is near its cap on both sides;
    or the next linear undoes the gain, as any gain can be folded into it.

    References: Kovaleva, Kulshreshtha, Rogers and Rumshisky, "BERT busters: outlier dimensions that
    disrupt transformers", Findings of ACL 2021; Ba, Kiros and Hinton, "Layer normalization", 2016.
    """

    name: ClassVar[str] = "norm-impact"

    fewest_rows: int = 8
    """Rows below which nothing is claimed."""

    def measure(self, view: View) -> Measured:
        """Four ratios per norm."""
        if view.subject.program is None:
            return Measured()
        nodes = {node.name: node for node in view.subject.program.graph_module.graph.nodes}
        found = {}
        for component in view.subject.anatomy.components:
            if component.kind == "norm":
                found[component.id] = tuple(self._ratios(view, component, nodes))
        return Measured(measurements=found)

    def _ratios(
        self, view: View, component: Component, nodes: dict[str, fx.Node]
    ) -> Iterator[Measurement]:
        entered = entering(view, component.id, nodes)
        before = None if entered is None else view.rows.get(entered)
        after = view.written(component.id)
        if before is None or after is None:
            yield _unknown("what enters it was not watched")
            return
        n = len(view.row_samples[view.taps.writers[component.id]].unique())
        if len(before) != len(after) or len(before) < self.fewest_rows:
            yield _unknown(f"{len(before)} rows; at least {self.fewest_rows} are needed")
            return
        sizes = [float(rows.double().square().mean().sqrt()) for rows in (before, after)]
        if min(sizes) <= 1e-12:
            yield _unknown("nothing but zeros goes through it")
            return
        yield Measurement(name="norm_rms_ratio", value=sizes[1] / sizes[0], unit="out / in", n=n)
        peaks = [float(r.abs().max()) / s for r, s in zip((before, after), sizes, strict=True)]
        yield Measurement(
            name="norm_outlier_ratio", value=peaks[1] / peaks[0], unit="out / in", n=n,
            note=f"{peaks[0]:.3g} x RMS enters, {peaks[1]:.3g} x RMS leaves",
        )  # fmt: skip
        spreads = [_spread(rows) for rows in (before, after)]
        if spreads[0] > 1e-6:
            value = spreads[1] / spreads[0]
            yield Measurement(name="norm_size_spread", value=value, unit="out / in", n=n)
        ranks = [_rank(view, entered or ""), _rank(view, view.taps.writers[component.id])]
        if ranks[0] and ranks[1]:
            value = ranks[1] / ranks[0]
            yield Measurement(name="norm_rank_ratio", value=value, unit="out / in", n=n)


def entering(view: View, component: str, nodes: dict[str, fx.Node]) -> str | None:
    """Node of the watched value that a norm reads; None where none is watched."""
    owned = [nodes[name] for name in view.subject.anatomy.nodes[component]]
    inside, wanted = set(owned), shape(nodes[view.subject.anatomy.outputs[component]])
    for node in owned:
        for argument in node.all_input_nodes:
            if argument in inside or not is_float(argument) or shape(argument) != wanted:
                continue
            while argument.name not in view.rows and operation(argument) in LAYOUT:
                argument = argument.all_input_nodes[0]
            if argument.name in view.rows and argument.op != "get_attr":
                return argument.name
    return None


def _spread(rows: Tensor) -> float:
    size = rows.double().square().mean(1).sqrt()
    return float(size.std() / size.mean())


def _rank(view: View, node: str) -> float | None:
    """Effective rank of a value, where a component that writes it has it measured already."""
    for component, written in view.taps.writers.items():
        found = view.measurements.get(component, {}).get("effective_rank")
        if written == node and found is not None:
            return found.value
    return None


def _unknown(why: str) -> Measurement:
    return Measurement(
        name="norm_rms_ratio", value=None, unit="out / in", state="could not tell", note=why
    )
