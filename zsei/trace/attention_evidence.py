"""What is kept of attention weights: patterns, how they change with the input, where norms flow.

Weights are recomputed for a few samples per batch. Index letters: n sample, h head, i query, j key.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor

from zsei.subject.types import Batch
from zsei.trace.attention_maps import AttentionCall, attention_weights, head_patterns, routing
from zsei.trace.taps import HeadTap, Taps

SAMPLES = 4
"""Samples per batch whose attention weights are recomputed."""
WEIGHTS = 2**26
"""Attention weights held at a time; one sample's at least."""
QUERIES = 64
"""Query positions, evenly spread, at which attention is compared between inputs."""
LENGTHS = 4
"""Inputs are compared with those whose length lies in the same of so many ranges."""


@dataclass
class SharedAttention:
    """Running sums over inputs of like length, at the same query positions."""

    inputs: int = 0
    n: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Inputs in which each query position is real [i]."""
    weights: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Σ_n w [h, i, j]."""
    entropy: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Σ_n H(w) in bits [h, i]."""

    def add(self, weights: Tensor, real: Tensor) -> None:
        """Take in one input's weights [h, i, j]; `real` [i] says which queries count."""
        counted = real.to(weights.dtype)
        self.inputs += 1
        self.n = self.n + counted
        self.weights = self.weights + weights * counted[:, None]
        self.entropy = self.entropy + entropy_bits(weights) * counted

    def divergence(self, fewest: int) -> Tensor | None:
        """Jensen-Shannon divergence of the inputs' rows in bits, mean over queries that at least
        `fewest` inputs have: [h]; None where there is none.
        """
        known = self.n >= fewest
        if not bool(known.any()):
            return None
        n = self.n[known]
        mixture = entropy_bits(self.weights[:, known] / n[:, None])
        return (mixture - self.entropy[:, known] / n).clamp_min(0).mean(-1)


@dataclass
class AttentionEvidence:
    """What is kept of one attention."""

    patterns: list[dict[str, Tensor]] = field(default_factory=list)
    """Per batch: name -> value per sample and head [n, h]."""
    shared: dict[int, SharedAttention] = field(default_factory=dict)
    """Range of the length -> the inputs in it."""


def entropy_bits(weights: Tensor) -> Tensor:
    """Entropy of every row, in bits: [..., j] -> [...]."""
    return -(weights * weights.clamp_min(1e-30).log2()).sum(-1)


def keep_attention(
    taps: Taps, heads: HeadTap, calls: Mapping[str, Tensor], batch: Batch, kept: AttentionEvidence
) -> None:
    """Add what a batch's first samples show of one attention.

    Args:
        taps: Which tokens are delimiters.
        heads: The attention.
        calls: Node -> value, for query, key, value and mask.
        batch: The batch.
        kept: Added to.
    """
    few = _samples_at_once(calls[heads.query], calls[heads.key])
    call = AttentionCall(
        query=calls[heads.query][:few],
        key=calls[heads.key][:few],
        mask=_of_samples(calls[heads.mask], calls[heads.query], few)
        if heads.mask
        else heads.fixed_mask,
        causal=heads.causal,
        scale=heads.scale,
    )
    weights = attention_weights(call)
    n, _, queries, keys = weights.shape
    real = None
    if batch.mask is not None and batch.mask.shape[1] == queries and len(batch.mask[:few]) == n:
        real = batch.mask[:few]
    delimiters = None
    if taps.tokens is not None:
        tokens = batch.inputs[taps.tokens][:few]
        if tokens.shape == (n, keys):
            delimiters = torch.isin(tokens, torch.tensor(sorted(taps.delimiters)))
    found = head_patterns(weights, real, delimiters)
    if heads.projection is not None and heads.value in calls:
        found |= routing(weights, calls[heads.value][:few], heads.projection, real)
    kept.patterns.append(found)
    _keep_shared(weights, real, kept)


def _of_samples(mask: Tensor, query: Tensor, few: int) -> Tensor:
    """The mask of the first samples; one without an axis of samples, such as [i, j], is for all."""
    return mask[:few] if mask.ndim == query.ndim else mask


def _samples_at_once(query: Tensor, key: Tensor) -> int:
    """How many samples' weights [h, i, j] are held at a time: fewer when inputs are long."""
    pairs = prod(query.shape[1:-1]) * key.shape[-2]
    return max(1, min(SAMPLES, WEIGHTS // max(pairs, 1)))


def _keep_shared(weights: Tensor, real: Tensor | None, kept: AttentionEvidence) -> None:
    queries = weights.shape[2]
    at = torch.arange(queries)
    if queries > QUERIES:
        at = torch.linspace(0, queries - 1, QUERIES).round().long()
    for number in range(weights.shape[0]):
        counted = torch.ones(queries, dtype=torch.bool) if real is None else real[number]
        length = min(int(counted.sum()) * LENGTHS // queries, LENGTHS - 1)
        shared = kept.shared.setdefault(length, SharedAttention())
        shared.add(weights[number][:, at], counted[at])
