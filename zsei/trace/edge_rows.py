"""Every writer's part in what a place of the stream holds, on a sample of rows.

The parts of all writers are carried through the program together, [W, r, d]: an add puts the lists
of its summands one after the other, a norm maps all of them at once and adds its bias. From them:
how far they are from summing to the value, and how near the value is to each of them alone.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.trace.edge_stream import Place, Stream
from zsei.trace.edge_values import Whole, rows, written
from zsei.trace.rows import row_indices

BUDGET = 4_000_000
"""Numbers that the parts of one place may hold; rows are as many as fit."""
MOST_ROWS = 128
FEWEST_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A place and what each writer has in it."""

    place: str
    names: tuple[str, ...]
    """Writers, W of them, in the order in which they wrote."""
    parts: Tensor
    """[W, r, d]."""
    value: Tensor
    """What the model itself has there, [r, d]."""

    def error(self) -> float:
        """‖Σ parts - value‖ / ‖value‖: what the decomposition leaves out, rounding alone."""
        away = (self.parts.sum(0) - self.value).norm()
        return float(away / self.value.norm().clamp_min(1e-30))

    def proximity(self) -> Tensor:
        """L1 proximity shares [W]: max(0, ‖y‖₁ - ‖y - part‖₁), summing to 1 per row, averaged.

        Size in the sum, not importance. Source: Ferrando and Voita, 2024.
        """
        size = self.value.abs().sum(-1)
        near = (size - (self.value - self.parts).abs().sum(-1)).clamp_min(0)
        whole = near.sum(0)
        known = whole > 1e-12
        if not bool(known.any()):
            return torch.full((len(self.names),), 1 / len(self.names))
        return (near[:, known] / whole[known]).mean(1)

    def projection(self) -> Tensor:
        """Projection shares [W]: <y, part> / ‖y‖² per row, averaged; they sum to 1 and may be < 0.

        Exact where the parts sum to y.
        """
        size = self.value.square().sum(-1)
        known = size > 1e-24
        if not bool(known.any()):
            return torch.full((len(self.names),), 1 / len(self.names))
        along = torch.einsum("wrd,rd->wr", self.parts, self.value)
        return (along[:, known] / size[known]).mean(1)


def carried_parts(stream: Stream, whole: Whole, places: Collection[str]) -> Iterator[Parts]:
    """The parts of the wanted places, in program order; each is dropped when nothing needs it.

    Args:
        stream: The streams.
        whole: Values of some samples.
        places: Which places are wanted.
    """
    wanted = [name for name in stream.places if name in places and name in whole.values]
    chosen = _Rows(whole, _limit(stream, whole, wanted))
    needed = _needed(stream, wanted)
    uses = Counter(s for name in needed for s in stream.places[name].sources)
    known: dict[str, tuple[tuple[str, ...], Tensor]] = {}
    for name in needed:
        place = stream.places[name]
        if place.kind == "norm":
            known[name] = _behind_norm(stream, place, *known[place.sources[0]], whole, chosen)
        else:
            pieces = [known[source] for source in place.sources]
            pieces += [_of_writer(stream, number, whole, chosen) for number in place.writers]
            names = tuple(writer for found, _ in pieces for writer in found)
            known[name] = names, torch.cat([parts for _, parts in pieces])
        for source in place.sources:
            uses[source] -= 1
            if not uses[source]:
                del known[source]
        if name in wanted:
            yield _added_up(name, *known[name], chosen.pick(rows(whole.values[name])))
        if not uses[name]:
            del known[name]


class _Rows:
    """The same rows of every value of one layout."""

    def __init__(self, whole: Whole, limit: int):
        self.whole, self.limit = whole, limit
        self.known: dict[int, Tensor] = {}

    def pick(self, value: Tensor) -> Tensor:
        """The chosen rows of [N, c]."""
        size = len(value)
        if size not in self.known:
            mask = self.whole.mask
            fits = mask is not None and mask.numel() == size
            flat = mask.flatten() if mask is not None and fits else None
            self.known[size] = row_indices((size,), flat, self.limit)[0]
        return value[self.known[size]]


def _limit(stream: Stream, whole: Whole, wanted: list[str]) -> int:
    most = 1
    for name in wanted:
        width = whole.values[name].shape[-1]
        count = sum(len(stream.writers[t.writer].names) for t in stream.terms[name])
        most = max(most, width * count)
    return min(MOST_ROWS, max(FEWEST_ROWS, BUDGET // most))


def _needed(stream: Stream, wanted: list[str]) -> list[str]:
    """The wanted places and all they are made of, in program order."""
    found = set(wanted)
    for name in reversed(list(stream.places)):
        if name in found:
            found |= set(stream.places[name].sources)
    return [name for name in stream.places if name in found]


def _of_writer(
    stream: Stream, number: int, whole: Whole, chosen: _Rows
) -> tuple[tuple[str, ...], Tensor]:
    writer = stream.writers[number]
    value = chosen.pick(written(writer, whole))
    if writer.weight is None:
        return writer.names, value[None]
    heads, inner, _ = writer.weight.shape
    by_head = value.reshape(-1, heads, inner)
    return writer.names, torch.einsum("rhw,hwd->hrd", by_head, writer.weight)


def _behind_norm(
    stream: Stream, place: Place, names: tuple[str, ...], parts: Tensor, whole: Whole,
    chosen: _Rows,
) -> tuple[tuple[str, ...], Tensor]:  # fmt: skip
    assert place.norm is not None
    scale = None
    if place.norm.watched is not None:
        scale = place.norm.scale(chosen.pick(rows(whole.values[place.norm.watched])))
    parts = place.norm.carry(parts, scale)
    for number in place.writers:
        bias = stream.writers[number].constant
        assert bias is not None
        parts = torch.cat([parts, bias.expand_as(parts[:1])])
        names = (*names, stream.writers[number].component)
    return names, parts


def _added_up(place: str, names: tuple[str, ...], parts: Tensor, value: Tensor) -> Parts:
    """One part per writer, though it may reach a place by several ways."""
    first = {name: i for i, name in enumerate(dict.fromkeys(names))}
    if len(first) < len(names):
        index = torch.tensor([first[name] for name in names])
        parts = torch.zeros(len(first), *parts.shape[1:]).index_add(0, index, parts)
    return Parts(place=place, names=tuple(first), parts=parts, value=value)
