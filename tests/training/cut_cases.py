"""Small models in training, and cuts of them written by hand."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from factories import tiny_bert, tiny_gpt2, tiny_llama, tiny_mlp, tiny_resnet
from torch import Tensor, nn

from zsei.checkpoint.contracts import (
    ChannelPruningTarget,
    PruningMasks,
    SafetyValidation,
    StructuralPruningDecision,
    TensorMask,
)
from zsei.surgery.module_edit import Attribute, ConfigValue, ModuleEdit, TensorCut

Loss = Callable[[nn.Module, int], Tensor]
Case = tuple[Any, Loss, ModuleEdit]


def span(*ranges: tuple[int, int]) -> tuple[int, ...]:
    return tuple(i for low, high in ranges for i in range(low, high))


def edit_of(
    cuts: Mapping[str, tuple[int, Iterable[int]]],
    *,
    attributes: dict[str, dict[str, int]] | None = None,
    config: Iterable[ConfigValue] = (),
    dropped: tuple[str, ...] = (),
) -> ModuleEdit:
    return ModuleEdit(
        cuts=tuple(
            TensorCut(name=name, axis=axis, removed=tuple(gone))
            for name, (axis, gone) in cuts.items()
        ),
        attributes=tuple(
            Attribute(module=module, name=name, value=value)
            for module, values in (attributes or {}).items()
            for name, value in values.items()
        ),
        config=tuple(config),
        dropped=dropped,
    )


def ids(step: int, high: int = 64) -> Tensor:
    return torch.randint(1, high, (4, 12), generator=torch.Generator().manual_seed(step))


def real(step: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(step))


def gpt2() -> Case:
    """Tied head; heads 0 and 2 of the first block, neurons of the last, and the one between."""
    model, _ = tiny_gpt2(n_layer=3)
    heads = span((0, 8), (16, 24))
    qkv = tuple(i + 32 * part for part in range(3) for i in heads)
    edit = edit_of(
        {
            "transformer.h.0.attn.c_attn.weight": (1, qkv),
            "transformer.h.0.attn.c_attn.bias": (0, qkv),
            "transformer.h.0.attn.c_proj.weight": (0, heads),
            "transformer.h.2.mlp.c_fc.weight": (1, (0, 5, 127)),
            "transformer.h.2.mlp.c_fc.bias": (0, (0, 5, 127)),
            "transformer.h.2.mlp.c_proj.weight": (0, (0, 5, 127)),
        },
        attributes={
            "transformer.h.0.attn.c_attn": {"nf": 48},
            "transformer.h.0.attn.c_proj": {"nx": 16},
            "transformer.h.0.attn": {"num_heads": 2, "split_size": 16},
            "transformer.h.2.mlp.c_fc": {"nf": 125},
            "transformer.h.2.mlp.c_proj": {"nx": 125},
        },
        config=[ConfigValue(name="num_hidden_layers", old=3, new=2)],
        dropped=("transformer.h.1",),
    )
    return model, lambda m, step: m(input_ids=ids(step), labels=ids(step)).loss, edit


def tied_width() -> Case:
    """Entries of the width of a tied embedding go, under both of its names."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 10)
            self.head = nn.Linear(10, 20, bias=False)
            self.head.weight = self.embed.weight
            self.inner = nn.Linear(10, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.inner(self.embed(x))))

    torch.manual_seed(3)
    model = Tied()
    gone = (2, 7)
    edit = edit_of(
        {"embed.weight": (1, gone), "inner.bias": (0, gone)}
        | {"head.weight": (1, gone)},
        attributes={"embed": {"embedding_dim": 8}, "head": {"in_features": 8},
                    "inner": {"in_features": 8, "out_features": 8}},
    )  # fmt: skip
    both = [TensorCut(name="inner.weight", axis=axis, removed=gone) for axis in (0, 1)]
    edit = edit.model_copy(update={"cuts": (*edit.cuts, *both)})
    return (
        model,
        lambda m, s: nn.functional.cross_entropy(m(ids(s, 20)).flatten(0, 1), ids(s, 20).flatten()),
        edit,
    )


def bert() -> Case:
    model, _ = tiny_bert()
    heads, layer = span((8, 16)), "encoder.layer.0.attention"
    edit = edit_of(
        {f"{layer}.self.{n}.{p}": (0, heads) for n in ("query", "key", "value")
         for p in ("weight", "bias")}
        | {f"{layer}.output.dense.weight": (1, heads)},
        attributes={f"{layer}.self.{n}": {"out_features": 24} for n in ("query", "key", "value")}
        | {f"{layer}.output.dense": {"in_features": 24},
           f"{layer}.self": {"num_attention_heads": 3, "all_head_size": 24}},
    )  # fmt: skip
    return model, lambda m, s: m(input_ids=ids(s)).last_hidden_state.pow(2)[..., ::2].sum(), edit


def llama() -> Case:
    """Grouped queries: a key head goes with its two query heads."""
    model, _ = tiny_llama()
    at = "model.layers.0"
    edit = edit_of(
        {
            f"{at}.self_attn.q_proj.weight": (0, span((0, 16))),
            f"{at}.self_attn.k_proj.weight": (0, span((0, 8))),
            f"{at}.self_attn.v_proj.weight": (0, span((0, 8))),
            f"{at}.self_attn.o_proj.weight": (1, span((0, 16))),
            f"{at}.mlp.gate_proj.weight": (0, (1, 9)),
            f"{at}.mlp.up_proj.weight": (0, (1, 9)),
            f"{at}.mlp.down_proj.weight": (1, (1, 9)),
        },
        attributes={
            f"{at}.self_attn.q_proj": {"out_features": 16},
            f"{at}.self_attn.o_proj": {"in_features": 16},
        },
        config=[ConfigValue(name="num_hidden_layers", old=2, new=1)],
        dropped=("model.layers.1",),
    )
    return model, lambda m, step: m(input_ids=ids(step), labels=ids(step)).loss, edit


def resnet() -> Case:
    """Channels with their batch norm."""
    model, _ = tiny_resnet()
    norm, first = "resnet.embedder.embedder", "resnet.encoder.stages.0.layers.0"
    names = ("weight", "bias", "running_mean", "running_var")
    edit = edit_of(
        {f"{norm}.convolution.weight": (0, (1, 3))}
        | {f"{norm}.normalization.{name}": (0, (1, 3)) for name in names}
        | {f"{first}.layer.0.convolution.weight": (1, (1, 3)),
           f"{first}.shortcut.convolution.weight": (1, (1, 3))},
        attributes={f"{norm}.convolution": {"out_channels": 6},
                    f"{norm}.normalization": {"num_features": 6},
                    f"{first}.layer.0.convolution": {"in_channels": 6},
                    f"{first}.shortcut.convolution": {"in_channels": 6}},
        config=[ConfigValue(name="depths", old=(2, 2), new=(2, 1))],
        dropped=("resnet.encoder.stages.1.layers.1",),
    )  # fmt: skip
    return (
        model,
        lambda m, step: nn.functional.cross_entropy(
            m(pixel_values=real(step, 4, 3, 32, 32)).logits, torch.arange(4)
        ),
        edit,
    )


def mlp() -> Case:
    model, _ = tiny_mlp()
    edit = edit_of(
        {"0.weight": (0, (1, 4)), "0.bias": (0, (1, 4)), "2.weight": (1, (1, 4))},
        attributes={"0": {"out_features": 22}, "2": {"in_features": 22}},
    )
    return (
        model,
        lambda m, step: nn.functional.cross_entropy(m(real(step, 6, 8)), torch.arange(6) % 3),
        edit,
    )


CASES = {
    "mlp": mlp, "tied": tied_width, "gpt2": gpt2, "bert": bert, "llama": llama, "resnet": resnet,
}  # fmt: skip


def train(
    model: nn.Module, optimizers: Any, loss: Loss, steps: int, start: int = 0, ema: Any = None
) -> list[float]:
    """A plain loop; the losses. Dropout is on, and its random state is set at each step."""
    model.train()
    losses = []
    for step in range(start, start + steps):
        torch.manual_seed(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        value = loss(model, step)
        value.backward()
        for optimizer in optimizers:
            optimizer.step()
        if ema is not None:
            ema.update_parameters(model)
        losses.append(float(value.detach()))
    return losses


def decision_of(edit: ModuleEdit | None, mode: str = "remove", **given: Any) -> Any:
    """An approved decision; its masks are the same cuts."""
    masks = (
        [TensorMask(name=c.name, axis=c.axis, removed=c.removed) for c in edit.cuts] if edit else []
    )
    known: dict[str, Any] = {
        "decision_id": "d1", "idempotency_key": "5:a:d1:conservative", "request_id": "r5",
        "run": "run", "epoch": 5, "mode": mode, "safety": SafetyValidation(phase="conservative"),
        "edit": edit, "masks": PruningMasks(masks=tuple(masks)), "approved_for_application": True,
        "channels": (ChannelPruningTarget(layer_name="0", kind="neuron", channel_indices=(1, 4),
                                          channel_importance=(0.0, 0.0)),),
    }  # fmt: skip
    return StructuralPruningDecision(**(known | given))


def bits(model: nn.Module) -> dict[str, bytes]:
    """Every parameter and buffer, as bytes."""
    return {n: t.detach().numpy().tobytes() for n, t in model.state_dict().items()}
