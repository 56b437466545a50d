"""How alike layers and branches are: the stream after each layer, and what each branch adds."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.records import Matrix
from zsei.trace.view import Measured, View

Parts = list[tuple[str, str]]
"""(component, node of the value it leaves)."""


@final
@dataclass(frozen=True, kw_only=True)
class LayerSimilarity:
    """CKA between what any two layers leave in the stream, and what any two branches add to it.

    Measures: how far two layers carry the same features, whatever the basis they stand in; for
    branches (attention, MLP) also whether they write the same vectors.

    Formula: X and Y the centred rows [r, c] of two values at the same r samples and positions,
    K = X Xᵀ, L = Y Yᵀ. layer_similarity = ⟨K, L⟩ / (‖K‖ ‖L‖), which is ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖).
    part_similarity: the same with the unbiased estimate of HSIC, that is, K and L without their
    diagonal and U-centred; it is near 0 for unrelated values however few the rows, and may fall
    below. branch_cosine = ⟨X, Y⟩ / (‖X‖ ‖Y‖).

    Reading it: 1 for layers equal up to rotation and scale, 0 for unrelated ones. Blocks of high
    values along the diagonal are stretches in which little changes; a sharp edge between two blocks
    is where the model changes its representation. A branch_cosine near 1 or -1 is a copy.

    Misleads when: a few rows or channels of huge norm dominate (the first token of decoders), or
    rows are fewer than channels, which raises every layer_similarity.

    References: Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations
    revisited", ICML 2019; Nguyen, Raghu and Kornblith, "Do wide and deep networks learn the same
    things?", ICLR 2021 (the debiased form).
    """

    name: ClassVar[str] = "layer-similarity"

    fewest_rows: int = 8
    """Rows below which no similarity is claimed."""
    most_parts: int = 64
    """Layers and branches up to which the second matrix is computed; branches give way."""

    def measure(self, view: View) -> Measured:
        """Layers by layers, parts by parts, branches by branches."""
        anatomy = view.subject.anatomy
        layers = [(c.id, anatomy.outputs[c.id]) for c in anatomy.components if c.kind == "layer"]
        ends = {node for _, node in layers}
        branches = [(s.component, s.node) for s in anatomy.sites if s.kind == "branch"]
        layers, branches = self._seen(view, layers), self._seen(view, branches)
        branches = [(name, node) for name, node in branches if node not in ends]
        parts = layers + branches if len(layers + branches) <= self.most_parts else layers
        centred = {node: _centred(view.rows[node]) for _, node in parts}
        kernels = {node: rows @ rows.T for node, rows in centred.items()}
        found: list[Matrix] = []
        if len(layers) > 1:
            found.append(self._matrix(view, "layer_similarity", layers, kernels))
        if len(parts) > 1:
            debiased = {node: _debiased(kernel) for node, kernel in kernels.items()}
            found.append(self._matrix(view, "part_similarity", parts, debiased))
        if len(branches) > 1 and len(parts) > len(layers):
            found.append(self._matrix(view, "branch_cosine", branches, centred))
        return Measured(matrices=tuple(found))

    def _seen(self, view: View, parts: Parts) -> Parts:
        return [p for p in parts if p[1] in view.rows and len(view.rows[p[1]]) >= self.fewest_rows]

    def _matrix(self, view: View, name: str, parts: Parts, seen: dict[str, Tensor]) -> Matrix:
        """Normalised inner products of every two parts seen at the same rows."""
        samples = [view.row_samples[node] for _, node in parts]
        values: list[list[float | None]] = [[None] * len(parts) for _ in parts]
        sizes = [float(seen[node].double().norm()) for _, node in parts]
        for i, (_, first) in enumerate(parts):
            for j, (_, second) in enumerate(parts[: i + 1]):
                same = torch.equal(samples[i], samples[j])
                if not same or seen[first].shape != seen[second].shape:
                    continue
                bottom = sizes[i] * sizes[j]
                product = float(torch.dot(seen[first].flatten(), seen[second].flatten()))
                if bottom > 1e-20:
                    values[i][j] = values[j][i] = 1.0 if i == j else product / bottom
        ids = tuple(part for part, _ in parts)
        return Matrix(
            name=name,
            title=TITLES[name],
            rows=ids,
            columns=ids,
            values=tuple(tuple(row) for row in values),
            unit="cosine" if name == "branch_cosine" else "CKA",
            n=len(samples[0].unique()),
            note=f"from {len(samples[0])} rows",
        )


TITLES = {
    "layer_similarity": "Similarity of the stream after each layer (linear CKA)",
    "part_similarity": "Similarity of layers and branches (debiased linear CKA)",
    "branch_cosine": "Branches that write the same (cosine over rows and channels)",
}


def _centred(rows: Tensor) -> Tensor:
    rows = rows.float()
    return rows - rows.mean(0)


def _debiased(kernel: Tensor) -> Tensor:
    """U-centred kernel [r, r], whose inner products are unbiased estimates of HSIC up to scale."""
    r = len(kernel)
    kernel = kernel.clone().fill_diagonal_(0)
    rows = kernel.sum(0) / (r - 2)
    kernel = kernel - rows[:, None] - rows[None] + rows.sum() / (r - 1)
    return kernel.fill_diagonal_(0)
