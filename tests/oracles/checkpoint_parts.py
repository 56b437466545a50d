"""Criteria of a GPT-2, by hooks and plain autograd on the module itself, sample by sample."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def run(model: nn.Module, ids: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Values and the loss of one sample; "in.0" enters layer 0, "out.0" leaves it, "act.0" are its
    neurons.
    """
    seen: dict[str, Tensor] = {}
    hooks = []
    for number, block in enumerate(model.transformer.h):  # type: ignore[union-attr]

        def entering(module: Any, args: Any, kwargs: Any, number: int = number) -> None:
            seen[f"in.{number}"] = args[0]

        def leaving(module: Any, args: Any, output: Any, number: int = number) -> None:
            seen[f"out.{number}"] = output[0] if isinstance(output, tuple) else output

        def acting(module: Any, args: Any, output: Any, number: int = number) -> None:
            seen[f"act.{number}"] = output

        hooks += [
            block.register_forward_pre_hook(entering, with_kwargs=True),
            block.register_forward_hook(leaving),
            block.mlp.act.register_forward_hook(acting),
        ]
    try:
        logits = model(input_ids=ids).logits
    finally:
        for hook in hooks:
            hook.remove()
    return seen, F.cross_entropy(logits[0, :-1], ids[0, 1:])


def gradients(loss: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradient of each value."""
    names = list(values)
    found = torch.autograd.grad(loss, [values[name] for name in names], allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def parts(model: nn.Module, samples: Sequence[Tensor]) -> dict[str, Tensor]:
    """"taylor.act.0" [u], "taylor.layer.0", "frequency.act.0" [u], "similarity.0", "flow.0",
    "skip.0" of all layers, over samples of ids [1, t].
    """  # fmt: skip
    layers = len(model.transformer.h)  # type: ignore[union-attr, arg-type]
    taylor: dict[str, list[Tensor]] = {}
    kept: dict[str, list[Tensor]] = {}
    for ids in samples:
        values, loss = run(model, ids)
        slopes = gradients(loss, values)
        for n in range(layers):
            act, slope = values[f"act.{n}"], slopes[f"act.{n}"]
            taylor.setdefault(f"act.{n}", []).append((act * slope)[0].sum(0).abs())
            moved = values[f"out.{n}"] - values[f"in.{n}"]
            taylor.setdefault(f"layer.{n}", []).append((moved * slopes[f"out.{n}"]).sum().abs())
        for name in values:
            kept.setdefault(name, []).append(values[name][0].detach())
            kept.setdefault(f"g.{name}", []).append(slopes[name][0])
    found = {f"taylor.{name}": torch.stack(v).mean(0).detach() for name, v in taylor.items()}
    for n in range(layers):
        act = torch.cat(kept[f"act.{n}"])
        found[f"frequency.act.{n}"] = (
            (act.abs() > 1e-3 * act.square().mean().sqrt()).double().mean(0)
        )
        x, y = torch.cat(kept[f"in.{n}"]), torch.cat(kept[f"out.{n}"])
        found[f"similarity.{n}"] = F.cosine_similarity(x, y, dim=1).mean()
        g_x, g_y = torch.cat(kept[f"g.in.{n}"]), torch.cat(kept[f"g.out.{n}"])
        found[f"flow.{n}"] = g_x.norm() / g_y.norm()
        through = g_x - g_y
        size = g_x.abs().sum(1)
        skip = (size - through.abs().sum(1)).clamp_min(0)
        branch = (size - g_y.abs().sum(1)).clamp_min(0)
        reached = skip + branch > 1e-12  # the last position has nothing to predict
        found[f"skip.{n}"] = (skip / (skip + branch))[reached].mean()
    return found


def without_layer(model: nn.Module, number: int, ids: Tensor) -> Tensor:
    """Mean KL(clean ‖ without) in nats per sample [n] when a layer hands on what enters it."""
    block = model.get_submodule(f"transformer.h.{number}")

    def bypass(module: Any, args: Any, output: Any) -> Any:
        return (args[0], *output[1:]) if isinstance(output, tuple) else args[0]

    with torch.no_grad():
        clean = model(input_ids=ids).logits.log_softmax(-1)
        hook = block.register_forward_hook(bypass)
        try:
            edited = model(input_ids=ids).logits.log_softmax(-1)
        finally:
            hook.remove()
    return (clean.exp() * (clean - edited)).sum(-1).mean(1)
