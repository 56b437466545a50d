"""What each head looks at, from the attention weights of a few samples.

Weights are recomputed from q, k and the mask in the exported call; nothing in the model changes.
Index letters: n sample, h head, i query position, j key position.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.records import Measurement


@dataclass(frozen=True, kw_only=True)
class AttentionCall:
    """The tensors one attention call was given, for a few samples."""

    query: Tensor
    key: Tensor
    mask: Tensor | None
    causal: bool
    scale: float | None


def attention_weights(call: AttentionCall) -> Tensor:
    """softmax(q kᵀ · scale + mask): [n, h, i, j], rows sum to 1 (0 where nothing may be seen)."""
    query, key = call.query.float(), call.key.float()
    if key.shape[1] != query.shape[1]:
        key = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scale = query.shape[-1] ** -0.5 if call.scale is None else call.scale
    scores = query @ key.transpose(-1, -2) * scale
    if call.causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if call.mask is not None:
        if call.mask.dtype == torch.bool:
            scores = scores.masked_fill(~call.mask, -torch.inf)
        else:
            scores = scores + call.mask.float()
    return scores.softmax(-1).nan_to_num(0.0)


def head_patterns(weights: Tensor, real: Tensor | None) -> dict[str, Tensor]:
    """Per sample and head [n, h]: where the attention mass of a head lies.

    Formula: attention_entropy = mean over i of H(w_i) / log(number of keys seen), 0 for one key, 1
    for uniform; first_token_mass = mean w_i0; diagonal_mass = mean w_ii; previous_token_mass = mean
    w_i,i-1; attention_distance = mean Σ_j w_ij |i - j|.

    Args:
        weights: [n, h, i, j].
        real: Bool [n, i], queries that are not padding; None when all are.
    """
    n, _, queries, keys = weights.shape
    keep = torch.ones(n, queries, dtype=torch.bool) if real is None else real
    share = keep[:, None].to(weights.dtype)
    total = share.sum(-1).clamp_min(1)

    def over_queries(per_query: Tensor) -> Tensor:
        return (per_query * share).sum(-1) / total

    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)
    seen = (weights > 0).sum(-1).clamp_min(2)
    found = {
        "attention_entropy": over_queries(entropy / seen.to(weights.dtype).log()),
        "first_token_mass": over_queries(weights[..., 0]),
    }
    if queries == keys:
        diagonal = weights.diagonal(dim1=-2, dim2=-1)
        previous = torch.nn.functional.pad(weights.diagonal(offset=-1, dim1=-2, dim2=-1), (1, 0))
        found["diagonal_mass"] = over_queries(diagonal)
        found["previous_token_mass"] = over_queries(previous)
        positions = torch.arange(keys, dtype=weights.dtype)
        distance = (positions[:, None] - positions[None, :]).abs()
        found["attention_distance"] = over_queries((weights * distance).sum(-1))
    return found


def pattern_measurements(per_batch: list[dict[str, Tensor]], head: int) -> list[Measurement]:
    """One measurement per pattern for a head, mean and spread over samples."""
    measurements = []
    for name in per_batch[0]:
        values = torch.cat([batch[name][:, head] for batch in per_batch]).double()
        unit = "positions" if name == "attention_distance" else "share"
        spread = float(values.std()) if len(values) > 1 else None
        measurements.append(
            Measurement(name=name, value=float(values.mean()), unit=unit, std=spread, n=len(values))
        )
    return measurements
