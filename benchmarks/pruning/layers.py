"""Which layers can go: an order by block influence, as ShortGPT has it, against others.

Block influence of a layer is 1 - cos(in, out), the mean over tokens of the calibration data,
measured once on the whole model (Men et al. 2024, arXiv 2403.03853); the layers of least influence
go. Beside it stands the best subset when the judging data itself chooses, which nobody may use.
"""

import copy
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.pruning.parts import Part

STACKS = {"minilm": "encoder.layer", "stories": "model.layers", "vit": "vit.layers"}
"""Where each part's layers are, one after another and all of one width."""


def stack(part: Part, model: nn.Module) -> nn.ModuleList:
    """The layers of a model."""
    found = model.get_submodule(STACKS[part.name])
    assert isinstance(found, nn.ModuleList)
    return found


def without_layers(part: Part, removed: Sequence[int]) -> nn.Module:
    """A copy of the part's model without some layers."""
    model = copy.deepcopy(part.model)
    layers = stack(part, model)
    kept = [layer for index, layer in enumerate(layers) if index not in removed]
    parent, _, name = STACKS[part.name].rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(kept))
    config: Any = model.config
    config.num_hidden_layers = len(kept)
    return model


def block_influence(part: Part) -> list[float]:
    """1 - cos(in, out) of each layer, the mean over the calibration tokens that are no padding."""
    layers = stack(part, part.model)
    sums, counts = [0.0] * len(layers), [0] * len(layers)
    mask = torch.ones(0)

    def record(index: int, inside: Tensor, outside: Tensor) -> None:
        values = 1 - F.cosine_similarity(inside, outside, dim=-1)
        if mask.numel():
            values = values[mask.bool()]
        sums[index] += float(values.sum())
        counts[index] += values.numel()

    def hook(index: int) -> Any:
        def seen(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            inside = args[0] if args else kwargs["hidden_states"]
            record(index, inside, out if isinstance(out, Tensor) else out[0])

        return seen

    handles = [
        layer.register_forward_hook(hook(index), with_kwargs=True)
        for index, layer in enumerate(layers)
    ]
    try:
        with torch.no_grad():
            for inputs in part.calibration:
                mask = inputs.get("attention_mask", torch.ones(0))
                part.forward(part.model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return [total / count for total, count in zip(sums, counts, strict=True)]


def by_block_influence(part: Part, count: int) -> tuple[int, ...]:
    """The `count` layers of least block influence."""
    influence = block_influence(part)
    return tuple(sorted(sorted(range(len(influence)), key=influence.__getitem__)[:count]))


def best_subset(part: Part, count: int) -> tuple[tuple[int, ...], dict[str, float]]:
    """The `count` layers whose removal the judging data likes best, and its figures."""
    sign = -1 if part.larger_is_better else 1
    tried = {
        removed: part.quality(without_layers(part, removed))
        for removed in combinations(range(len(stack(part, part.model))), count)
    }
    best = min(tried, key=lambda removed: sign * tried[removed][part.metric])
    return best, tried[best]
