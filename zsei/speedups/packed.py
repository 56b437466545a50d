"""Calls a model on rows that hold the tokens of several samples and hardly any padding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsei.speedups.rearranged import Rearranged
from zsei.speedups.runnable import Runnable

_FEW = 128
"""Rows up to which other widths are tried; with more, hardly any cell stays empty."""
_PAIR = 256
"""What a position costs beside attention, in pairs of positions: a row of this width would spend
half of its time in attention."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How a model must be told which tokens belong together."""

    causal: bool = False
    """Whether a token sees those before it alone."""
    counted: int | None = None
    """What a model that counts real tokens gives the first one as its position; None where the
    position is the column in the caller's batch."""


class Packed(Rearranged):
    """Moves the real tokens of all samples into rows about as long as the longest, restarts the
    positions, lets no token see another sample's, and puts the output back where it was, zero at
    padding.

    Args:
        runnable: What is called; gives [n, t, ...] for a mask [n, 1, t, t] and `position_ids`.
        tokens: Inputs with a value per position; the first of them is the mask [n, t].
        packing: What the model needs.
    """

    def __init__(self, runnable: Runnable, *, tokens: Sequence[str], packing: Packing):
        super().__init__(runnable)
        self.tokens = tuple(tokens)
        self.packing = packing

    def rearranged(self, named: Mapping[str, Tensor]) -> Tensor:
        """One output per sample and position: one call on packed rows."""
        mask = named[self.tokens[0]]
        real = mask != 0
        if mask.ndim != 2 or bool(real.all()) or not bool(real.any()):
            return self.run(named)
        starts, rows, width = packed_rows(real.sum(1).tolist())
        sample, column = real.nonzero(as_tuple=True)
        count = real.cumsum(1)[sample, column] - 1
        cell = torch.tensor(starts, device=mask.device)[sample] + count
        cells = rows * width

        def moved(tensor: Tensor) -> Tensor:
            into = tensor.new_zeros(cells, *tensor.shape[2:])
            into[cell] = tensor[sample, column]
            return into.view(rows, width, *tensor.shape[2:])

        given = {name: moved(named[name]) for name in self.tokens[1:]}
        if "position_ids" not in given:
            first = self.packing.counted
            position = column if first is None else count + first
            given["position_ids"] = moved(_spread(position, sample, column, real))
        # Empty cells belong together, so that each has something to see.
        owner = torch.full((cells,), -1, device=mask.device)
        owner[cell] = sample
        given[self.tokens[0]] = self._seen(owner.view(rows, width))
        out = self.run(given)
        back = out.new_zeros(*real.shape, *out.shape[2:])
        back[sample, column] = out.flatten(0, 1)[cell]
        return back

    def _seen(self, owner: Tensor) -> Tensor:
        """Which cell sees which, [r, 1, w, w]: bool, or added to the scores where the model's own
        code does that.
        """
        seen = owner[:, :, None] == owner[:, None, :]
        if self.packing.causal:
            seen = seen.tril()
        seen = seen[:, None]
        if not adds_mask(self.inner):
            return seen
        dtype = next((p.dtype for p in self.inner.parameters() if p.is_floating_point()), None)
        dtype = dtype or torch.float32
        added = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return added.masked_fill_(~seen, torch.finfo(dtype).min)


def _spread(values: Tensor, sample: Tensor, column: Tensor, real: Tensor) -> Tensor:
    whole = torch.zeros(real.shape, dtype=torch.long, device=real.device)
    whole[sample, column] = values
    return whole


def adds_mask(module: nn.Module) -> bool:
    """Whether a transformers model runs eager attention, which adds the mask it is given."""
    for part in module.modules():
        config: Any = getattr(part, "config", None)
        chosen = getattr(config, "_attn_implementation", None)
        if chosen is not None:
            return chosen == "eager"
    return False


def packed_rows(lengths: Sequence[int]) -> tuple[list[int], int, int]:
    """Where each sample begins when all are put into rows, first fit, longest first (at most 11/9
    of the fewest rows, and a constant).

    Rows are as long as the longest sample, or up to half as long again where that leaves fewer
    cells empty: with few rows the last one is often nearly empty.

    Returns:
        Index of each sample's first token in the flat rows, the number of rows, their width.
    """
    longest = max(lengths)
    few = sum(lengths) <= _FEW * longest
    widths = range(longest, longest * 3 // 2 + 1 if few else longest + 1, max(1, longest // 24))
    tried = [(first_fit(lengths, width), width) for width in widths]
    (starts, rows), width = min(tried, key=lambda made: made[0][1] * made[1] * (_PAIR + made[1]))
    return starts, rows, width


def first_fit(lengths: Sequence[int], width: int) -> tuple[list[int], int]:
    """Each sample's first cell and the number of rows, the longest sample placed first."""
    used: list[int] = []
    starts = [0] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        length = lengths[number]
        row = next((row for row, taken in enumerate(used) if taken + length <= width), len(used))
        if row == len(used):
            used.append(0)
        starts[number] = row * width + used[row]
        used[row] += length
    return starts, len(used)
