"""What one edge really does: its contribution is exchanged in one reader's input, and only there.

The writer's part in what the reader reads is replaced by the part its mean would have (norms keep
the statistics of the clean run, as in the scores), every other reader sees the clean value, and the
rest of the model is run. One run per edge: for samples of edges, not for all. `integrated_effects`
walks the same way in steps and averages the slope on it; with enough steps it equals the exact
effect, which a slope at the clean model alone need not.

References: Goldowsky-Dill, MacLeod, Sato and Arora, "Localizing model behavior with path patching",
2023; Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", ICML 2017.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor

from zsei.records import AttributedEdge, Check, Measurement
from zsei.subject.objective import Objective, divergence, loss, predicted_divergence, readout
from zsei.subject.types import Batch
from zsei.trace.edge_plan import EdgePlan
from zsei.trace.edge_program import program_edge_change
from zsei.trace.edge_readers import Reader
from zsei.trace.edge_scores import writer_means
from zsei.trace.edge_values import Whole, keep_values, rows, written
from zsei.trace.interpreter import ProgramEngine

Key = tuple[str, str, str]
"""(writer, reader, port)."""
FEWEST_EDGES = 24
"""Edges below which a rank correlation is not judged."""


@dataclass(frozen=True, kw_only=True)
class EdgeEffect:
    """What exchanging one edge did, per sample."""

    edge: Key
    divergence: Tensor
    """[n], in the objective's metric."""
    loss_increase: Tensor | None
    """[n], with labels only."""


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What to add to a node's value, in the columns of the reading."""

    node: str
    added: Tensor
    """Of the node's shape, or [.., f]."""
    features: Tensor | slice | None
    time_first: bool = False

    def on(self, value: Tensor, step: Tensor | float = 1.0) -> Tensor:
        """The value with a part of the way gone."""
        added = self.added * step
        if self.features is None:
            return value + added
        edited = value.clone()
        edited[..., self.features] = edited[..., self.features] + added
        return edited


def exact_edge_effects(
    engine: ProgramEngine,
    plan: EdgePlan,
    objective: Objective,
    batches: Iterable[Batch],
    edges: Sequence[Key],
    *,
    means: Mapping[tuple[str, str], Tensor] | None = None,
) -> list[EdgeEffect]:
    """Exchange each edge by itself on all batches.

    Args:
        engine: Runs the model.
        plan: Its writers and readers (`Taps.edges`).
        objective: Gives the divergence.
        batches: Data; one run per edge and batch.
        edges: Which edges.
        means: (component, site kind) -> mean over all data; None takes each batch's own mean.

    Raises:
        KeyError: There is no such edge.
    """
    found: dict[Key, list[Tensor]] = {edge: [] for edge in edges}
    losses: dict[Key, list[Tensor]] = {edge: [] for edge in edges}
    for batch in batches:
        with torch.no_grad():
            output, whole = _values(engine, plan, batch)
            clean = readout(objective, output, batch)
            base = loss(objective, clean, batch) if objective.supervised else None
            at = writer_means(plan.stream, whole, means or {})
            for edge in found:
                changes = _changes(engine, plan, whole, at, edge)
                watch = {c.node: _adding(c, 1.0) for c in changes}
                seen = readout(objective, engine.run(batch, watch), batch)
                found[edge].append(divergence(objective, seen, clean, batch))
                if base is not None:
                    losses[edge].append(loss(objective, seen, batch) - base)
    return [
        EdgeEffect(
            edge=edge,
            divergence=torch.cat(found[edge]),
            loss_increase=torch.cat(losses[edge]) if losses[edge] else None,
        )
        for edge in edges
    ]


def integrated_effects(
    engine: ProgramEngine,
    plan: EdgePlan,
    objective: Objective,
    batch: Batch,
    edges: Sequence[Key],
    *,
    means: Mapping[tuple[str, str], Tensor] | None = None,
    steps: int = 8,
) -> list[Tensor]:
    """Slope along the way from a to its mean, averaged over `steps` midpoints: [n] per edge.

    Of the loss with labels; without, of the divergence itself, whose slope is zero at the clean
    model alone. Sums to the exact effect as the steps grow. A forward and a backward per step.

    Args:
        engine: Runs the model.
        plan: Its writers and readers.
        objective: What is differentiated.
        batch: Data.
        edges: Which edges.
        means: As for `exact_edge_effects`.
        steps: Midpoints on the way.
    """
    with torch.no_grad():
        output, whole = _values(engine, plan, batch)
        clean = readout(objective, output, batch)
        at = writer_means(plan.stream, whole, means or {})
    found = []
    for edge in edges:
        changes = _changes(engine, plan, whole, at, edge)
        slopes: list[Tensor] = []
        for number in range(steps):
            step = torch.full((batch.size,), (number + 0.5) / steps, dtype=clean.dtype)
            step.requires_grad_()
            with torch.enable_grad():
                watch = {c.node: _adding(c, _along(step, c, batch.size)) for c in changes}
                seen = readout(objective, engine.run(batch, watch), batch)
                value = (
                    loss(objective, seen, batch)
                    if objective.supervised
                    else divergence(objective, seen, clean, batch)
                )
                slopes.append(torch.autograd.grad(value.sum(), step)[0])
        found.append(torch.stack(slopes).mean(0))
    return found


def check_edges(
    engine: ProgramEngine,
    plan: EdgePlan,
    objective: Objective,
    batches: Iterable[Batch],
    edges: Sequence[AttributedEdge],
    *,
    means: Mapping[tuple[str, str], Tensor] | None = None,
    count: int = FEWEST_EDGES,
    least: float = 0.7,
) -> Check:
    """Whether the scores order edges by size as exchanging them does, on a sample of edges.

    With labels sizes are compared without their signs: where an exchange is large, the second order
    decides whether it helps or harms, and `integrated_effects` is the one to ask.

    Args:
        engine: Runs the model.
        plan: Its writers and readers.
        objective: The objective the scores are of.
        batches: Data; `count` runs each.
        edges: Scored edges, largest first.
        means: As for `exact_edge_effects`.
        count: Edges to try.
        least: Spearman correlation from which the scores are called right.
    """
    chosen = spread_edges(edges, count)
    if len(chosen) < FEWEST_EDGES:
        return Check(
            name="exact-ablation", outcome="inconclusive", about="edge-attribution",
            message=f"{len(chosen)} edges are too few for a rank correlation; "
            f"{FEWEST_EDGES} are needed",
        )  # fmt: skip
    keys = [(e.writer, e.reader, e.port) for e in chosen]
    exact = exact_edge_effects(engine, plan, objective, batches, keys, means=means)
    if objective.supervised:
        truth = [float(e.loss_increase.mean()) for e in exact if e.loss_increase is not None]
        guess, truth = [abs(e.attribution) for e in chosen], [abs(t) for t in truth]
    else:
        truth = [float(e.divergence.mean()) for e in exact]
        square = torch.tensor([e.attribution for e in chosen]).square()
        guess = predicted_divergence(objective, square).tolist()
    rank = float(spearmanr(guess, truth).statistic)  # pyright: ignore[reportAttributeAccessIssue]
    if rank != rank:
        return Check(
            name="exact-ablation", outcome="inconclusive", about="edge-attribution",
            message="the edges' effects do not differ, so nothing can be ordered",
        )  # fmt: skip
    evidence = Measurement(name="spearman", value=rank, unit="rank correlation", n=len(chosen))
    return Check(
        name="exact-ablation",
        outcome="agrees" if rank >= least else "disagrees",
        evidence=(evidence,),
        about="edge-attribution",
        message=f"scores of {len(chosen)} edges against exchanging each: Spearman {rank:.2f}",
    )


def spread_edges(edges: Sequence[AttributedEdge], count: int) -> list[AttributedEdge]:
    """Half of `count` are the largest edges, the others lie evenly spread over the rest."""
    top, rest = list(edges[: count // 2]), list(edges[count // 2 :])
    wanted = min(count - len(top), len(rest))
    places = torch.linspace(0, len(rest) - 1, wanted).round().long().tolist() if wanted else []
    return [*top, *(rest[place] for place in dict.fromkeys(places))]


def _values(engine: ProgramEngine, plan: EdgePlan, batch: Batch) -> tuple[Tensor, Whole]:
    alive: dict[str, Tensor] = {}
    names = {*plan.taps.values, *plan.taps.gradients}
    output = engine.run(batch, {n: lambda v, n=n: alive.update({n: v}) for n in names})
    whole = Whole()
    keep_values(whole, plan.taps, alive, batch, batch.size)
    for node in plan.taps.gradients:
        if node in alive:
            whole.shapes[node] = tuple(alive[node].shape)
    return output, whole


def _changes(
    engine: ProgramEngine, plan: EdgePlan, whole: Whole, means: Mapping[int, Tensor], edge: Key
) -> list[_Change]:
    for candidate in plan.program_edges:
        if (candidate.source, candidate.target, "in") == edge:
            node, added = program_edge_change(candidate, whole, engine.constants)
            return [_Change(node=node, added=added, features=None)]
    for reader in plan.readers:
        if edge[1:] in reader.names:
            added = _carried(plan, whole, means, edge[0], reader.place)
            return list(_in_reader(reader, edge, added, whole))
    raise KeyError(f"nothing reads as {edge[1]} ({edge[2]})")


def _carried(
    plan: EdgePlan, whole: Whole, means: Mapping[int, Tensor], writer: str, place: str
) -> Tensor:
    """What the mean of a writer adds to the place, less what the writer itself adds, [N, d]."""
    stream = plan.stream
    total: Tensor | None = None
    for term in stream.terms[place]:
        block = stream.writers[term.writer]
        if writer not in block.names or term.writer not in means:
            continue
        away = means[term.writer] - written(block, whole)
        if block.weight is not None:
            index = block.names.index(writer)
            width = block.weight.shape[1]
            away = away[:, index * width : (index + 1) * width] @ block.weight[index]
        for name in term.norms:
            norm = stream.norms[name]
            watched = norm.watched
            scale = None if watched is None else norm.scale(rows(whole.values[watched]))
            away = norm.carry(away, scale)
        total = away if total is None else total + away
    if total is None:
        raise KeyError(f"{writer} writes nothing that reaches {place}")
    return total


def _in_reader(reader: Reader, edge: Key, added: Tensor, whole: Whole) -> Iterable[_Change]:
    number = reader.names.index((edge[1], edge[2]))  # pyright: ignore[reportArgumentType]
    for entry in reader.entries:
        change, features = added, entry.features
        if entry.weight is not None:
            change = added @ entry.weight
        if reader.by_head:
            width = change.shape[1] // len(reader.names)
            own = slice(number * width, (number + 1) * width)
            kept = torch.zeros_like(change)
            kept[:, own] = change[:, own]
            change = kept
        shape = whole.shapes[entry.node]
        if entry.time_first:
            change = change.reshape(shape[1], shape[0], -1).transpose(0, 1)
        else:
            change = change.reshape(*shape[:-1], -1)
        yield _Change(node=entry.node, added=change, features=features, time_first=entry.time_first)


def _along(step: Tensor, change: _Change, samples: int) -> Tensor:
    """The steps [n], one per sample, as a factor of what is added."""
    lead = change.added.shape
    if change.time_first:
        return step.view(1, samples, *(1,) * (len(lead) - 2))
    return step.repeat_interleave(lead[0] // samples).view(-1, *(1,) * (len(lead) - 1))


def _adding(change: _Change, step: Tensor | float) -> Callable[[Tensor], Tensor]:
    return lambda value: change.on(value, step)
