"""What the caller of Torch-Pruning has to write for each model before it can be cut.

For each model a narrow recipe, which keeps the width of the residual stream, and where an output
of another width is no matter, a wide one after Torch-Pruning's own examples, which cuts it too.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Inputs = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Arguments of the pruner, and the repair after it."""

    ignored: list[nn.Module]
    """Modules that must keep their width."""
    heads: dict[nn.Module, int] = field(default_factory=dict)
    """Heads of each projection."""
    repair: Callable[[nn.Module], None] = lambda model: None
    """Sets what forward reads beside the weights."""


def _bert(model: nn.Module, wide: bool) -> Recipe:
    del wide
    ignored: list[nn.Module] = [model.get_submodule("embeddings")]
    heads = {}
    for layer in model.get_submodule("encoder.layer").children():
        ignored += [layer.get_submodule("attention.output.dense")]
        ignored += [layer.get_submodule("output.dense")]
        own: Any = layer.get_submodule("attention.self")
        heads |= {own.get_submodule(name): 12 for name in ("query", "key", "value")}

    def repair(edited: Any) -> None:
        for layer in edited.encoder.layer:
            own: Any = layer.get_submodule("attention.self")
            own.all_head_size = own.query.out_features
            own.num_attention_heads = own.all_head_size // own.attention_head_size

    return Recipe(ignored=ignored, heads=heads, repair=repair)


def without_concatenation() -> None:
    """Rotate queries and keys by a matrix, in this process.

    Torch-Pruning 1.6.1 takes the last dimension of a concatenation, which autograd stores as an
    unsigned -1, for none at all, and its search then never ends. The values stay the same.
    """
    from transformers.models.llama import modeling_llama

    def rotate_half(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        rotation = torch.zeros(2 * half, 2 * half)
        for i in range(half):
            rotation[half + i, i], rotation[i, half + i] = -1.0, 1.0
        return x @ rotation

    modeling_llama.rotate_half = rotate_half


def _llama(model: nn.Module, wide: bool) -> Recipe:
    ignored: list[nn.Module] = [model.get_submodule("lm_head")]
    heads = {}
    for layer in model.get_submodule("model.layers").children():
        own = layer.get_submodule("self_attn")
        heads |= {own.get_submodule("q_proj"): 8}
        heads |= {own.get_submodule(name): 4 for name in ("k_proj", "v_proj")}
        if not wide:
            ignored += [own.get_submodule("o_proj"), layer.get_submodule("mlp.down_proj")]
    if not wide:
        ignored += [model.get_submodule("model.embed_tokens")]

    def repair(edited: Any) -> None:
        for layer in edited.model.layers:
            own = layer.self_attn
            own.num_key_value_groups = own.q_proj.out_features // own.k_proj.out_features
        if edited.lm_head.weight.shape == edited.model.embed_tokens.weight.shape:
            # Cutting gave each a copy of what they shared.
            edited.lm_head.weight = edited.model.embed_tokens.weight

    return Recipe(ignored=ignored, heads=heads, repair=repair)


def _vit(model: nn.Module, wide: bool) -> Recipe:
    ignored: list[nn.Module] = [model.get_submodule("classifier")]
    heads = {}
    for layer in model.get_submodule("vit.layers").children():
        own = layer.get_submodule("attention")
        heads |= {own.get_submodule(name): 4 for name in ("q_proj", "k_proj", "v_proj")}
        if not wide:
            ignored += [own.get_submodule("o_proj"), layer.get_submodule("mlp.fc2")]
    if not wide:
        ignored += [model.get_submodule("vit.embeddings")]

    def repair(edited: Any) -> None:
        for layer in edited.vit.layers:
            own = layer.attention
            own.num_attention_heads = own.q_proj.out_features // own.head_dim

    return Recipe(ignored=ignored, heads=heads, repair=repair)


def _resnet(model: nn.Module, wide: bool) -> Recipe:
    ignored: list[nn.Module] = [model.get_submodule("linear")]
    if not wide:
        ignored += [model.get_submodule("conv1")]
        ignored += [
            block.get_submodule("conv2")
            for name in ("layer1", "layer2", "layer3")
            for block in model.get_submodule(name).children()
        ]
    return Recipe(ignored=ignored)


RECIPES: dict[str, Callable[[nn.Module, bool], Recipe]] = {
    "minilm": _bert, "stories": _llama, "vit": _vit, "resnet": _resnet
}  # fmt: skip
