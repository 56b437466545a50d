"""Workloads for tests of speed-ups: tiny models on ragged batches, without an exported program."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from zsei.speedups.workload import Workload
from zsei.subject.objective import Objective
from zsei.subject.program import frozen_twin
from zsei.subject.types import Batch
from zsei.timing.device import find_device


def ragged(
    lengths: Sequence[int], length: int, left: bool = False, vocabulary: int = 64
) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both [n, length], with so many real tokens per sample."""
    generator = torch.Generator().manual_seed(sum(lengths) + length)
    ids = torch.randint(1, vocabulary, (len(lengths), length), generator=generator)
    mask = (torch.arange(length)[None] < torch.tensor(lengths)[:, None]).long()
    mask = mask.flip(1) if left else mask
    return ids * mask, mask


def token_workload(
    model: nn.Module,
    lengths: Sequence[int] = (12, 3, 7, 5, 12, 2, 9, 4),
    *,
    length: int | None = None,
    left: bool = False,
    more: dict[str, Tensor] | None = None,
) -> Workload:
    """A model of transformers on one ragged batch, which is both calibration and held out."""
    ids, mask = ragged(lengths, length or max(lengths), left)
    named = {"input_ids": ids, "attention_mask": mask, **(more or {})}
    return workload(model, named, mask.bool())


def workload(
    model: nn.Module, named: dict[str, Tensor], mask: Tensor | None = None
) -> Workload:  # fmt: skip
    """Any model on one batch, with eager attention where its class lets one choose."""
    twin: Any = frozen_twin(model)
    if hasattr(twin, "set_attn_implementation"):
        twin.set_attn_implementation("eager")
    batch = Batch(inputs=tuple(named.values()), mask=mask)
    return Workload(
        model=twin, input_names=tuple(named), calibration=(batch,), held_out=(batch,),
        objective=Objective(name="fidelity", output="values", reason="a test"),
        device=find_device("cpu"), subject=cast(Any, None), threads=1,
    )  # fmt: skip
