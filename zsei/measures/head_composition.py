"""Which heads read what earlier heads write, from their weights alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.records import Matrix, Measurement
from zsei.trace.head_weights import HeadWeights, Port, folded, head_weights
from zsei.trace.view import Measured, View

KINDS = ("q", "k", "v")


@dataclass(frozen=True, kw_only=True)
class _Side:
    """One way in which the heads of an attention read: W [h, d, w] times what follows it."""

    kind: str
    port: Port
    behind: Tensor
    """[h, w, w]: has the singular values of what follows the port's weights."""


@final
@dataclass(frozen=True, kw_only=True)
class HeadComposition:
    """Composition scores of every pair of an earlier and a later head.

    Measures: how much of what an earlier head writes lies in directions that a later head reads as
    its query, its key or its value, compared with a writer that faces a random way.

    Formula: with rows as vectors, W_OV = W_V W_O and W_QK = W_Q W_Kᵀ [d, d]; for heads a before b
    Q: ‖W_OV^a W_QK^b‖ / (‖W_OV^a‖ ‖W_QK^b‖), K: the same with W_QKᵀ, V: with W_OV^b, all norms
    Frobenius. The gains (and centring) of norms between the two are folded into b's weights. Of
    every score 1/√d is subtracted: the root mean square of the ratio when a is turned at random,
    exact for any weights. Only factors of the heads' width w are multiplied, d · (h w)² a pair of
    layers.

    Reading it: 0 is chance; the most is 1 - 1/√d, where all that a writes lies in the direction
    that b reads most. A head with high K-composition and attention to what follows an earlier
    occurrence is an induction head's second half.

    Misleads when: the data never uses what the weights allow; rotary positions turn queries and
    keys (the scores are those at distance 0); heads of low rank, whose scores spread widely about
    chance; or one stream direction of huge norm is shared by all.

    References: Elhage et al., "A mathematical framework for transformer circuits", 2021
    (composition scores and their random baseline).
    """

    name: ClassVar[str] = "head-composition"

    most_heads: int = 192
    """Heads up to which whole matrices are kept; beyond, only each head's strongest partner."""
    most_operations: float = 4e12
    """Multiply-adds spent at most; what would exceed them, the farthest layers first, is left."""

    @torch.no_grad()
    def measure(self, view: View) -> Measured:
        """One matrix a kind, earlier heads by later heads, and each later head's strongest pair."""
        known, unknown = head_weights(view)
        heads = [head for weights in known for head in weights.heads]
        first = {w.component: heads.index(w.heads[0]) for w in known}
        scores = {kind: torch.full((len(heads),) * 2, torch.nan) for kind in KINDS}
        spent, left = 0.0, 0
        pairs = [(a, b) for j, b in enumerate(known) for a in reversed(known[:j])]
        written = {w.component: _written(w) for w in known}
        sides = {w.component: tuple(_sides(w)) for w in known}
        order = {w.component: i for i, w in enumerate(known)}
        for a, b in sorted(pairs, key=lambda p: order[p[1].component] - order[p[0].component]):
            spent += 3 * written[a.component].numel() * len(b.heads) * b.output.shape[1]
            if spent > self.most_operations:
                left += 1
                continue
            for side in sides[b.component]:
                if a.node in side.port.writers:
                    here = _scores(written[a.component], side, side.port.writers[a.node])
                    i, j = first[a.component], first[b.component]
                    scores[side.kind][i : i + len(a.heads), j : j + len(b.heads)] = here
        matrices = tuple(
            _matrix(kind, heads, scores[kind])
            for kind in KINDS
            if len(heads) <= self.most_heads and not bool(scores[kind].isnan().all())
        )
        notes = [f"head composition: the projections of {name} cannot be told" for name in unknown]
        if left:
            notes.append(f"head composition: {left} pairs of far layers were left out")
        return Measured(
            measurements=_strongest(heads, scores), matrices=matrices, notes=tuple(notes)
        )


def _triangle(weight: Tensor) -> Tensor:
    """R [h, w, w] of weights [h, d, w], d >= w or not: ‖X Wᵀ‖ = ‖X Rᵀ‖ for any X."""
    return torch.linalg.qr(weight, mode="r").R


def _written(weights: HeadWeights) -> Tensor:
    """W_OV of every head as [h, w, d], turned on the left: same products, fewer rows."""
    return _triangle(folded(weights.value.weight, weights.value.own)) @ weights.output


def _sides(weights: HeadWeights) -> Iterator[_Side]:
    query = folded(weights.query.weight, weights.query.own)
    key = folded(weights.key.weight, weights.key.own)
    yield _Side(kind="q", port=weights.query, behind=_triangle(key))
    yield _Side(kind="k", port=weights.key, behind=_triangle(query))
    yield _Side(kind="v", port=weights.value, behind=_triangle(weights.output.transpose(1, 2)))


def _scores(written: Tensor, side: _Side, norms: tuple) -> Tensor:
    """Scores above chance [h_a, h_b] of what earlier heads write [h_a, w, d] on one side of b."""
    reading = folded(side.port.weight, norms) @ side.behind.transpose(1, 2)
    heads, width, channels = written.shape
    product = written.reshape(-1, channels) @ reading.permute(1, 0, 2).reshape(channels, -1)
    size = product.reshape(heads, width, reading.shape[0], -1).square().sum((1, 3)).sqrt()
    whole = written.flatten(1).norm(dim=1)[:, None] * reading.flatten(1).norm(dim=1)[None]
    # A head that writes or reads nothing composes with nobody: not a number, "could not tell".
    return torch.where(whole > 1e-12, size / whole, torch.nan) - channels**-0.5


def _matrix(kind: str, heads: list[str], scores: Tensor) -> Matrix:
    values = [[None if v != v else round(v, 5) for v in row] for row in scores.tolist()]
    names = {"q": "queries", "k": "keys", "v": "values"}
    return Matrix(
        name=f"{kind}_composition",
        title=f"Heads whose output later heads read as {names[kind]} (above chance)",
        rows=tuple(heads),
        columns=tuple(heads),
        values=tuple(tuple(row) for row in values),
        unit="ratio above chance",
        note="rows write, columns read; from weights alone",
    )


def _strongest(
    heads: list[str], scores: dict[str, Tensor]
) -> dict[str, tuple[Measurement, ...]]:  # fmt: skip
    found: dict[str, tuple[Measurement, ...]] = {}
    for j, head in enumerate(heads):
        rows = []
        for kind in KINDS:
            column = scores[kind][:, j].nan_to_num(nan=-torch.inf)
            if len(column) and float(column.max()) > -torch.inf:
                best = int(column.argmax())
                rows.append(
                    Measurement(name=f"{kind}_composition", value=round(float(column[best]), 5),
                                unit="ratio above chance", note=f"most with {heads[best]}")
                )  # fmt: skip
        if rows:
            found[head] = tuple(rows)
    return found
