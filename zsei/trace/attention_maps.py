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


def head_patterns(
    weights: Tensor, real: Tensor | None, delimiters: Tensor | None = None
) -> dict[str, Tensor]:
    """Per sample and head [n, h]: where the attention mass of a head lies.

    Formula: attention_entropy = mean over i of H(w_i) / log(number of keys seen), 0 for one key, 1
    for uniform; first_token_mass = mean w_i0; diagonal_mass = mean w_ii; previous_token_mass = mean
    w_i,i-1; attention_distance = mean Σ_j w_ij |i - j|; delimiter_mass = mean Σ w_ij over keys that
    are delimiters; tiny_weight_share = share of the T keys seen whose weight is below 1 / (10 T).

    Args:
        weights: [n, h, i, j].
        real: Bool [n, i], queries that are not padding; None when all are.
        delimiters: Bool [n, j], keys that are special or punctuation tokens; None when unknown.
    """
    n, _, queries, keys = weights.shape
    keep = torch.ones(n, queries, dtype=torch.bool) if real is None else real
    share = keep[:, None].to(weights.dtype)
    total = share.sum(-1).clamp_min(1)

    def over_queries(per_query: Tensor) -> Tensor:
        return (per_query * share).sum(-1) / total

    entropy = -(weights * weights.clamp_min(1e-30).log()).sum(-1)
    allowed = weights > 0
    seen = allowed.sum(-1, keepdim=True)
    tiny = (allowed & (weights < 0.1 / seen)).sum(-1) / seen[..., 0].clamp_min(1)
    most = seen[..., 0].clamp_min(2).to(weights.dtype).log()
    found = {
        "attention_entropy": over_queries(entropy / most),
        "first_token_mass": over_queries(weights[..., 0]),
        "tiny_weight_share": over_queries(tiny),
    }
    if delimiters is not None:
        found["delimiter_mass"] = over_queries((weights * delimiters[:, None, None]).sum(-1))
    if queries == keys:
        diagonal = weights.diagonal(dim1=-2, dim2=-1)
        previous = torch.nn.functional.pad(weights.diagonal(offset=-1, dim1=-2, dim2=-1), (1, 0))
        found["diagonal_mass"] = over_queries(diagonal)
        found["previous_token_mass"] = over_queries(previous)
        positions = torch.arange(keys, dtype=weights.dtype)
        distance = (positions[:, None] - positions[None, :]).abs()
        found["attention_distance"] = over_queries((weights * distance).sum(-1))
    return found


def routing(
    weights: Tensor, value: Tensor, projection: Tensor, real: Tensor | None
) -> dict[str, Tensor]:
    """Per sample and head [n, h]: where the vectors a head writes come from.

    Formula: f_ij = ‖α_ij v_j W_O‖ = α_ij ‖v_j W_O‖ and p_ij = f_ij / Σ_j f_ij; effective_fan_in =
    mean over i of exp(H(p_i)), routed_first_mass = mean over i of p_i0. ‖v_j W_O‖² is v_j (W_O
    W_Oᵀ) v_jᵀ, so that no vector of the stream's width is built.

    Args:
        weights: [n, h, i, j].
        value: [n, h or fewer, j, d].
        projection: W_O by head [h, d, c].
        real: Bool [n, i], queries that are not padding; None when all are.
    """
    value = value.float()
    if value.shape[1] != weights.shape[1]:
        value = value.repeat_interleave(weights.shape[1] // value.shape[1], 1)
    gram = projection.float() @ projection.float().transpose(1, 2)
    norms = ((value @ gram) * value).sum(-1).clamp_min(0).sqrt()
    flow = weights * norms[:, :, None]
    share = flow / flow.sum(-1, keepdim=True).clamp_min(1e-30)
    fan_in = (-(share * share.clamp_min(1e-30).log()).sum(-1)).exp()
    keep = torch.ones(weights.shape[0], weights.shape[2]) if real is None else real.float()
    total = keep.sum(-1, keepdim=True).clamp_min(1)
    return {
        "effective_fan_in": (fan_in * keep[:, None]).sum(-1) / total,
        "routed_first_mass": (share[..., 0] * keep[:, None]).sum(-1) / total,
    }


def pattern_measurements(per_batch: list[dict[str, Tensor]], head: int) -> list[Measurement]:
    """One measurement per pattern for a head, mean and spread over samples."""
    measurements = []
    for name in per_batch[0]:
        values = torch.cat([batch[name][:, head] for batch in per_batch]).double()
        unit = "positions" if name in ("attention_distance", "effective_fan_in") else "share"
        spread = float(values.std()) if len(values) > 1 else None
        measurements.append(
            Measurement(name=name, value=float(values.mean()), unit=unit, std=spread, n=len(values))
        )
    return measurements
