"""How good a cut model is on data nobody calibrated on; the same code judges everybody."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

Inputs = Mapping[str, Tensor]


def embed(model: nn.Module, inputs: Inputs) -> Tensor:
    """Embeddings [n, d] of length one: the mean of the tokens that are no padding."""
    raw = model(**inputs)
    hidden = raw if isinstance(raw, Tensor) else raw.last_hidden_state
    mask = inputs["attention_mask"][..., None].to(hidden.dtype)
    return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


def class_logits(model: nn.Module, inputs: Inputs) -> Tensor:
    """Logits [n, classes]."""
    raw = model(**inputs)
    return raw if isinstance(raw, Tensor) else raw.logits


def causal_logits(model: nn.Module, inputs: Inputs) -> Tensor:
    """Logits [n, t, vocabulary], without a cache of keys and values."""
    try:
        raw = model(**inputs, use_cache=False)
    except TypeError:
        # A model that was made of a program takes its inputs only.
        raw = model(**inputs)
    return raw if isinstance(raw, Tensor) else raw.logits


def embeddings(
    model: nn.Module, texts: Sequence[str], encode: Callable[[list[str]], Inputs]
) -> Tensor:
    """Embeddings [n, d] of texts, computed in batches of about one length."""
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    found: dict[int, Tensor] = {}
    with torch.no_grad():
        for begin in range(0, len(order), 50):
            rows = order[begin : begin + 50]
            out = embed(model, encode([texts[row] for row in rows]))
            found.update(zip(rows, out, strict=True))
    return torch.stack([found[row] for row in range(len(texts))])


def cosines(found: Tensor, original: Tensor) -> dict[str, float]:
    """Mean, 5th percentile and least cosine of embeddings of length one [n, d] to the original's.

    An embedding that is not finite counts as cosine -1.
    """
    values = torch.nan_to_num((found * original).sum(-1), nan=-1.0).numpy()
    return {
        "cosine": float(values.mean()),
        "cosine_p5": float(np.percentile(values, 5)),
        "cosine_least": float(values.min()),
    }


def correlation(
    found: Tensor, first: Sequence[int], second: Sequence[int], gold: np.ndarray
) -> float:
    """Spearman's correlation of the cosines of pairs of rows with what people said."""
    values = (found[list(first)] * found[list(second)]).sum(-1).numpy()
    found_correlation: Any = spearmanr(values, gold)
    return float(found_correlation.statistic)


def causal_log_probabilities(model: nn.Module, texts: Sequence[Tensor]) -> list[Tensor]:
    """Log-probabilities [t - 1, vocabulary] of the next token, for each of texts [1, t]."""
    with torch.no_grad():
        logits = [causal_logits(model, {"input_ids": ids})[0, :-1] for ids in texts]
    return [F.log_softmax(own, -1) for own in logits]


def next_token(
    model: nn.Module, texts: Sequence[Tensor], original: Sequence[Tensor]
) -> dict[str, float]:
    """Mean cross-entropy over all next tokens, and divergence from the original, in nats."""
    found = torch.cat(causal_log_probabilities(model, texts))
    gold = torch.cat([ids[0, 1:] for ids in texts])
    return {"loss": float(F.nll_loss(found, gold)), **_divergence(found, torch.cat(list(original)))}


def class_log_probabilities(model: nn.Module, argument: str, images: Tensor) -> Tensor:
    """Log-probabilities [n, classes] of images [n, ...]."""
    with torch.no_grad():
        parts = [class_logits(model, {argument: batch}) for batch in images.split(64)]
    return F.log_softmax(torch.cat(parts), -1)


def classes(
    model: nn.Module, argument: str, images: Tensor, gold: Tensor, original: Tensor
) -> dict[str, float]:
    """Mean cross-entropy, divergence from the original, both in nats, and accuracy."""
    found = class_log_probabilities(model, argument, images)
    return {
        "loss": float(F.nll_loss(found, gold)),
        "accuracy": float((found.argmax(-1) == gold).float().mean()),
        **_divergence(found, original),
    }


def _divergence(found: Tensor, original: Tensor) -> dict[str, float]:
    """Mean Kullback-Leibler divergence of rows of log-probabilities from the original's, nats."""
    return {"divergence": float(F.kl_div(found, original, log_target=True, reduction="batchmean"))}
