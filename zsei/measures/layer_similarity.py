"""How alike the residual stream is after every two layers."""

from dataclasses import dataclass
from typing import ClassVar, final

from zsei.records import Matrix
from zsei.trace.rows import linear_cka
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class LayerSimilarity:
    """Linear CKA between what any two layers leave in the stream.

    Measures: how far two layers carry the same features, whatever the basis they stand in.

    Formula: CKA(X, Y) = ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), X and Y the centred rows [r, c] of the two layers'
    outputs on the same r samples and positions.

    Reading it: 1 for layers equal up to rotation and scale, 0 for unrelated ones. Blocks of high
    values along the diagonal are stretches in which little changes; a sharp edge between two blocks
    is where the model changes its representation.

    Misleads when: a few rows or channels of huge norm dominate (the first token of decoders), or
    rows are fewer than channels, which raises every value.

    References: Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations
    revisited", ICML 2019.
    """

    name: ClassVar[str] = "layer-similarity"

    fewest_rows: int = 8
    """Rows below which no similarity is claimed."""

    def measure(self, view: View) -> Measured:
        """One matrix, layers by layers."""
        layers = [c.id for c in view.subject.anatomy.components if c.kind == "layer"]
        nodes = {layer: view.subject.anatomy.outputs[layer] for layer in layers}
        known = [layer for layer in layers if nodes[layer] in view.rows]
        if len(known) < 2:
            return Measured()
        values: list[list[float | None]] = [[None] * len(known) for _ in known]
        samples = view.row_samples[nodes[known[0]]]
        for i, first in enumerate(known):
            for j in range(i + 1):
                x, y = view.rows[nodes[first]], view.rows[nodes[known[j]]]
                if len(x) == len(y) >= self.fewest_rows:
                    values[i][j] = values[j][i] = 1.0 if i == j else linear_cka(x, y)
        matrix = Matrix(
            name="layer_similarity",
            title="Similarity of the stream after each layer (linear CKA)",
            rows=tuple(known),
            columns=tuple(known),
            values=tuple(tuple(row) for row in values),
            unit="CKA",
            n=len(samples.unique()),
            note=f"from {len(samples)} rows",
        )
        return Measured(matrices=(matrix,))
