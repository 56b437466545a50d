"""How a language model's width fits its vocabulary."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.modality import could_not_tell
from zsei.measures.reach import reach
from zsei.measures.tail import Tail, by_sample, find_tail, spread_rows
from zsei.records import Measurement
from zsei.trace.view import Measured, View

EIGHTHS = 8


@final
@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Directions that the output head has, and how many of them its predictions need.

    Measures: whether the width in front of the vocabulary limits what can be predicted, and which
    part of the vocabulary is ever predicted.

    Formula: logits = W h + b, W [v, d], so that log probabilities over contexts have rank d + 1 at
    most. head_effective_rank = exp(-Σ p log p), p the normalised eigenvalues of the centred WᵀW.
    head_rank_needed = the fewest of the principal directions of h (in eighths of d, found on one
    half of the positions) from which on the mean KL on the other half stays within `enough` of the
    KL of keeping none. unused_vocabulary = share of tokens never among the `top` predictions.

    Reading it: head_rank_needed near d with v far above d: every direction counts, the softmax may
    well be rank limited, and more width is worth a trial. Far below d: width in front of the head
    is spare. unused_vocabulary says what share of the head's rows did nothing here.

    Misleads when: positions are few: n positions name at most n · top tokens, and a token never
    seen in n positions may still be wanted in 3/n of them (95 %, the rule of three).

    References: Yang, Dai, Salakhutdinov and Cohen, "Breaking the softmax bottleneck", ICLR 2018;
    Godey, Villemonte de la Clergerie and Sagot, "Why do small language models underperform?
    Studying language model saturation via the softmax bottleneck", COLM 2024.
    """

    name: ClassVar[str] = "vocabulary"

    top: int = 5
    """Predictions per position that count as named."""
    enough: float = 0.05
    """Share of the largest divergence that counts as nothing."""
    widest: int = 1024
    """Width above which ranks are not computed."""
    entries: int = 4_000_000
    """Logits computed per trial at most."""

    def measure(self, view: View) -> Measured:
        """Numbers on the head; nothing where there is none."""
        tail = find_tail(view)
        if tail is None:
            return Measured()
        size, width = tail.weight.shape
        found = [
            Measurement(name="vocabulary", value=size, unit="tokens"),
            Measurement(name="softmax_rank_cap", value=min(size, width) / size, unit="share",
                        note=f"width {width} over vocabulary {size}"),
            self._named(view, tail),
        ]  # fmt: skip
        if width <= self.widest:
            found.append(
                Measurement(
                    name="head_effective_rank", value=_matrix_rank(tail.weight), unit="dimensions"
                )
            )
            found += self._needed(view, tail)
        return Measured(measurements={tail.head: tuple(found)})

    def _named(self, view: View, tail: Tail) -> Measurement:
        """Share of the vocabulary that no position names among its top predictions."""
        logits = view.written(tail.head)
        assert logits is not None
        size = logits.shape[1]
        n = len(logits)
        samples = len(view.row_samples[view.taps.writers[tail.head]].unique())
        if n < size:
            why = f"{n} positions for {size} tokens; at least {size} are needed"
            return could_not_tell("unused_vocabulary", "share", why, samples)
        named = logits.topk(min(self.top, size), dim=1).indices.unique()
        note = (
            f"never in the top {self.top} of {n} positions; such a token may still be wanted in up "
            f"to {3 / n:.2g} of them (95 %)"
        )
        return Measurement(
            name="unused_vocabulary", value=1 - len(named) / size, unit="share", n=samples,
            note=note,
        )  # fmt: skip

    def _needed(self, view: View, tail: Tail) -> list[Measurement]:
        """Directions of what the head reads that its predictions need."""
        node = view.subject.anatomy.outputs[tail.layers[-1]]
        read = tail.read(view.rows[node]).double()
        samples = view.row_samples[node]
        size, width = tail.weight.shape
        numbers = samples.unique()
        held = torch.isin(samples, numbers[1::2])
        fitted = read[~held]
        if len(fitted) < 2 * width or len(numbers) < 4:
            why = f"{len(fitted)} positions to find {width} directions; {2 * width} are needed"
            return [could_not_tell("head_rank_needed", "dimensions", why, len(numbers))]
        places = held.nonzero().flatten()
        places = places[spread_rows(len(places), max(16, self.entries // size))]
        effects, ranks = rank_curve(tail, fitted, read[places], samples[places])
        found = reach(effects, ranks, enough=self.enough, seed=view.settings.seed)
        note = f"of {width}; 90 % interval {found.low} to {found.high}"
        n = len(effects)
        return [
            Measurement(name="head_rank_needed", value=found.length, unit="dimensions", n=n,
                        note=note),
            Measurement(name="head_rank_needed_low", value=found.low, unit="dimensions", n=n),
            Measurement(name="head_width", value=width, unit="dimensions"),
        ]  # fmt: skip


def rank_curve(
    tail: Tail, fitted: Tensor, held: Tensor, samples: Tensor
) -> tuple[Tensor, list[int]]:
    """(KL in nats [n, k] of keeping only the first directions, how many were kept).

    Args:
        tail: Turns what the head reads into logits.
        fitted: Rows [r, d] whose principal directions are taken.
        held: Other rows [s, d], on which the divergence is measured.
        samples: Sample of each of those, [s].
    """
    width = fitted.shape[1]
    mean = fitted.mean(0)
    centred = fitted - mean
    directions = torch.linalg.eigh(centred.T @ centred)[1].flip(1)
    ranks = sorted({round(width * i / EIGHTHS) for i in range(EIGHTHS + 1)})
    dtype = tail.weight.dtype
    whole = tail.logits(held.to(dtype)).log_softmax(-1)
    coordinates = (held - mean) @ directions
    columns = []
    for rank in ranks:
        kept = mean + coordinates[:, :rank] @ directions[:, :rank].T
        now = tail.logits(kept.to(dtype)).log_softmax(-1)
        columns.append((whole.exp() * (whole - now)).sum(-1).clamp_min(0).double())
    return by_sample(torch.stack(columns, 1), samples), ranks


def _matrix_rank(weight: Tensor) -> float:
    """Effective rank of the rows of a matrix [v, d], centred over v."""
    centred = weight.double() - weight.double().mean(0)
    values = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    share = values / values.sum().clamp_min(1e-30)
    share = share[share > 1e-12]
    return float((-(share * share.log()).sum()).exp())
