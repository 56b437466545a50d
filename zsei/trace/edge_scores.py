"""Attribution of every writer-reader edge, without a loop over edges.

For a writer u and a reader v behind frozen norms N_1 ... N_k

    score(u, v) = Σ_t (mean_u - u)_t · g_vt,    g_v = gradient at v's input, carried back to u

A frozen norm is one number per position times one matrix for all of them, so what lies between a
head and a head is a small matrix M = W_O^u (Π_k C Γ_k) W_Q^v, and a sample's score is the inner
product of M with Σ_t s_t Δz_t g_tᵀ, s_t the product of the norms' numbers: one matrix product for
all heads of one block with all heads of another. Nothing is ever as large as writers x positions.

Positive: to put the mean in raises the objective. Source: attribution patching on edges (Syed,
Rager and Conmy, 2023); frozen norms carry it to the sums in front of norms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zsei.trace.edge_norms import FrozenNorm
from zsei.trace.edge_readers import Port, Reader
from zsei.trace.edge_stream import Stream, Writer
from zsei.trace.edge_values import Whole, rows, written
from zsei.trace.rows import real_rows

CHUNK = 2_000_000
"""Numbers of one product per sample that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class ScoredBlock:
    """Edges from the writers of one node to the readings of one projection."""

    writers: tuple[str, ...]
    readers: tuple[tuple[str, Port], ...]
    place: str
    """What was read."""
    scores: Tensor
    """[s, n, W, R]: scalar (loss or probe), sample, writer, reader."""


def writer_means(
    stream: Stream, whole: Whole, known: Mapping[tuple[str, str], Tensor]
) -> dict[int, Tensor]:
    """What stands in for each writer: its mean over samples and positions, padding left out.

    Args:
        stream: The streams.
        whole: Values of some samples; their mean is taken where no other is known.
        known: (component, site kind) -> mean over all data, as for exact ablation.
    """
    found: dict[int, Tensor] = {}
    for number, writer in enumerate(stream.writers):
        if not writer.varies:
            continue
        site = "branch" if writer.weight is None else "head"
        mean = known.get((writer.component, site)) if writer.node is not None else None
        if mean is not None and mean.numel() == _width(writer, whole):
            found[number] = mean.flatten()
            continue
        found[number] = real_rows(written(writer, whole), whole.mask).mean(0)
    return found


def _width(writer: Writer, whole: Whole) -> int:
    if writer.weight is not None:
        return writer.weight.shape[0] * writer.weight.shape[1]
    return whole.values[writer.node or ""].shape[-1]


def _varies(change: Tensor, mean: Tensor) -> bool:
    return float(change.abs().max()) > 1e-6 * float(mean.abs().max())


def score_edges(
    stream: Stream, readers: Sequence[Reader], whole: Whole, means: Mapping[int, Tensor]
) -> list[ScoredBlock]:
    """Scores of all edges, sample by sample.

    Args:
        stream: The streams.
        readers: Who reads them.
        whole: Values and gradients of some samples.
        means: Writer -> what stands in for it, see `writer_means`.
    """
    scales = {
        name: norm.scale(rows(whole.values[norm.watched]))
        for name, norm in stream.norms.items()
        if norm.watched is not None
    }
    away = {w: mean - written(stream.writers[w], whole) for w, mean in means.items()}
    # What never varies (one token type for all) is its own mean: no edge, rather than rounding.
    away = {w: change for w, change in away.items() if _varies(change, means[w])}
    found: list[ScoredBlock] = []
    for reader in readers:
        seen = [_Reading.of(reader, gradients, stream.norms, scales, whole.samples)
                for gradients in whole.gradients]  # fmt: skip
        if any(reading is None for reading in seen):
            continue
        terms = [t for t in stream.terms[reader.place] if t.writer in away]
        scores: dict[int, Tensor] = {}
        # Shortest ways first: a longer one goes on from where a shorter one ended.
        for term in sorted(terms, key=lambda t: len(t.norms)):
            writer, change = stream.writers[term.writer], away[term.writer]
            found_here = torch.stack([r.score(writer, change, term.norms) for r in seen if r])
            known = scores.get(term.writer)
            scores[term.writer] = found_here if known is None else known + found_here
        found += [
            ScoredBlock(
                writers=stream.writers[number].names, readers=reader.names, place=reader.place,
                scores=scores[number],
            )
            for number in sorted(scores)
        ]  # fmt: skip
    return found


@dataclass
class _Reading:
    """The gradient at one reading, carried back through norms as far as it was needed."""

    norms: Mapping[str, FrozenNorm]
    scales: Mapping[str, Tensor]
    samples: int
    count: int
    """Readings R."""
    gradient: Tensor
    """By head [N, f]; whole [N, d]."""
    weight: Tensor | None
    """By head [d, f]."""
    carried: dict[tuple[str, ...], tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    """Norms on the way -> (directions at the writer, number of each position)."""

    @staticmethod
    def of(
        reader: Reader, gradients: Mapping[str, Tensor], norms: Mapping[str, FrozenNorm],
        scales: Mapping[str, Tensor], samples: int,
    ) -> "_Reading | None":  # fmt: skip
        """None where the objective does not depend on what is read."""
        entries = [entry for entry in reader.entries if entry.node in gradients]
        if not entries:
            return None
        if reader.by_head:
            entry = entries[0]
            assert entry.features is not None
            gradient, weight = rows(gradients[entry.node])[:, entry.features], entry.weight
        else:
            parts = [
                rows(gradients[e.node]) if e.weight is None
                else rows(gradients[e.node]) @ e.weight.T
                for e in entries
            ]  # fmt: skip
            gradient, weight = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0), None
        return _Reading(
            norms=norms, scales=scales, samples=samples, count=len(reader.names),
            gradient=gradient, weight=weight,
        )  # fmt: skip

    def back(self, norms: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
        """Directions and numbers behind the last of `norms`, carried to in front of the first.

        By head the directions are columns [d, f] and the numbers [N] stand beside them; whole they
        are rows [N, d] with the numbers multiplied in.
        """
        if not norms:
            return (self.gradient if self.weight is None else self.weight), None
        if norms not in self.carried:
            directions, numbers = self.back(norms[1:])
            # What lies nearer to the reader is not needed any more.
            self.carried.pop(norms[2:], None)
            scale = self.scales.get(norms[0])
            if self.weight is None:
                directions = self.norms[norms[0]].pull(directions)
                directions = directions if scale is None else directions * scale[:, None]
            else:
                directions = self.norms[norms[0]].pull(directions.T).T
                both = [n for n in (numbers, scale) if n is not None]
                numbers = torch.stack(both).prod(0) if both else None
            self.carried[norms] = directions, numbers
        return self.carried[norms]

    def score(self, writer: Writer, away: Tensor, norms: tuple[str, ...]) -> Tensor:
        """[n, W, R] for what is put in, less what a writer wrote, [N, w]."""
        directions, numbers = self.back(norms)
        if self.weight is None:
            if writer.weight is None:
                return self._per_sample((away * directions).sum(1)[:, None, None])
            back = directions @ writer.weight.flatten(0, 1).T
            product = (back * away).reshape(len(away), len(writer.names), -1).sum(2)
            return self._per_sample(product[:, :, None])
        if numbers is not None:
            away = away * numbers[:, None]
        if writer.weight is None:
            through = (away @ directions) * self.gradient
            return self._per_sample(through.reshape(len(away), 1, self.count, -1).sum(3))
        return self._heads_to_heads(writer.weight, away, directions)

    def _per_sample(self, values: Tensor) -> Tensor:
        return values.reshape(self.samples, -1, *values.shape[1:]).sum(1)

    def _heads_to_heads(self, weight: Tensor, away: Tensor, directions: Tensor) -> Tensor:
        heads, width, _ = weight.shape
        between = weight.flatten(0, 1) @ directions
        inner = directions.shape[1] // self.count
        written_ = away.reshape(self.samples, -1, heads * width).transpose(1, 2)
        read = self.gradient.reshape(self.samples, -1, directions.shape[1])
        step = max(1, CHUNK // between.numel())
        found = []
        for start in range(0, self.samples, step):
            product = torch.bmm(written_[start : start + step], read[start : start + step])
            product *= between
            by_head = product.view(len(product), heads * width, self.count, inner).sum(3)
            found.append(by_head.view(len(product), heads, width, self.count).sum(2))
        return torch.cat(found)
