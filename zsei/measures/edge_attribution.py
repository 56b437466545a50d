"""What every writer of the residual stream gives every reader of it."""

from dataclasses import dataclass
from typing import ClassVar, final

from zsei.records import AttributedEdge, Measurement
from zsei.trace.edge_check import integrated_effects
from zsei.trace.edge_program import score_program_edge
from zsei.trace.edge_rows import carried_parts
from zsei.trace.edge_scores import ScoredBlock, score_edges, writer_means
from zsei.trace.edge_table import Scale, component_map, largest_edges, scored_alone
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class EdgeAttribution:
    """How much the objective would change if one writer were missing in one reader's input alone.

    Measures: every edge of the residual stream. Writers are the embeddings, each head (through its
    share of the output projection), each MLP or block of experts; readers are each head's query,
    key and value, each MLP (with its router) and the output. Under grouped queries several query
    heads share one key and one value head, and the edge names the first of them. A model without a
    stream (convolutions, recurrence, plain layers) gets the program's own edges instead.

    Formula: score = Σ_t (a* - a)_t · g_t per sample, a* the writer's mean over samples and
    positions, g the gradient at that reader's input, carried back to the writer through every norm
    in between, whose statistics stay those of the clean run. With labels g is of the loss and the
    score is averaged: positive means that taking the writer away there raises the loss. Without
    labels the divergence has no slope at the unmodified model and first-order scores of it would be
    zero, so g is of a random direction of the output (Gauss-Newton) and the score is its root mean
    square over samples: for embeddings and logits half its square predicts the divergence.
    `integrated` is Σ (a* - a) · g with g averaged on the way from a to a*: of the loss, or of the
    divergence itself. route_share says how large the writer is in what is read, no more.
    writers_sum_error = max over readers of ‖Σ writers - input‖ / ‖input‖.

    Reading it: the largest edges are the model's main routes for this data. A writer whose edges
    are all small is not used by later blocks, whatever it writes. A sum error above 1e-5 would say
    that the stream was read wrongly; above the limit no edge is reported.

    Misleads when: an exchange is far from small (a softmax saturates, and a first-order score errs:
    compare `integrated`); edges back each other up, so that each alone looks idle; the mean of a
    writer is far from what it ever writes; or samples are few: n stands on every edge. Biases and
    other constants equal their mean, so they have no edges.

    References: Nanda, "Attribution patching", 2023; Syed, Rager and Conmy, "Attribution patching
    outperforms automated circuit discovery", 2023; Hanna, Pezzelle and Belinkov, "Have faith in
    faithfulness: going beyond circuit overlap when finding model mechanisms", 2024.
    """

    name: ClassVar[str] = "edge-attribution"

    most_edges: int = 2000
    """Edges that reach the record, largest first."""
    most_error: float = 1e-4
    """Sum error above which no edge is reported."""
    widest_map: int = 64
    """Components above which the map is by block."""
    integrated_edges: int = 0
    """How many of the largest edges also get `integrated`."""
    steps: int = 8
    """Points on the way from a writer to its mean: a run and its gradient each, per edge."""

    def measure(self, view: View) -> Measured:
        """Edges, a map of components by components, and how well the writers add up."""
        plan, whole = view.taps.edges, view.whole
        if not whole.gradients:
            return Measured(notes=("edge attribution needs a program; hooks see whole modules",))
        shares: dict[str, dict[str, float]] = {}
        if plan.readers:
            parts = {reader.place for reader in plan.readers}
            errors = []
            for part in carried_parts(plan.stream, whole, parts):
                errors.append(part.error())
                shares[part.place] = dict(zip(part.names, part.proximity().tolist(), strict=True))
            error = _sum_error(max(errors), whole.samples, len(errors))
            if error.value is None or error.value > self.most_error:
                note = "the writers do not add up to the stream, so no edge is reported"
                return Measured(measurements={"output": (error,)}, notes=(note,))
            means = writer_means(plan.stream, whole, view.evidence.means)
            blocks = score_edges(plan.stream, plan.readers, whole, means)
            measurements = {"output": (error,)}
        else:
            blocks, measurements = self._program_blocks(view), {}
        scale = Scale(signed=view.subject.objective.supervised)
        edges = largest_edges(blocks, scale, self.most_edges, shares)
        matrix = component_map(blocks, scale, *self._groups(view, blocks))
        return Measured(
            measurements=measurements,
            edges=self._with_integrated(view, edges),
            matrices=() if matrix is None else (matrix,),
            notes=plan.notes,
        )

    def _program_blocks(self, view: View) -> list[ScoredBlock]:
        assert isinstance(view.engine, ProgramEngine)
        found = []
        for edge in view.taps.edges.program_edges:
            scores = score_program_edge(edge, view.whole, view.engine.constants)
            if scores is not None:
                found.append(scored_alone(edge.source, edge.target, edge.node.name, scores))
        return found

    def _groups(self, view: View, blocks: list[ScoredBlock]) -> tuple[dict[str, str], list[str]]:
        """Head -> its attention; every component -> its block where a map would be too wide."""
        components = view.subject.anatomy.components
        group = {c.id: c.parent for c in components if c.kind == "head" and c.parent is not None}
        named = {name for block in blocks for name in block.writers}
        if len({group.get(name, name) for name in named}) > self.widest_map:
            layers = {c.layer: c.id for c in components if c.kind == "layer"}
            group = {c.id: layers[c.layer] for c in components if c.layer in layers}
        return group, [c.id for c in components]

    def _with_integrated(
        self, view: View, edges: tuple[AttributedEdge, ...]
    ) -> tuple[AttributedEdge, ...]:
        top = edges[: self.integrated_edges]
        if not top or not isinstance(view.engine, ProgramEngine):
            return edges
        found = integrated_effects(
            view.engine, view.taps.edges, view.subject.objective, view.subject.calibration[0],
            [(e.writer, e.reader, e.port) for e in top], means=view.evidence.means,
            steps=self.steps,
        )  # fmt: skip
        changed = [
            edge.model_copy(update={"integrated": float(effect.double().mean())})
            for edge, effect in zip(top, found, strict=True)
        ]
        return (*changed, *edges[len(top) :])


def _sum_error(value: float, n: int, places: int) -> Measurement:
    return Measurement(
        name="writers_sum_error", value=value, unit="relative error", n=n,
        note=f"the worst of {places} values that are read",
    )  # fmt: skip
