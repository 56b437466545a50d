"""How alike what any two heads write is: as written, up to rotation, and in its directions."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.records import Matrix, Measurement
from zsei.trace.taps import HeadTap
from zsei.trace.view import Measured, View

TITLES = {
    "head_cosine": "Heads that write the same (cosine of z W_O over rows and channels)",
    "head_cka": "Heads that carry the same features (linear CKA of z W_O)",
    "head_overlap": "Heads that write into the same directions (overlap of covariances)",
}


@dataclass(frozen=True, kw_only=True)
class _Heads:
    """Heads of one attention, seen through factors of their width w."""

    tap: HeadTap
    values: Tensor
    """Centred z, [r, h, w]."""
    weights: Tensor
    """[h, w, d]."""
    weight_factor: Tensor
    """R [h, k, w] with Rᵀ R = W_O W_Oᵀ."""
    value_factor: Tensor
    """R [h, k, w] with Rᵀ R = zᵀ z."""


@final
@dataclass(frozen=True, kw_only=True)
class HeadCollaboration:
    """Three likenesses of the outputs of every two heads, of one layer or of two.

    Measures: whether heads write the same vectors, the same features in another basis, or other
    values into the same directions of the stream.

    Formula: P_h = z_h W_O^h [r, d], centred over the kept rows. head_cosine = ⟨P_a, P_b⟩ /
    (‖P_a‖ ‖P_b‖); head_cka = ‖P_aᵀ P_b‖² / (‖P_aᵀ P_a‖ ‖P_bᵀ P_b‖); head_overlap = ⟨C_a, C_b⟩ /
    (‖C_a‖ ‖C_b‖), C = Pᵀ P [d, d]. All three come from zᵀ z and W_O W_Oᵀ between two layers, so
    that no P is ever made: (h w)² (r + d) multiply-adds a pair of layers.

    Reading it: cosine 1 or -1 is a copy (redundant-heads); high CKA with a low cosine is the same
    features written elsewhere; high overlap with low CKA is two writers that share directions and
    may amplify or undo each other.

    Misleads when: rows are few or one token (the first of decoders) carries most of the variance,
    which lifts all three; or data on which heads differ is missing.

    References: Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations
    revisited", ICML 2019; Robert and Escoufier, "A unifying tool for linear multivariate
    statistical methods: the RV-coefficient", 1976 (the overlap of covariances).
    """

    name: ClassVar[str] = "head-collaboration"

    most_heads: int = 192
    """Heads up to which the matrices are computed."""
    fewest_rows: int = 8
    """Rows below which no likeness is claimed."""

    @torch.no_grad()
    def measure(self, view: View) -> Measured:
        """Three matrices, heads by heads, and each head's nearest partner by CKA."""
        known = [h for tap in view.taps.attentions if (h := self._heads(view, tap)) is not None]
        heads = [head for part in known for head in part.tap.heads]
        if len(heads) < 2:
            return Measured()
        if len(heads) > self.most_heads:
            note = f"head collaboration: {len(heads)} heads are more than {self.most_heads}"
            return Measured(notes=(note,))
        found = {name: torch.full((len(heads),) * 2, torch.nan) for name in TITLES}
        for i, a in enumerate(known):
            for b in known[: i + 1]:
                if not _same_rows(view, a.tap, b.tap):
                    continue
                at = heads.index(a.tap.heads[0]), heads.index(b.tap.heads[0])
                for name, block in _likenesses(a, b).items():
                    found[name][at[0] : at[0] + block.shape[0], at[1] : at[1] + block.shape[1]] = (
                        block
                    )
        samples = len(view.row_samples[known[0].tap.core].unique())
        whole = {name: _normalised(values, name) for name, values in found.items()}
        return Measured(
            measurements=_nearest(heads, whole["head_cka"], samples),
            matrices=tuple(_matrix(name, heads, whole[name], samples) for name in TITLES),
        )

    def _heads(self, view: View, tap: HeadTap) -> _Heads | None:
        rows = view.rows.get(tap.core)
        if rows is None or tap.projection is None or len(rows) < self.fewest_rows:
            return None
        values = rows.float() - rows.float().mean(0)
        values = values.reshape(len(rows), len(tap.heads), -1)
        weights = tap.projection.float()
        return _Heads(
            tap=tap, values=values, weights=weights,
            weight_factor=torch.linalg.qr(weights.transpose(1, 2), mode="r").R,
            value_factor=torch.linalg.qr(values.transpose(0, 1), mode="r").R,
        )  # fmt: skip


def _same_rows(view: View, first: HeadTap, second: HeadTap) -> bool:
    """Whether two attentions were seen at the same samples and positions."""
    one, two = view.row_samples[first.core], view.row_samples[second.core]
    return torch.equal(one, two)


def _likenesses(a: _Heads, b: _Heads) -> dict[str, Tensor]:
    """Inner products of heads [h_a, h_b], one kind a name; `_normalised` divides by the sizes."""
    rows = len(a.values)
    values = a.values.reshape(rows, -1).T @ b.values.reshape(rows, -1)
    channels = a.weights.shape[2]
    weights = a.weights.reshape(-1, channels) @ b.weights.reshape(-1, channels).T
    shape = (*a.weights.shape[:2], *b.weights.shape[:2])
    values, weights = values.reshape(shape), weights.reshape(shape)
    return {
        "head_cosine": (values * weights).sum((1, 3)),
        "head_cka": _squares(a.weight_factor, values, b.weight_factor),
        "head_overlap": _squares(a.value_factor, weights, b.value_factor),
    }


def _squares(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """‖L_a M_ab R_bᵀ‖² for every a, b: [h_a, k, w], [h_a, w, h_b, w], [h_b, k, w] -> [h_a, h_b]."""
    half = torch.einsum("akw,awbv->abkv", left, middle)
    return (half @ right.transpose(1, 2)).square().sum((2, 3))


def _normalised(products: Tensor, name: str) -> Tensor:
    """Both halves of the matrix, divided by the sizes on its diagonal."""
    products = torch.where(products.isnan(), products.T, products).double()
    size = products.diagonal().clamp_min(0).sqrt()
    bottom = size[:, None] * size[None]
    # A head that writes nothing is like no other: "could not tell".
    found = torch.where(bottom > 1e-20, products / bottom, torch.nan)
    return found.clamp(-1 if name == "head_cosine" else 0, 1)


def _matrix(name: str, heads: list[str], values: Tensor, samples: int) -> Matrix:
    rows = [[None if v != v else round(v, 5) for v in row] for row in values.tolist()]
    return Matrix(
        name=name, title=TITLES[name], rows=tuple(heads), columns=tuple(heads),
        values=tuple(tuple(row) for row in rows), unit="-1 to 1" if "cosine" in name else "0 to 1",
        n=samples,
    )  # fmt: skip


def _nearest(heads: list[str], cka: Tensor, n: int) -> dict[str, tuple[Measurement, ...]]:
    found = {}
    apart = cka.clone().fill_diagonal_(torch.nan).nan_to_num(nan=-1.0)
    for i, head in enumerate(heads):
        best = int(apart[i].argmax())
        if float(apart[i, best]) >= 0:
            m = Measurement(name="head_cka", value=round(float(apart[i, best]), 5), unit="CKA",
                            n=n, note=f"most with {heads[best]}")  # fmt: skip
            found[head] = (m,)
    return found
