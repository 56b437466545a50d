"""Which parts push the output the same way, and which undo each other, to first order."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.records import Matrix, Measurement
from zsei.trace.view import Measured, View


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A head or a branch and what it contributes at every row, [r]."""

    name: str
    contribution: Tensor
    samples: Tensor


@final
@dataclass(frozen=True, kw_only=True)
class ContributionAlignment:
    """Cosine of the contributions of any two heads or branches along the output gradient.

    Measures: whether two parts move the output the same way wherever they write (they add up, or
    stand in for each other) or opposite ways (one undoes the other), however different the vectors
    they write are.

    Formula: k_u[r] = (a_u[r] - mean a_u) · g_u[r] per kept row r, g the gradient of the loss, or
    without labels of one random output direction per sample. contribution_alignment(u, v) =
    Σ_r k_u k_v / √(Σ k_u² Σ k_v²). For random directions it estimates the cosine of the two output
    changes that mean ablation makes, so that the interaction of ablating both is about
    2 · alignment · √(Δ_u Δ_v). contribution_coherence of a group = Σ_r (Σ_u k_u)² / Σ_r Σ_u k_u²:
    1 for parts that do not know of each other, 0 where all cancels, their number where all agree.

    Reading it: near 1 candidates for semantic redundancy, near -1 for conflict; joint ablation
    decides. Without relation it scatters by about 1/√(independent rows).

    Misleads when: removal is no small change, for it is first order; samples are few; or parts of
    different positions in the sequence act on each other, which rows cannot show.

    References: Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019 (the
    first-order term); Elhage et al., "A mathematical framework for transformer circuits", 2021.
    """

    name: ClassVar[str] = "contribution-alignment"

    fewest_samples: int = 8
    """Samples below which nothing is claimed."""
    most_parts: int = 256
    """Parts up to which the matrix is kept: heads first give way to branches."""

    def measure(self, view: View) -> Measured:
        """One matrix, parts by parts; coherence of every attention's heads and layer's branches."""
        parts = list(_parts(view))
        if len(parts) > self.most_parts:
            parts = [p for p in parts if view.subject.anatomy.component(p.name).kind != "head"]
        if len(parts) < 2 or len(parts) > self.most_parts:
            return Measured()
        samples = len(parts[0].samples.unique())
        names = [part.name for part in parts]
        if samples < self.fewest_samples:
            why = f"{samples} samples; at least {self.fewest_samples} are needed"
            m = Measurement(name="contribution_alignment", value=None, unit="cosine",
                            state="could not tell", n=samples, note=why)  # fmt: skip
            return Measured(measurements={name: (m,) for name in names})
        values = _cosines(parts)
        matrix = Matrix(
            name="contribution_alignment",
            title="Parts that move the output alike (1) or undo each other (-1)",
            rows=tuple(names), columns=tuple(names),
            values=tuple(tuple(row) for row in values), unit="cosine", n=samples,
            note=f"first order, from {len(parts[0].samples)} rows",
        )  # fmt: skip
        found = _extremes(names, values, samples)
        for group, coherence in _coherences(view, parts):
            m = Measurement(name="contribution_coherence", value=coherence, unit="ratio", n=samples)
            found[group] = (*found.get(group, ()), m)
        return Measured(measurements=found, matrices=(matrix,))


def _parts(view: View) -> Iterator[_Part]:
    for site in view.subject.anatomy.sites:
        rows, gradients = view.rows.get(site.node), view.gradient_rows.get(site.node)
        if site.kind not in ("head", "branch") or rows is None or gradients is None:
            continue
        if rows.shape != gradients.shape or rows.shape[1] % site.units:
            continue
        product = ((rows - rows.mean(0)) * gradients).reshape(len(rows), site.units, -1).sum(2)
        for name, contribution in zip(site.unit_ids, product.T.double(), strict=True):
            yield _Part(name=name, contribution=contribution, samples=view.row_samples[site.node])


def _cosines(parts: list[_Part]) -> list[list[float | None]]:
    """Cosines of parts seen at the same rows; None for the others and for parts without effect."""
    values: list[list[float | None]] = [[None] * len(parts) for _ in parts]
    layouts: list[tuple[Tensor, list[int]]] = []
    for i, part in enumerate(parts):
        for samples, members in layouts:
            if torch.equal(samples, part.samples):
                members.append(i)
                break
        else:
            layouts.append((part.samples, [i]))
    for _, members in layouts:
        stacked = torch.stack([parts[i].contribution for i in members])
        size = stacked.norm(dim=1)
        # Beside the largest part, what is smaller than float32's precision is rounding.
        alive = size > 1e-7 * size.max()
        unit = stacked / size.clamp_min(1e-300)[:, None]
        cosines = (unit @ unit.T).clamp(-1, 1)
        for a, i in enumerate(members):
            for b, j in enumerate(members):
                if alive[a] and alive[b]:
                    values[i][j] = round(float(cosines[a, b]), 5)
    return values


def _extremes(
    names: list[str], values: list[list[float | None]], n: int
) -> dict[str, tuple[Measurement, ...]]:
    """The strongest opponent of every part that has one."""
    found: dict[str, tuple[Measurement, ...]] = {}
    for i, name in enumerate(names):
        row = [(v, names[j]) for j, v in enumerate(values[i]) if v is not None and j != i]
        if row:
            value, partner = min(row)
            found[name] = (
                Measurement(name="contribution_alignment", value=value, unit="cosine", n=n,
                            note=f"least with {partner}"),
            )  # fmt: skip
    return found


def _coherences(view: View, parts: list[_Part]) -> Iterator[tuple[str, float]]:
    """Attention -> coherence of its heads; layer -> coherence of its branches."""
    by_name: Mapping[str, _Part] = {part.name: part for part in parts}
    groups: dict[str, list[_Part]] = {}
    layers = {c.layer: c.id for c in view.subject.anatomy.components if c.kind == "layer"}
    for component in view.subject.anatomy.components:
        if component.id in by_name:
            home = component.parent if component.kind == "head" else layers.get(component.layer)
            if home is not None:
                groups.setdefault(home, []).append(by_name[component.id])
    for group, members in groups.items():
        same = all(torch.equal(members[0].samples, part.samples) for part in members)
        stacked = torch.stack([p.contribution for p in members]) if same else torch.zeros(1, 1)
        bottom = float(stacked.square().sum())
        if len(members) > 1 and bottom > 0:
            yield group, float(stacked.sum(0).square().sum()) / bottom
