"""Slow, obvious second implementations of what the integration measures compute."""

import math

import numpy as np
import torch
from torch import Tensor, nn


def norm_matrix(gain: Tensor, *, centres: bool) -> np.ndarray:
    """What a norm does to a row vector but for its own size, as a d x d matrix: C diag(gain)."""
    d = len(gain)
    centring = np.eye(d) - np.ones((d, d)) / d if centres else np.eye(d)
    return centring @ np.diag(gain.detach().double().numpy())


def head_matrices(
    attention: dict[str, Tensor], head: int, *, heads: int, key_heads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """W_Q, W_K, W_V [d, w] and W_O [w, d] of one head, from linears' weights [out, in]."""
    size = attention["q"].shape[0] // heads
    shared = head // (heads // key_heads)
    own = slice(head * size, (head + 1) * size)
    group = slice(shared * size, (shared + 1) * size)
    weights = {name: w.detach().double().numpy() for name, w in attention.items()}
    return weights["q"][own].T, weights["k"][group].T, weights["v"][group].T, weights["o"][:, own].T


def composition_by_matrices(
    earlier: tuple[np.ndarray, ...], later: tuple[np.ndarray, ...], before: np.ndarray,
    own: np.ndarray, between: np.ndarray,
) -> dict[str, float]:  # fmt: skip
    """Q-, K- and V-composition above chance, with whole d x d products.

    Args:
        earlier: W_Q, W_K, W_V, W_O of the earlier head.
        later: The same of the later head.
        before: Norm in front of the earlier head, as a matrix.
        own: Norm in front of the later head.
        between: All norms between what the earlier head writes and what the later one reads.
    """
    written = before @ earlier[2] @ earlier[3]
    query, key, value, output = later
    reading = {
        "q": (between @ query) @ (own @ key).T,
        "k": (between @ key) @ (own @ query).T,
        "v": (between @ value) @ output,
    }
    norm = np.linalg.norm
    chance = 1 / math.sqrt(len(written))
    return {
        kind: float(norm(written @ m) / (norm(written) * norm(m)) - chance)
        for kind, m in reading.items()
    }


def written_by_head(core: Tensor, projection: np.ndarray, head: int, heads: int) -> np.ndarray:
    """Centred z_h W_O^h [r, d] of one head, from the core's rows [r, h w]."""
    z = core.double().numpy().reshape(len(core), heads, -1)[:, head]
    written = z @ projection
    return written - written.mean(0)


def overlap_by_covariances(first: np.ndarray, second: np.ndarray) -> float:
    """⟨C_a, C_b⟩ / (‖C_a‖ ‖C_b‖) of the covariances of two row samples [r, d]."""
    a, b = first.T @ first, second.T @ second
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def debiased_cka_by_loops(first: Tensor, second: Tensor) -> float:
    """CKA with HSIC₁ as in Nguyen, Raghu and Kornblith, 2021, written out."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        n = len(k)
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n)
        first_term = np.trace(k @ m)
        second_term = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        third_term = 2 / (n - 2) * (one @ k @ m @ one)
        return (first_term + second_term - third_term) / (n * (n - 3))

    k, m = (x.double().numpy() @ x.double().numpy().T for x in (first, second))
    return hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m))


def contributions_by_loops(rows: Tensor, gradients: Tensor, units: int) -> np.ndarray:
    """(a - mean a) · g of every row and unit, [units, r]."""
    values, slopes = rows.double().numpy(), gradients.double().numpy()
    mean = values.mean(0)
    size = values.shape[1] // units
    found = np.zeros((units, len(values)))
    for u in range(units):
        for r in range(len(values)):
            for c in range(u * size, (u + 1) * size):
                found[u, r] += (values[r, c] - mean[c]) * slopes[r, c]
    return found


def cosine_by_loops(first: np.ndarray, second: np.ndarray) -> float:
    """Cosine of two vectors."""
    product = sum(float(a) * float(b) for a, b in zip(first, second, strict=True))
    sizes = [math.sqrt(sum(float(a) ** 2 for a in x)) for x in (first, second)]
    return product / (sizes[0] * sizes[1])


def residual_by_loops(skip: Tensor, branch: Tensor, gradient: Tensor) -> dict[str, float]:
    """Survival of a branch, its share of the join's effect, and the join's effectiveness.

    Rows must be few enough (128) for every one of them to be exchanged into every other.
    """
    effects = []
    for operand in (branch.double(), skip.double()):
        moved = [f - operand.mean(0) for f in operand]
        effects.append(np.mean([float(f @ g.double()) ** 2 for f in moved for g in gradient]))
    sizes = [float((branch.double() - branch.double().mean(0)).square().sum(1).mean()),
             float(gradient.double().square().sum(1).mean())]  # fmt: skip
    share = float(effects[0] / (effects[0] + effects[1]))
    return {
        "branch_survival": math.sqrt(effects[0] / (sizes[0] * sizes[1])),
        "branch_effect_share": share,
        "residual_effectiveness": 4 * share * (1 - share),
    }


def concept_scores_by_loops(samples: np.ndarray, groups: list[str]) -> np.ndarray:
    """Scores [N, G] along the line to each group's mean, fitted on the other half of samples."""
    names = sorted(set(groups))
    half = [groups[:i].count(g) % 2 for i, g in enumerate(groups)]
    scores = np.zeros((len(groups), len(names)))
    for i in range(len(groups)):
        fitted = [j for j in range(len(groups)) if half[j] != half[i]]
        centre = np.mean([samples[j] for j in fitted], axis=0)
        for g, name in enumerate(names):
            mean = np.mean([samples[j] for j in fitted if groups[j] == name], axis=0)
            scores[i, g] = (samples[i] - centre) @ (mean - centre)
    return scores


def ablated_outputs(
    model: nn.Module, inputs: Tensor, cut: dict[str, tuple[slice, Tensor]]
) -> Tensor:
    """Outputs of a model in which channels of what enters some modules are exchanged.

    Args:
        model: Any module.
        inputs: What it is called with.
        cut: Module path -> (channels of its first argument, what stands in for them).
    """

    def exchanging(channels: slice, value: Tensor):
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            del module
            edited = args[0].clone()
            edited[..., channels] = value
            return (edited,)

        return hook

    handles = [
        model.get_submodule(path).register_forward_pre_hook(exchanging(channels, value))
        for path, (channels, value) in cut.items()
    ]
    try:
        with torch.no_grad():
            return model(inputs)
    finally:
        for handle in handles:
            handle.remove()
