"""What shorter texts, single positions and early layers do, computed the long way."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first ‖ second) in nats of logits [..., v], term by term."""
    p, q = first.double().softmax(-1), second.double().softmax(-1)
    return (p * (p.log() - q.log())).sum(-1)


def shorter_context(
    logits: Callable[[Tensor], Tensor], ids: Tensor, length: int, ends: Sequence[int]
) -> list[float]:
    """Per sample, mean over `ends` of the KL at a position between the whole text and its last
    `length` tokens; positions with no more than `length` tokens before them are left out.
    """  # fmt: skip
    found = []
    with torch.no_grad():
        for row in ids:
            whole = logits(row[None])[0]
            moved = [
                float(kl(whole[end], logits(row[None, end + 1 - length : end + 1])[0, -1]))
                for end in ends
                if end + 1 > length
            ]
            found.append(sum(moved) / len(moved) if moved else 0.0)
    return found


def position_sensitivity(
    vectors: Tensor, answer: Callable[[Tensor], Tensor], mean: Tensor
) -> list[float]:
    """(∂ answer / ∂ e_t · (e_t - mean))² for each position t of embeddings [t, d]."""
    found = []
    for t in range(len(vectors)):
        scale = torch.zeros((), requires_grad=True)
        changed = vectors.detach().clone()
        changed[t] = changed[t] + scale * (changed[t].detach() - mean)
        [slope] = torch.autograd.grad(answer(changed[None]), [scale])
        found.append(float(slope) ** 2)
    return found


def entropy_rank(matrix: Tensor) -> float:
    """Exp of the entropy of the squared singular values of a matrix centred over its rows."""
    values = torch.linalg.svdvals(matrix.double() - matrix.double().mean(0)).square()
    share = values / values.sum()
    return float((-(share * share.clamp_min(1e-300).log()).sum()).exp())


def first_length_that_stays_small(
    effects: Sequence[Sequence[float]], lengths: Sequence[int], enough: float
) -> int:
    """Shortest length at which, and at all longer ones, the mean effect is small."""
    columns = list(zip(*effects, strict=True))
    means = [sum(column) / len(column) for column in columns]
    limit = enough * max(means)
    for i, length in enumerate(lengths):
        if all(mean <= limit for mean in means[i:]):
            return length
    raise AssertionError("the whole has no effect")
