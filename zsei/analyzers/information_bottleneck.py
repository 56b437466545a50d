"""Values every path crosses that let through far fewer directions than they are given."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.analyzers.checks import ablation_check, inconclusive, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.widening import widening_trial
from zsei.analyzers.words import listed, number, percent
from zsei.graph.flow import FlowGraph
from zsei.graph.paths import dominators, minimum_cut
from zsei.records import Finding, Measurement
from zsei.trace.rows import effective_rank, take_rows
from zsei.trace.taps import find_taps

ROWS = 512
"""Rows of a value that its rank is read from."""
LEAST_EFFECT = 1e-3
"""Additive effect of its ablation from which what gets through a node counts as needed."""


@dataclass(frozen=True, kw_only=True)
class _Rank:
    """Effective rank of what a component writes, and the most it could have shown."""

    value: float
    cap: int
    rows: int

    def hidden(self, near: float, width: int) -> bool:
        """Whether too few rows, rather than the value, decide the rank."""
        return self.cap < width and self.value >= near * self.cap


@final
@dataclass(frozen=True, kw_only=True)
class InformationBottleneck:
    """Nodes that every path crosses and that keep few of the directions given to them.

    Measures: the effective rank lost from one unavoidable node to the next, and the minimum cut of
    the flow graph on effective rank. On a residual stream the skip carries the rank past every
    block, so that a block is not a bottleneck however little it writes.

    Formula: effective rank r = exp(-Σ p log p), p the normalised eigenvalues of the channels'
    correlation matrix (every channel at unit variance). For neighbours u, v among the dominators
    of the output: rank_lost = 1 - r(v) / r(u). Found when rank_lost >= min_lost and a later node,
    other than those that only make the output, has at least twice as many channels as r(v): what
    follows has room for more than v lets through. Severity: rank_lost.

    Reading it: whatever is done behind such a node, it works with r(v) directions. Where the task
    needs few (necessary), the width before it is waste; where it needs more (artificial), this is
    the place to widen. Without labels the trial is inconclusive: nothing can be nearer to the
    model's outputs than its own.

    Misleads when: rows are too few (the cap min(rows - 1, channels) then hides the rank, and the
    finding says that it could not tell); when the information sits in directions of little
    variance; or when the rank is lost little by little. The trial sees what a linear path can give
    back to what lies behind as it is, trained on what gets through: a task that needs the lost
    directions bent first looks as if it did not, and widening_gain is the least that is to be had.

    References: Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
    EUSIPCO 2007; Timkey and van Schijndel, "All bark and no bite: rogue dimensions in transformer
    language models obscure representational quality", EMNLP 2021 (why channels are standardised);
    Lengauer and Tarjan, "A fast algorithm for finding dominators in a flowgraph", 1979.
    """

    code: ClassVar[str] = "information-bottleneck"
    clock: ClassVar[bool] = False

    min_lost: float = 0.5
    """Share of effective rank lost at a node, 0 to 1."""
    near_cap: float = 0.8
    """Share of its cap from which a rank is taken to be hidden by it."""
    most_trials: int = 3
    """Narrow nodes that are widened for a trial, in order of the flow."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """Nodes in order of the flow, then a cut of several nodes, then what cannot be told."""
        flow = analysis.flow
        crossed = [n for n in dominators(flow) if flow.number(n, "effective_rank") is not None]
        ranks = _ranks(analysis, crossed)
        crossed = [node for node in crossed if node in ranks]
        inner = [ranks[node].value for node in crossed if node not in flow.endings()]
        narrowest = min(inner, default=0.0)
        hidden: list[str] = []
        trials = self.most_trials
        for before, node in pairwise(crossed):
            width = int(flow.number(node, "width") or 0)
            if ranks[node].hidden(self.near_cap, width):
                hidden.append(node)
            elif _room_behind(flow, crossed, node) >= 2 * ranks[node].value:
                behind = _wide_behind(flow, crossed, node, 2 * ranks[node].value)
                found = self._lost(before, node, ranks)
                if found is not None:
                    yield _tested(analysis, found, before, behind if trials else None)
                    trials -= 1
        yield from self._cut(analysis, ranks, narrowest)
        if hidden:
            yield self._could_not_tell(hidden, ranks)

    def _lost(self, before: str, node: str, ranks: Mapping[str, _Rank]) -> Finding | None:
        entering, leaving = ranks[before], ranks[node]
        lost = 1 - leaving.value / entering.value if entering.value > 0 else 0.0
        if lost < self.min_lost:
            return None
        return Finding.make(
            code=self.code,
            components=(node,),
            severity=lost,
            evidence=(
                _measured("rank_entering", entering, before),
                _measured("rank_leaving", leaving, node),
                Measurement(name="rank_lost", value=lost, unit="share"),
            ),
            message=f"Every path crosses {node}, which keeps {number(leaving.value)} of the "
            f"{number(entering.value)} effective dimensions that {before} gives it "
            f"({percent(lost)} lost).",
        )

    def _cut(
        self, analysis: Analysis, ranks: Mapping[str, _Rank], narrowest: float
    ) -> Iterator[Finding]:
        """A set of parallel nodes that together let through less than any single one does."""
        capacity, nodes = _refined_cut(analysis, ranks)
        if len(nodes) < 2 or narrowest <= 0 or capacity > (1 - self.min_lost) * narrowest:
            return
        yield Finding.make(
            code=self.code,
            components=nodes,
            severity=1 - capacity / narrowest,
            evidence=(
                Measurement(name="cut_capacity", value=capacity, unit="dimensions"),
                Measurement(name="rank_leaving", value=narrowest, unit="dimensions",
                            note="narrowest node that every path crosses"),
            ),
            message=f"The minimum cut, {listed(nodes)}, lets {number(capacity)} effective "
            f"dimensions through, against {number(narrowest)} at the narrowest single node.",
        )  # fmt: skip

    def _could_not_tell(self, hidden: list[str], ranks: Mapping[str, _Rank]) -> Finding:
        rows = ranks[hidden[0]].rows
        note = f"{rows} rows cap the rank; more samples would tell"
        return Finding.make(
            code=self.code,
            components=tuple(hidden),
            severity=0.0,
            evidence=(
                Measurement(name="rank_leaving", value=None, unit="dimensions",
                            state="could not tell", note=note),
                Measurement(name="rank_cap", value=ranks[hidden[0]].cap, unit="dimensions"),
            ),
            message=f"Could not tell the rank of {listed(hidden)}: it is near the most that "
            f"{rows} rows can show ({ranks[hidden[0]].cap} dimensions).",
        )  # fmt: skip


def _tested(analysis: Analysis, found: Finding, before: str, behind: str | None) -> Finding:
    """The finding with what ablation and the widening trial say of it, in its message too."""
    node = found.components[0]
    if behind is None:
        trial = inconclusive("widening", "Not widened: other narrow places were tried first.")
    else:
        trial = widening_trial(analysis, before, node, behind)
    said = {
        "agrees": "It is artificial: with the lost directions given back, the loss falls.",
        "disagrees": "It is necessary, or harmless: giving the lost directions back gains nothing.",
        "inconclusive": "Whether the task misses them could not be told.",
    }[trial.outcome]
    told = Finding.make(
        code=found.code,
        components=found.components,
        severity=found.severity / 2 if trial.outcome == "disagrees" else found.severity,
        evidence=(*found.evidence, *trial.evidence),
        message=f"{found.message} {said}",
    )
    needed = ablation_check(
        analysis, (node,), at_least=LEAST_EFFECT, claim="what does get through is needed"
    )
    return with_checks(told, needed, trial)


def _measured(name: str, rank: _Rank, node: str) -> Measurement:
    note = f"{node}, from {rank.rows} rows; it cannot exceed {rank.cap}"
    return Measurement(name=name, value=rank.value, unit="dimensions", note=note)


def _room_behind(flow: FlowGraph, crossed: list[str], node: str) -> float:
    """Most channels of an unavoidable node behind `node`, before what only makes the output."""
    behind = crossed[crossed.index(node) + 1 :]
    wide = [flow.number(n, "width") or 0.0 for n in behind if n not in flow.endings()]
    return max(wide, default=0.0)


def _wide_behind(flow: FlowGraph, crossed: list[str], node: str, width: float) -> str:
    """The first unavoidable node behind `node` with at least `width` channels."""
    behind = crossed[crossed.index(node) + 1 :]
    return next(n for n in behind if (flow.number(n, "width") or 0.0) >= width)


def _ranks(analysis: Analysis, components: list[str]) -> dict[str, _Rank]:
    """Rank of what these components write, every channel at unit variance; one extra forward."""
    taps = find_taps(analysis.subject, analysis.engine)
    nodes = {c: analysis.subject.anatomy.outputs[c] for c in components}
    rows: dict[str, list[Tensor]] = {}
    batches = analysis.importance.batches or analysis.subject.calibration[:2]
    limit = max(2, ROWS // len(batches))
    for batch in batches:

        def keeping(node: str, mask: Tensor | None = batch.mask) -> Callable[[Tensor], None]:
            def see(value: Tensor) -> None:
                rows.setdefault(node, []).append(take_rows(value, taps.values[node], mask, limit))

            return see

        with torch.no_grad():
            wanted = sorted({node for node in nodes.values() if node in taps.values})
            analysis.engine.run(batch, {node: keeping(node) for node in wanted})
    found: dict[str, _Rank] = {}
    for component, node in nodes.items():
        if node in rows:
            seen = torch.cat(rows[node])
            value, cap = effective_rank(seen, standardise=True)
            found[component] = _Rank(value=value, cap=cap, rows=seen.shape[0])
    return found


def _refined_cut(
    analysis: Analysis, ranks: Mapping[str, _Rank], rounds: int = 4
) -> tuple[float, tuple[str, ...]]:
    """Minimum cut on rank with channels at unit variance, taken where the cut goes through."""
    known = dict(ranks)
    capacity, nodes = 0.0, ()
    for _ in range(rounds):
        graph = analysis.flow.graph.copy()
        for node, rank in known.items():
            graph.nodes[node]["effective_rank"] = rank.value
        capacity, nodes = minimum_cut(FlowGraph(graph=graph))
        fresh = [node for node in nodes if node not in known]
        if not fresh:
            break
        known |= _ranks(analysis, fresh)
    return capacity, nodes
