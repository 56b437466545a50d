"""How far back a language model uses what it reads."""

from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from zsei.measures.modality import (
    answers_from_the_last,
    could_not_tell,
    few_samples,
    output_shape,
    run_twin,
    spread,
    text_input,
)
from zsei.measures.reach import Reach, doublings, reach
from zsei.records import Matrix, Measurement
from zsei.subject.objective import IGNORED, divergence, readout
from zsei.subject.types import Batch, Subject
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class ContextLength:
    """What cutting a text to its last k tokens does to the answer, for k = 1, 2, 4 ...

    Measures: how much of the context the model uses, by really giving it less.

    Formula: effect(k) = E_n D(f(x), f(x_k)), D the objective's divergence. Decoders: x_k the k
    tokens up to position t, D the KL of the prediction at t, averaged over up to four positions t
    of the second half of a sample. Models with one answer per text: x_k the first k tokens between
    delimiters where texts start with one shared token, as a tokenizer truncates; else the last k. A
    token that all samples share at an end stays. effective_context = smallest k from which on
    effect(k) <= enough · max effect. With labels of a causal model also the increase of the loss.

    Reading it: an effective context far below what is given says that a shorter window (and cache)
    would do on such texts. An effect that falls up to the longest cut says that even more context
    might help; nothing beyond what was given can be told.

    Misleads when: texts are shorter than the dependencies of the task, or cut texts are unlike
    those of training (absolute positions restart at 0). Few samples: mind the interval.

    References: Khandelwal, He, Qi and Jurafsky, "Sharp nearby, fuzzy far away: how neural language
    models use context", ACL 2018; Sun, Krishna, Mattarella-Micke and Iyyer, "Do long-range language
    models actually use long-range context?", EMNLP 2021.
    """

    name: ClassVar[str] = "context-length"

    samples: int = 6
    """Samples that are cut."""
    ends: int = 4
    """Positions per sample whose prediction is compared; fewer for long cuts, to bound the cost."""
    enough: float = 0.05
    """Share of the largest effect that counts as nothing."""
    fewest: int = 3
    """Samples below which no length is claimed."""

    def measure(self, view: View) -> Measured:
        """One matrix (effects by length) and the effective length, on the embedding."""
        subject = view.subject
        if text_input(subject) is None:
            return Measured()
        component = next(c.id for c in subject.anatomy.components if c.kind == "embedding")
        try:
            cut = cut_texts(subject, self.samples, self.ends)
        except (RuntimeError, IndexError, ValueError) as error:
            why = f"the model takes no shorter text ({type(error).__name__})"
            return Measured(
                measurements={component: (could_not_tell("effective_context", "tokens", why),)}
            )
        if cut is None:
            return Measured()
        n = len(cut.effects)
        rows = [("divergence", cut.effects)]
        if cut.losses is not None:
            rows.append(("loss increase", cut.losses))
        matrix = Matrix(
            name="context_effect",
            title=f"Effect of keeping only the {cut.side} k tokens",
            rows=tuple(name for name, _ in rows),
            columns=tuple(str(k) for k in cut.lengths),
            values=tuple(tuple(e.double().mean(0).tolist()) for _, e in rows),
            unit=subject.objective.metric,
            n=n,
            note=f"{n} samples, {cut.given} tokens given",
        )
        if n < self.fewest:
            why = f"{n} samples; {self.fewest} are the least"
            found = (could_not_tell("effective_context", "tokens", why, n),)
        else:
            length = reach(cut.effects, cut.lengths, enough=self.enough, seed=view.settings.seed)
            found = _measurements(length, cut, subject.objective.metric)
        return Measured(measurements={component: found}, matrices=(matrix,))


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What shorter texts did to the answers."""

    side: str
    """Which tokens were kept: "first" or "last"."""
    given: int
    """Tokens of the longest text."""
    lengths: list[int]
    """Tokens kept, increasing; the last is the whole."""
    effects: Tensor
    """Divergence [n, k]."""
    losses: Tensor | None = None
    """Increase of the loss [n, k], for causal models with labels."""


def cut_texts(subject: Subject, samples: int, ends: int) -> Cut | None:
    """Answers to shorter and shorter texts beside those to whole ones.

    None where the subject reads no texts, they are shorter than four tokens, or it answers at every
    position looking both ways.

    Args:
        subject: The model and its data.
        samples: Samples that are cut.
        ends: Positions per sample of a decoder whose prediction is compared.
    """
    index = text_input(subject)
    if index is None:
        return None
    few = few_samples(subject, samples)
    texts = _Texts(few, index)
    if texts.shortest < 4:
        return None
    if answers_from_the_last(subject, index, few):
        return _cut_decoder(subject, few, texts, ends)
    out = output_shape(subject)
    at_every_position = len(out) == 3 and out[1] == texts.size[1]
    if subject.objective.output == "logits" and at_every_position:
        return None
    return _cut_whole(subject, few, texts)


def _cut_decoder(subject: Subject, few: Batch, texts: "_Texts", ends: int) -> Cut:
    """Effects at positions whose next token is known."""
    clean = run_twin(subject, few.inputs)
    longest = texts.longest - texts.offset
    lengths = doublings(longest)
    effects = torch.zeros(few.size, len(lengths))
    losses = torch.zeros(few.size, len(lengths))
    labelled = subject.objective.name == "causal-lm" and few.labels is not None
    for k, length in enumerate(lengths[:-1]):
        count = max(1, min(ends, longest // (2 * length)))
        windows = [
            (n, end)
            for n in range(few.size)
            for end in texts.ends(n, count)
            if end - texts.offset + 1 > length
        ]
        if not windows:
            continue
        samples = torch.tensor([n for n, _ in windows])
        columns = torch.stack([texts.up_to(n, end, length) for n, end in windows])
        batch = texts.gathered(samples, columns)
        shorter = run_twin(subject, batch.inputs)[:, -1]
        places = torch.tensor([int(texts.real[n][end]) for n, end in windows])
        original = clean[samples, places]
        effects[:, k] = _per_sample(
            divergence(subject.objective, shorter, original, batch), samples, few.size
        )
        if labelled and few.labels is not None:
            target = few.labels[samples, places + 1]
            worse = F.cross_entropy(shorter, target, reduction="none", ignore_index=IGNORED)
            before = F.cross_entropy(original, target, reduction="none", ignore_index=IGNORED)
            losses[:, k] = _per_sample(worse - before, samples, few.size)
    return Cut(side="last", given=texts.longest, lengths=lengths, effects=effects,
               losses=losses if labelled else None)  # fmt: skip


def _per_sample(values: Tensor, samples: Tensor, count: int) -> Tensor:
    """Mean of values [m] over those of each sample, [count]; 0 for a sample without any."""
    total = torch.zeros(count).index_add(0, samples, values.float())
    return total / torch.zeros(count).index_add(0, samples, torch.ones(len(samples))).clamp_min(1)


def _cut_whole(subject: Subject, few: Batch, texts: "_Texts") -> Cut:
    """Effects on one answer per text."""
    clean = readout(subject.objective, run_twin(subject, few.inputs), few)
    lengths = doublings(max(texts.content(n) for n in range(few.size)))
    effects = torch.zeros(few.size, len(lengths))
    for k, length in enumerate(lengths[:-1]):
        chosen = [n for n in range(few.size) if texts.content(n) > length]
        samples = torch.tensor(chosen)
        batch = texts.gathered(samples, torch.stack([texts.kept(n, length) for n in chosen]))
        seen = readout(subject.objective, run_twin(subject, batch.inputs), batch)
        effects[samples, k] = divergence(subject.objective, seen, clean[samples], batch)
    side = "first" if texts.starts_alike else "last"
    return Cut(side=side, given=texts.longest, lengths=lengths, effects=effects)


class _Texts:
    """A few token sequences: where their real tokens are, and how to cut them."""

    def __init__(self, few: Batch, index: int):
        ids = few.inputs[index]
        mask = few.mask if few.mask is not None else torch.ones_like(ids, dtype=torch.bool)
        self.few = few
        self.size = ids.shape
        self.real = [row.nonzero().flatten() for row in mask]
        """Columns of the real tokens of each sample."""
        self.shortest = min(len(row) for row in self.real)
        self.longest = max(len(row) for row in self.real)
        several = few.size > 1 and self.shortest > 2
        firsts = {int(ids[n, row[0]]) for n, row in enumerate(self.real) if len(row)}
        lasts = {int(ids[n, row[-1]]) for n, row in enumerate(self.real) if len(row)}
        self.starts_alike = several and len(firsts) == 1
        self.offset = int(self.starts_alike)
        self.tail = int(several and self.starts_alike and len(lasts) == 1)

    def content(self, n: int) -> int:
        """Tokens between shared delimiters."""
        return len(self.real[n]) - self.offset - self.tail

    def ends(self, n: int, count: int) -> list[int]:
        """Positions in the second half whose next token is known, last first."""
        last = len(self.real[n]) - 2
        first = last // 2
        return [last - round(i * (last - first) / count) for i in range(count)]

    def up_to(self, n: int, end: int, length: int) -> Tensor:
        """Columns of the shared first token, if any, and of `length` tokens up to `end`."""
        start = end + 1 - length
        return torch.cat([self.real[n][: self.offset], self.real[n][start : end + 1]])

    def kept(self, n: int, length: int) -> Tensor:
        """Columns of `length` tokens between the delimiters."""
        row = self.real[n]
        inner = row[self.offset : len(row) - self.tail]
        inner = inner[:length] if self.starts_alike else inner[-length:]
        return torch.cat([row[: self.offset], inner, row[len(row) - self.tail :]])

    def gathered(self, samples: Tensor, columns: Tensor) -> Batch:
        """The batch of these columns [m, k] of these samples [m], without padding."""
        rows = samples[:, None]

        def cut(values: Tensor) -> Tensor:
            fits = values.ndim >= 2 and values.shape[:2] == self.size
            return values[rows, columns] if fits else values[samples]

        return replace(
            self.few,
            inputs=tuple(cut(values) for values in self.few.inputs),
            labels=None,
            mask=torch.ones(columns.shape, dtype=torch.bool),
            groups=(),
        )


def _measurements(length: Reach, cut: Cut, metric: str) -> tuple[Measurement, ...]:
    n = len(cut.effects)
    note = f"{cut.side} tokens; 90 % interval {length.low} to {length.high}"
    found = [
        Measurement(name="effective_context", value=length.length, unit="tokens", n=n, note=note),
        Measurement(name="effective_context_high", value=length.high, unit="tokens", n=n),
        Measurement(name="context_given", value=cut.given, unit="tokens", n=n),
    ]
    mean = cut.effects.double().mean(0)
    largest = float(mean.max())
    if len(cut.lengths) > 1 and largest > 0:
        kept = f"keeping {cut.lengths[-2]} of {cut.lengths[-1]}"
        share = float(mean[-2]) / largest
        found += [
            spread("longest_cut_effect", cut.effects[:, -2], metric, kept),
            Measurement(name="longest_cut_share", value=share, unit="share", n=n,
                        note=f"{kept}, over the largest effect of any cut"),
        ]  # fmt: skip
    return tuple(found)
