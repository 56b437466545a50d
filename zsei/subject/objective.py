"""What "it still works" means: the objective an analysis measures against.

Every objective reads the model's main output as one of three kinds, and each kind has a divergence
from the original model's output that needs no labels:

- logits [n, c] or [n, t, c] (n sample, t position): KL(original ‖ edited) in nats, mean over t;
  they agree where the top 1 is the same.
- embedding [n, d] of unit length: 1 - cos; they agree where a sample's nearest neighbour is the
  same.
- values [n, ...]: ‖edited - original‖ / ‖original‖; they decide nothing, so nothing can agree.

Misleads when: labels are few (then fidelity says more), or the output is an intermediate value
that nobody uses as it is.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from zsei.errors import ObjectiveError
from zsei.subject.types import Batch

ObjectiveName = Literal[
    "fidelity", "causal-lm", "masked-lm", "classification", "regression", "similarity"
]
OutputKind = Literal["logits", "embedding", "values"]
OBJECTIVES: tuple[ObjectiveName, ...] = (
    "fidelity", "causal-lm", "masked-lm", "classification", "regression", "similarity",
)  # fmt: skip
IGNORED = -100
"""Label of positions that do not count, as in torch's cross entropy."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is measured, and why it was chosen."""

    name: ObjectiveName
    output: OutputKind
    reason: str
    """Why `auto` chose it, or "asked for"."""
    pooling: Literal["mean", "first", "none"] = "none"
    """How an embedding is read off [n, t, d]: mean over real tokens, or the first token."""

    @property
    def supervised(self) -> bool:
        """Whether it has labels, hence a loss with a slope at the unmodified model."""
        return self.name != "fidelity"

    @property
    def metric(self) -> str:
        """Name and unit of the divergence."""
        return {"logits": "KL (nats)", "embedding": "1 - cos", "values": "relative L2"}[self.output]


def readout(objective: Objective, output: Tensor, batch: Batch) -> Tensor:
    """What the objective looks at: logits, unit embeddings [n, d], or values, from the output."""
    if objective.output != "embedding":
        return output
    if output.ndim == 3:
        if objective.pooling == "first":
            output = output[:, 0]
        elif batch.mask is not None and batch.mask.shape == output.shape[:2]:
            weight = batch.mask.to(output.dtype)[:, :, None]
            output = (output * weight).sum(1) / weight.sum(1).clamp_min(1)
        else:
            output = output.mean(1)
    return F.normalize(output.flatten(1), dim=-1)


def _position_mask(values: Tensor, batch: Batch) -> Tensor:
    """Bool over all axes but the last: the positions that count."""
    mask = batch.mask
    if mask is not None and values.ndim == 3 and mask.shape == values.shape[:2]:
        return mask
    return torch.ones(values.shape[:-1], dtype=torch.bool)


def _mean_over_positions(per_position: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(per_position.dtype).flatten(1)
    return (per_position.flatten(1) * weight).sum(1) / weight.sum(1).clamp_min(1)


def divergence(objective: Objective, edited: Tensor, original: Tensor, batch: Batch) -> Tensor:
    """How far each sample's readout moved from the original's: [n], 0 for no change."""
    if objective.output == "embedding":
        # Half the squared distance of unit vectors is 1 - cos without its cancellation.
        return (edited - original).square().sum(-1) / 2
    if objective.output == "values":
        moved = (edited - original).flatten(1).norm(dim=1)
        return moved / original.flatten(1).norm(dim=1).clamp_min(1e-12)
    log_p, log_q = original.log_softmax(-1), edited.log_softmax(-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1).clamp_min(0)
    if kl.ndim == 1:
        return kl
    return _mean_over_positions(kl, _position_mask(edited, batch))


def agreement(
    objective: Objective, edited: Tensor, original: Tensor, batch: Batch
) -> Tensor | None:
    """Share of decisions unchanged per sample, [n] in 0..1; None where outputs decide nothing.

    For logits the top 1 (share of positions). For embeddings the nearest neighbour by cosine within
    the samples given, so pass the whole set at once (`batch` may then be any of its batches).
    """
    if objective.output == "values":
        return None
    if objective.output == "embedding":
        if len(edited) < 3:
            return None
        nearest = [_nearest(e) for e in (edited, original)]
        return (nearest[0] == nearest[1]).to(edited.dtype)
    same = (edited.argmax(-1) == original.argmax(-1)).to(edited.dtype)
    return same if same.ndim == 1 else _mean_over_positions(same, _position_mask(edited, batch))


def _nearest(embeddings: Tensor) -> Tensor:
    similarity = embeddings @ embeddings.T
    similarity.fill_diagonal_(-torch.inf)
    return similarity.argmax(1)


def _targets(objective: Objective, values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """(logits [.., c], labels [..]) with the causal shift done."""
    assert batch.labels is not None
    if objective.name == "causal-lm":
        return values[:, :-1], batch.labels[:, 1:]
    return values, batch.labels


def loss(objective: Objective, values: Tensor, batch: Batch) -> Tensor:
    """Loss per sample [n] against the labels: cross entropy in nats, or squared error.

    For similarity rows 2i and 2i + 1 are a pair and both carry (cos - gold)².

    Raises:
        ObjectiveError: Under fidelity, whose divergence is flat at the unmodified model, so that
            every first-order score of it would be zero.
    """
    if not objective.supervised or batch.labels is None:
        raise ObjectiveError(
            f"A loss needs labels; the objective is {objective.name}, whose divergence has no "
            f"slope at the unmodified model. Use output sensitivity or exact ablation instead."
        )
    if objective.name == "similarity":
        pairs = values.view(-1, 2, values.shape[-1])
        cosine = (pairs[:, 0] * pairs[:, 1]).sum(-1)
        return (cosine - batch.labels[::2]).square().repeat_interleave(2)
    if objective.name == "regression":
        error = values.flatten(1) - batch.labels.to(values.dtype).reshape(values.shape[0], -1)
        return error.square().mean(1)
    logits, labels = _targets(objective, values, batch)
    counted = labels != IGNORED
    per_position = F.cross_entropy(
        logits.flatten(0, -2), labels.flatten(), reduction="none", ignore_index=IGNORED
    ).view(labels.shape)
    return per_position if labels.ndim == 1 else _mean_over_positions(per_position, counted)


def correct(objective: Objective, values: Tensor, batch: Batch) -> Tensor | None:
    """Share of right answers per sample [n]; None where there is no right or wrong."""
    if objective.name not in ("classification", "causal-lm", "masked-lm") or batch.labels is None:
        return None
    logits, labels = _targets(objective, values, batch)
    right = (logits.argmax(-1) == labels).to(values.dtype)
    return right if labels.ndim == 1 else _mean_over_positions(right, labels != IGNORED)


def probes(
    objective: Objective, values: Tensor, batch: Batch, count: int, generator: torch.Generator
) -> list[Tensor]:
    """Random directions of the output, each as one number per sample [n], for Gauss-Newton probing.

    With s_n such a number and dz a change inside the model, E (∂s_n/∂z · dz)² is the quadratic term
    that `predicted_divergence` turns into the divergence. Embedding e: s = r·e, E r rᵀ = I - e eᵀ.
    Values: s = r·y / ‖y‖, E r rᵀ = I. Both draw the directions of a sample at right angles to each
    other, which keeps the expectation and lowers the spread. Logits: the Fisher information,
    diag(p) - p pᵀ at every position. Over positions t, s = Σ_t log p(y_t) / √T with y_t drawn from
    the model's own distribution; independent draws make cross terms vanish on average. One decision
    per sample, s = Σ_c ε_c √p_c log p_c with random signs ε: a sure model hardly ever draws any but
    its first class, so that drawing classes would leave nearly every response at nothing.
    """
    if objective.output == "logits" and values.ndim == 2:
        return [_signed_score(values, generator) for _ in range(count)]
    if objective.output == "logits":
        return _fisher_scores(values, batch, count, generator)
    flat = values.flatten(1)
    clean = flat.detach()
    directions = _orthogonal(clean.shape, count, generator).to(clean.dtype)
    if objective.output == "values":
        scale = clean.norm(dim=1).clamp_min(1e-12)
        return [(direction * flat).sum(1) / scale for direction in directions]
    tangent = [d - (d * clean).sum(1, keepdim=True) * clean for d in directions]
    return [(direction * flat).sum(1) for direction in tangent]


def _orthogonal(shape: torch.Size, count: int, generator: torch.Generator) -> Tensor:
    """[count, n, d]: per sample `count` directions of mean square 1 per axis, at right angles."""
    n, d = shape
    drawn = torch.randn((n, d, count), generator=generator)
    if count == 1 or count > d:
        return drawn.permute(2, 0, 1)
    basis = torch.linalg.qr(drawn).Q
    # Lengths as of independent draws, so that one direction alone is an ordinary Gaussian one.
    lengths = drawn.norm(dim=1, keepdim=True)
    signs = torch.randint(0, 2, (n, 1, count), generator=generator) * 2 - 1
    return (basis * lengths * signs).permute(2, 0, 1)


def _signed_score(values: Tensor, generator: torch.Generator) -> Tensor:
    """Σ_c ε_c √p_c log p_c, ε random signs: [n]; its slope has covariance diag(p) - p pᵀ."""
    log_p = values.log_softmax(-1)
    signs = torch.randint(0, 2, log_p.shape, generator=generator) * 2 - 1
    return (signs * log_p.detach().div(2).exp() * log_p).sum(-1)


def _fisher_scores(
    values: Tensor, batch: Batch, count: int, generator: torch.Generator
) -> list[Tensor]:
    """Log p(y) of classes drawn from the model's own distribution, Σ over positions / √T: [n]."""
    # One softmax and one table to draw from serve all probes: of a small model they cost the most.
    log_p = values.log_softmax(-1)
    flat = log_p.detach().exp().flatten(0, -2)
    drawn = torch.multinomial(flat, count, replacement=True, generator=generator)
    mask = _position_mask(values, batch).to(values.dtype).flatten(1)
    length = mask.sum(1).clamp_min(1).sqrt()
    found = []
    for labels in drawn.unbind(1):
        chosen = log_p.gather(-1, labels.view(*log_p.shape[:-1], 1))[..., 0]
        found.append((chosen.flatten(1) * mask).sum(1) / length)
    return found


def predicted_divergence(objective: Objective, quadratic: Tensor) -> Tensor:
    """Divergence expected from the mean squared probe response: q / 2, or √q for relative L2."""
    return quadratic.clamp_min(0).sqrt() if objective.output == "values" else quadratic / 2
