"""A fixed sample of rows of each value: what rank, similarity and shares are computed from.

Every value is seen as rows (sample and position) by channels. A fixed number of rows is kept per
value, the same rows of every value of one layout, so that memory does not grow with the data and
values can be compared row by row.
"""

import torch
from torch import Tensor

from zsei.subject.types import Batch


def row_indices(lead: tuple[int, ...], mask: Tensor | None, limit: int) -> tuple[Tensor, ...]:
    """Indices into the leading axes of at most `limit` rows, evenly spread over the real ones.

    Args:
        lead: Sizes of all axes but the channels, sample first.
        mask: Bool [n, t]; rows of padding are left out when `lead` is (n, t).
        limit: How many rows at most.
    """
    if mask is not None and tuple(mask.shape) == lead:
        allowed = mask.flatten().nonzero().flatten()
    else:
        allowed = torch.arange(int(torch.tensor(lead).prod()))
    if len(allowed) > limit:
        # Spread over the whole range: neighbouring positions look alike.
        allowed = allowed[torch.linspace(0, len(allowed) - 1, limit).round().long()]
    return torch.unravel_index(allowed, lead)


def real_rows(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Rows [r, ...] without those of padding, where a row is one position of the mask [n, t]."""
    if mask is None or mask.numel() != len(rows):
        return rows
    return rows[mask.flatten()]


def take_rows(value: Tensor, axis: int, mask: Tensor | None, limit: int) -> Tensor:
    """Rows [r, c] of a value whose channels lie on `axis`; attention values [n, h, t, d] become
    [r, h · d] with rows over (n, t).
    """  # fmt: skip
    value = value.detach()
    if value.ndim == 4 and axis == -1:
        value = value.transpose(1, 2)
        chosen = row_indices(tuple(value.shape[:2]), mask, limit)
        return value[chosen].flatten(1)
    moved = value.movedim(axis, -1)
    if moved.ndim == 1:
        return moved[None]
    return moved[row_indices(tuple(moved.shape[:-1]), mask, limit)]


def row_samples(value: Tensor, axis: int, batch: Batch, limit: int) -> Tensor:
    """Sample, counted from 0 within the batch, of each row that `take_rows` gives, [r].

    Values that fold something into the first axis do so sample-major, so k rows of it are one
    sample's; where positions come first ([t, n, c]) samples are the second axis; a value without
    samples (position embeddings) belongs to the first.
    """
    if value.ndim == 4 and axis == -1:
        lead = (value.shape[0], value.shape[2])
    else:
        lead = tuple(size for a, size in enumerate(value.shape) if a != axis % value.ndim)
    if not lead:
        return torch.zeros(1, dtype=torch.long)
    indices = row_indices(lead, batch.mask, limit)
    if lead[0] % batch.size and batch.size in lead[1:2]:
        return indices[1]
    return (indices[0] // max(1, lead[0] // batch.size)).clamp_max(batch.size - 1)


def effective_rank(rows: Tensor, *, standardise: bool = False) -> tuple[float, int]:
    """exp(-Σ p log p) over the eigenvalues p of the rows' covariance, and the most it could be.

    Args:
        rows: Values [r, c].
        standardise: Give every channel that varies unit variance first (the correlation matrix), so
            that a few channels of huge scale do not hide the others.

    Formula: p_i = λ_i / Σ λ, λ the eigenvalues of the centred covariance of rows [r, c]; the cap is
    min(r - 1, c). Misleads when r is not well above c: the cap then hides the true rank.
    References: Roy and Vetterli, "The effective rank: a measure of effective dimensionality", 2007.
    """
    centred = rows - rows.mean(0)
    if standardise:
        spread = centred.square().mean(0).sqrt()
        # What a constant channel varies by is rounding.
        varies = spread > 1e-6 * rows.abs().amax(0)
        centred = torch.where(varies, centred / spread.clamp_min(1e-30), torch.zeros(()))
    wide = centred.shape[0] < centred.shape[1]
    gram = centred @ centred.T if wide else centred.T @ centred
    values = torch.linalg.eigvalsh(gram).clamp_min(0)
    values = values.double()
    total = values.sum()
    cap = min(rows.shape[0] - 1, rows.shape[1])
    if total <= 1e-12 or cap < 1:
        return 0.0, cap
    share = values / total
    share = share[share > 1e-9]
    return float((-(share * share.log()).sum()).exp()), cap


def linear_cka(first: Tensor, second: Tensor) -> float:
    """Linear CKA of two row samples [r, c1] and [r, c2]: ‖XᵀY‖² / (‖XᵀX‖ ‖YᵀY‖), centred.

    Reading it: 1 for values equal up to rotation and scale, 0 for unrelated ones. Misleads when a
    few rows dominate the norm. Source: Kornblith et al., 2019.
    """
    x, y = first.double() - first.double().mean(0), second.double() - second.double().mean(0)
    bottom = (x.T @ x).norm() * (y.T @ y).norm()
    return float((x.T @ y).square().sum() / bottom) if bottom > 1e-20 else 0.0


def proximity_shares(total: Tensor, parts: list[Tensor]) -> list[float]:
    """Share of each summand in a sum, averaged over rows: max(0, ‖y‖₁ - ‖y - f‖₁), normalised.

    Args:
        total: The sum y, rows [r, c].
        parts: The summands f, each [r, c].

    Reading it: how near y is to f alone. It is a share of the sum, not importance: on MiniLM such
    shares rank heads at Spearman 0.14 to 0.50 against ablation. Source: Ferrando and Voita, 2024.
    """
    size = total.abs().sum(1)
    near = torch.stack([(size - (total - part).abs().sum(1)).clamp_min(0) for part in parts])
    whole = near.sum(0)
    known = whole > 1e-12
    if not bool(known.any()):
        return [1.0 / len(parts)] * len(parts)
    return [float(n) for n in (near[:, known] / whole[known]).mean(1)]
