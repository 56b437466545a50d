"""Calls a model for groups of samples of like length, each cut to its own longest."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from zsei.speedups.rearranged import Rearranged
from zsei.speedups.runnable import Runnable


class Bucketed(Rearranged):
    """Sorts a batch by real length and runs it group by group; the output is in the caller's
    order and shape, zero at padding.

    Args:
        runnable: What is called.
        tokens: Inputs with a value per position; the first of them is the mask [n, t].
        groups: Most groups a batch is split into; 1 only cuts what no sample uses.
        per_position: Whether the output has an axis of positions, [n, t, ...].
        cut_left: Whether positions before the first real one may go too.
        shifted: Whether positions must then be told (`position_ids`), because the model counts
            them from the left end.
    """

    def __init__(
        self,
        runnable: Runnable,
        *,
        tokens: Sequence[str],
        groups: int,
        per_position: bool,
        cut_left: bool = False,
        shifted: bool = False,
    ):
        super().__init__(runnable)
        self.tokens = tuple(tokens)
        self.groups = groups
        self.per_position = per_position
        self.cut_left = cut_left
        self.shifted = shifted

    def rearranged(self, named: Mapping[str, Tensor]) -> Tensor:
        """One output per sample: a call per group."""
        mask = named[self.tokens[0]]
        real = mask != 0
        if mask.ndim != 2 or bool(real.all()):
            return self.run(named)
        first, end = extents(real)
        if not self.cut_left:
            first = torch.zeros_like(first)
        out: Tensor | None = None
        for group in grouped((end - first).tolist(), self.groups):
            rows = torch.tensor(group, device=mask.device)
            begin, stop = int(first[rows].min()), int(end[rows].max())
            piece = self.run(self._cut(named, rows, begin, stop))
            if out is None:
                shape = (*mask.shape, *piece.shape[2:]) if self.per_position else (
                    len(mask), *piece.shape[1:])  # fmt: skip
                out = piece.new_zeros(shape)
            if self.per_position:
                out[rows, begin:stop] = piece
            else:
                out[rows] = piece
        assert out is not None
        if not self.per_position:
            return out
        return out.masked_fill_(~real.view(*real.shape, *[1] * (out.ndim - 2)), 0)

    def _cut(
        self, named: Mapping[str, Tensor], rows: Tensor, begin: int, stop: int
    ) -> dict[str, Tensor]:
        samples, length = named[self.tokens[0]].shape
        cut: dict[str, Tensor] = {}
        for name, tensor in named.items():
            if name in self.tokens and tensor.shape[:2] == (samples, length):
                cut[name] = tensor[rows, begin:stop]
            elif tensor.shape[:1] == (samples,):
                cut[name] = tensor[rows]
            else:
                cut[name] = tensor
        if self.shifted and begin:
            positions = torch.arange(begin, stop, device=rows.device)
            cut["position_ids"] = positions.expand(len(rows), -1)
        return cut


def extents(real: Tensor) -> tuple[Tensor, Tensor]:
    """First real position of each sample, and the one after its last: each [n].

    A sample without any real position keeps one, because a model must be given something.
    """
    length = real.shape[1]
    first = real.int().argmax(1)
    end = length - real.flip(1).int().argmax(1)
    return first, torch.where(real.any(1), end, torch.ones_like(end))


def grouped(lengths: Sequence[int], groups: int) -> list[list[int]]:
    """Numbers of the samples in at most `groups` groups of neighbours by length, such that the
    positions run, Σ group size x longest of the group, are fewest.

    Dynamic programming over the distinct lengths: O(distinct² x groups).
    """
    order = sorted(range(len(lengths)), key=lambda number: lengths[number])
    distinct = sorted(set(lengths))
    # How many samples are at most as long as each distinct length.
    up_to = [0]
    place = 0
    for length in distinct:
        while place < len(order) and lengths[order[place]] <= length:
            place += 1
        up_to.append(place)
    kinds = len(distinct)
    best: list[float] = [0.0, *[float("inf")] * kinds]
    cuts: list[list[int]] = []
    for _ in range(min(groups, kinds)):
        now: list[float] = [0.0]
        at = [0]
        for stop in range(1, kinds + 1):
            costs = [
                best[start] + (up_to[stop] - up_to[start]) * distinct[stop - 1]
                for start in range(stop)
            ]
            least = min(costs)
            now.append(least)
            at.append(costs.index(least))
        best = now
        cuts.append(at)
    found: list[list[int]] = []
    stop = kinds
    for at in reversed(cuts):
        if not stop:
            break
        start = at[stop]
        found.append(order[up_to[start] : up_to[stop]])
        stop = start
    return found[::-1]
