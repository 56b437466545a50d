"""How alike what the working parts of a model write is, part by part."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.samples import sample_means, working_parts
from zsei.records import Matrix
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class ComponentSimilarity:
    """Linear CKA between what every two working parts write.

    Measures: how far two parts (attentions, MLPs, convolutions ...) carry the same features,
    whatever basis they write them in.

    Formula: CKA(X, Y) = ⟨K, L⟩ / (‖K‖ ‖L‖), K = X Xᵀ and L = Y Yᵀ the Gram matrices [r, r] of the
    centred rows at the same r samples and positions. Parts whose positions differ (another
    resolution, pooled values) are compared by the mean row of every sample.

    Reading it: 1 for values equal up to rotation and scale, 0 for unrelated ones. A block of high
    values is a stretch of parts that repeat each other.

    Misleads when: a few rows or channels of huge norm dominate, or rows are fewer than channels,
    which raises every value (as with sample means of few samples).

    References: Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations
    revisited", ICML 2019.
    """

    name: ClassVar[str] = "component-similarity"

    rows: int = 256
    """Rows used at most, evenly spread."""
    fewest: int = 8
    """Rows or samples below which no similarity is claimed."""
    most: int = 64
    """Parts in the matrix at most, the first and evenly spread ones after it."""

    def measure(self, view: View) -> Measured:
        """One matrix, parts by parts."""
        parts = working_parts(view)
        if len(parts) > self.most:
            at = torch.linspace(0, len(parts) - 1, self.most).round().long().tolist()
            parts = [parts[i] for i in at]
        if len(parts) < 2:
            return Measured()
        nodes = [view.taps.writers[part] for part in parts]
        layouts = [_layout(view, node) for node in nodes]
        fine = [_gram(_spread(view.rows[node], self.rows)) for node in nodes]
        # Sample means only where two layouts meet.
        coarse: list[Tensor] = []
        if len(set(layouts)) > 1:
            coarse = [
                _gram(sample_means(view.rows[n], view.row_samples[n])[0]) for n in nodes
            ]  # fmt: skip
        values: list[list[float | None]] = [[None] * len(parts) for _ in parts]
        for i in range(len(parts)):
            for j in range(i + 1):
                grams = fine if layouts[i] == layouts[j] else coarse
                likeness = self._cka(grams[i], grams[j])
                values[i][j] = values[j][i] = 1.0 if i == j and likeness else likeness
        matrix = Matrix(
            name="component_similarity",
            title="Similarity of what the parts write (linear CKA)",
            rows=tuple(parts),
            columns=tuple(parts),
            values=tuple(tuple(row) for row in values),
            unit="CKA",
            n=len(view.row_samples[nodes[0]].unique()),
            note=f"from at most {self.rows} rows; by sample means where positions differ",
        )
        return Measured(matrices=(matrix,))

    def _cka(self, first: Tensor, second: Tensor) -> float | None:
        if first.shape != second.shape or len(first) < self.fewest:
            return None
        bottom = float(first.norm() * second.norm())
        return (
            min(1.0, max(0.0, float((first * second).sum()) / bottom)) if bottom > 1e-20 else None
        )


def _layout(view: View, node: str) -> tuple[object, ...]:
    """What two values must share for their rows to be those of the same positions."""
    samples = view.row_samples[node]
    program = view.subject.program
    shape: tuple[int, ...] = ()
    if program is not None:
        found = program.node(node).meta.get("val")
        axis = view.taps.values[node]
        shape = tuple(found.shape) if isinstance(found, Tensor) else ()
        # Heads [n, h, t, d] become rows over (n, t).
        if len(shape) == 4 and axis == -1:
            shape = (shape[0], shape[2])
        else:
            shape = tuple(size for a, size in enumerate(shape) if a != axis % max(len(shape), 1))
    return shape, len(samples), int(samples.sum())


def _spread(rows: Tensor, most: int) -> Tensor:
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long()]


def _gram(rows: Tensor) -> Tensor:
    """Centred Gram matrix [r, r]; rows are scaled so that squares cannot overflow."""
    centred = rows.float() - rows.float().mean(0)
    centred = centred / centred.abs().max().clamp_min(1e-30)
    return centred @ centred.T
