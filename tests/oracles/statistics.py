"""Slow, obvious second implementations of what the trace computes from rows of values."""

import math

import numpy as np
import torch
from torch import Tensor


def effective_rank_by_svd(rows: Tensor, *, standardise: bool = False) -> float:
    """exp(entropy) of the squared singular values of the centred rows [r, c]."""
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    if standardise:
        columns = [c / c.std() if c.std() > 1e-12 else c * 0 for c in centred.T]
        centred = np.stack(columns).T
    energy = np.linalg.svd(centred, compute_uv=False) ** 2
    shares = [e / energy.sum() for e in energy if e > 1e-9 * energy.sum()]
    return math.exp(-sum(p * math.log(p) for p in shares))


def cka_by_kernels(first: Tensor, second: Tensor) -> float:
    """Linear CKA as the normalised HSIC of two centred Gram matrices [r, r]."""
    grams = []
    for rows in (first, second):
        x = rows.double().numpy()
        gram = np.array([[float(a @ b) for b in x] for a in x])
        n = len(gram)
        centring = np.eye(n) - np.ones((n, n)) / n
        grams.append(centring @ gram @ centring)
    k, m = grams
    return float((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum()))


def proximity_by_loops(total: Tensor, parts: list[Tensor]) -> list[float]:
    """Mean over rows of max(0, |y|₁ - |y - f|₁), normalised over the summands f of y."""
    sums, counted = [0.0] * len(parts), 0
    for r in range(total.shape[0]):
        near = []
        for part in parts:
            size = sum(abs(float(y)) for y in total[r])
            apart = sum(abs(float(y) - float(f)) for y, f in zip(total[r], part[r], strict=True))
            near.append(max(0.0, size - apart))
        if sum(near) > 1e-12:
            counted += 1
            sums = [s + n / sum(near) for s, n in zip(sums, near, strict=True)]
    return [s / counted for s in sums]


def attention_by_loops(
    query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float
) -> np.ndarray:
    """Attention weights [n, h, i, j]; query heads share keys in consecutive groups."""
    n, heads, queries, _ = query.shape
    keys, share = key.shape[2], query.shape[1] // key.shape[1]
    weights = np.zeros((n, heads, queries, keys))
    for a in range(n):
        for h in range(heads):
            for i in range(queries):
                scores = []
                for j in range(keys):
                    score = scale * float(query[a, h, i] @ key[a, h // share, j])
                    if mask is not None:
                        entry = mask.expand(n, heads, queries, keys)[a, h, i, j]
                        if entry.dtype != torch.bool:
                            score += float(entry)
                        elif not entry:
                            score = -math.inf
                    scores.append(-math.inf if causal and j > i else score)
                top = max(scores)
                powers = [math.exp(s - top) if s > -math.inf else 0.0 for s in scores]
                weights[a, h, i] = np.array(powers) / sum(powers)
    return weights


def patterns_by_loops(
    weights: np.ndarray, real: np.ndarray | None, delimiters: np.ndarray
) -> dict[str, np.ndarray]:
    """Per sample and head, the mean over real queries of where the attention lies."""
    n, heads, queries, keys = weights.shape
    names = ("attention_entropy", "first_token_mass", "diagonal_mass", "previous_token_mass",
             "attention_distance", "tiny_weight_share", "delimiter_mass")  # fmt: skip
    found = {name: np.zeros((n, heads)) for name in names}
    for a in range(n):
        rows = [i for i in range(queries) if real is None or real[a, i]]
        for h in range(heads):
            for i in rows:
                w = weights[a, h, i]
                seen = [x for x in w if x > 0]
                entropy = -sum(x * math.log(x) for x in seen) / math.log(max(len(seen), 2))
                values = (entropy, w[0], w[i], w[i - 1] if i else 0.0,
                          sum(w[j] * abs(i - j) for j in range(keys)),
                          sum(x < 1 / (10 * len(seen)) for x in seen) / len(seen),
                          sum(w[j] for j in range(keys) if delimiters[a, j]))  # fmt: skip
                for name, value in zip(names, values, strict=True):
                    found[name][a, h] += value / len(rows)
    return found
