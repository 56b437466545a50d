"""Labels that language objectives make from the tokens themselves."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from zsei.subject.objective import IGNORED
from zsei.subject.types import Batch

MASKED_SHARE = 0.15
"""Share of tokens a masked language model has to fill in."""


def causal_labels(input_names: Sequence[str]) -> Callable[[Batch], Batch]:
    """Labels of a causal model: its tokens, padding ignored (the objective does the shift)."""
    place = next(
        input_names.index(n) for n in ("decoder_input_ids", "input_ids", input_names[0])
        if n in input_names
    )  # fmt: skip

    def make(batch: Batch) -> Batch:
        labels = batch.inputs[place].clone()
        if batch.mask is not None and batch.mask.shape == labels.shape:
            labels = labels.masked_fill(~batch.mask, IGNORED)
        return replace(batch, labels=labels)

    return make


def mask_tokens(
    input_names: Sequence[str], tokenizer: Any, seed: int
) -> Callable[[Batch], Batch]:  # fmt: skip
    """Hide 15 % of each text's real tokens, at least one, behind the mask token; label those.

    Special tokens are never hidden. Which are hidden depends on the seed and the order of calls.
    """
    place = input_names.index("input_ids")
    special = torch.tensor(sorted(tokenizer.all_special_ids))
    generator = torch.Generator().manual_seed(seed)

    def make(batch: Batch) -> Batch:
        ids = batch.inputs[place]
        eligible = ~torch.isin(ids, special)
        if batch.mask is not None:
            eligible &= batch.mask
        score = torch.rand(ids.shape, generator=generator).masked_fill(~eligible, -1.0)
        count = (eligible.sum(1) * MASKED_SHARE).round().clamp_min(1).long()
        rank = score.argsort(1, descending=True).argsort(1)
        hidden = (rank < count[:, None]) & eligible
        labels = ids.masked_fill(~hidden, IGNORED)
        masked = ids.masked_fill(hidden, int(tokenizer.mask_token_id))
        inputs = (*batch.inputs[:place], masked, *batch.inputs[place + 1 :])
        return replace(batch, inputs=inputs, labels=labels)

    return make
