"""A coarser anatomy from module hooks, for models that cannot be exported as one program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import ModelError
from zsei.records import Component, ComponentKind
from zsei.subject.program import MainOutput, pick_output
from zsei.subject.types import Anatomy, Site

KINDS: tuple[tuple[tuple[type[nn.Module], ...], ComponentKind], ...] = (
    ((nn.Embedding, nn.EmbeddingBag), "embedding"),
    ((nn.MultiheadAttention,), "attention"),
    ((nn.modules.conv._ConvNd,), "conv"),
    ((nn.RNNBase,), "recurrent"),
    ((nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm), "norm"),
    ((nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
      nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd), "pool"),
    ((nn.Linear,), "linear"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What one module did in one forward pass; the last call counts, operations add up."""

    output: Tensor
    flops: int
    order: int
    """Place in the order in which modules were first entered."""
    keeps_shape: bool
    """Whether its first input has the shape of its output, so that identity can stand for it."""


def read_modules(
    model: nn.Module, input_names: Sequence[str], inputs: Sequence[Tensor], family: str = ""
) -> Anatomy:
    """Components of a model by its modules; a site's node is a module path.

    Layers are repeated blocks: members of one numbered series (`blocks.0`, `blocks.1` ...) of one
    class that keep the shape of what enters. Heads, neurons and residual joins cannot be seen here.
    A module called twice is one component, whose operations are those of both calls.

    Raises:
        ModelError: The model runs none of its modules.
    """
    calls = _observe(model, input_names, inputs)
    batch = inputs[0].shape[0]
    modules = dict(model.named_modules())
    layers = {path: i for i, path in enumerate(_blocks(modules, calls))}
    parts: list[Component] = []
    sites: list[Site] = []
    for path in sorted(calls, key=lambda p: calls[p].order):
        kind = "layer" if path in layers else _kind(modules[path])
        if kind is None:
            continue
        parent = _enclosing(path, layers)
        parts.append(
            _component(path, kind, modules[path], calls[path], batch, parent, layers)
        )  # fmt: skip
        sites += _sites(path, kind, calls[path])
    if not parts:
        raise ModelError(
            f"A model must consist of modules to be analysed through them; "
            f"{type(model).__name__} runs none. Put its operations into modules."
        )
    return Anatomy(
        components=tuple(parts),
        nodes={part.id: (part.id,) for part in parts},
        outputs={part.id: part.id for part in parts},
        sites=tuple(sites),
        family=family,
    )


def _observe(
    model: nn.Module, input_names: Sequence[str], inputs: Sequence[Tensor]
) -> dict[str, _Call]:
    """Every module that ran and wrote a floating point tensor, by path."""
    calls: dict[str, _Call] = {}
    entered: dict[str, int] = {}
    hooks = []
    for path, module in model.named_modules():
        if path:
            hooks.append(module.register_forward_pre_hook(_entering(path, entered)))
            hooks.append(module.register_forward_hook(_leaving(path, entered, calls)))
    try:
        with torch.no_grad():
            MainOutput(model, input_names).eval()(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _entering(path: str, entered: dict[str, int]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        del module, args
        entered.setdefault(path, len(entered))

    return hook


def _leaving(path: str, entered: dict[str, int], calls: dict[str, _Call]) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        try:
            value = pick_output(output)
        except ModelError:
            return  # a module that hands on no numbers, such as a mask builder
        if not value.is_floating_point() or value.ndim < 2:
            return
        before = calls.get(path)
        first = args[0] if args and isinstance(args[0], Tensor) else None
        calls[path] = _Call(
            output=value.detach(),
            flops=_flops(module, args, value) + (before.flops if before else 0),
            order=entered[path],
            keeps_shape=first is not None and first.shape == value.shape,
        )

    return hook


def _flops(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> int:
    """2 x multiply-adds of a leaf: numel(out) · inputs per output entry (see `cost.flops`)."""
    if isinstance(module, nn.Linear):
        return 2 * output.numel() * module.in_features
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return 2 * args[0].numel() * module.weight[0].numel()
    if isinstance(module, nn.modules.conv._ConvNd):
        return 2 * output.numel() * module.weight[0].numel()
    if isinstance(module, nn.RNNBase):
        steps = output.numel() // output.shape[-1]
        return 2 * steps * sum(w.numel() for w in module.parameters() if w.ndim == 2)
    return 0


def _kind(module: nn.Module) -> ComponentKind | None:
    for classes, kind in KINDS:
        if isinstance(module, classes):
            return kind
    if any(True for _ in module.parameters(recurse=False)):
        named = type(module).__name__.lower()
        return "norm" if "norm" in named else "linear" if "conv1d" in named else "module"
    return None


def _blocks(modules: dict[str, nn.Module], calls: dict[str, _Call]) -> list[str]:
    """Paths of the repeated blocks, outermost series only, in the order in which they run."""
    series: dict[str, list[str]] = {}
    for path in sorted(calls, key=lambda p: calls[p].order):
        prefix, _, number = path.rpartition(".")
        if number.isdigit() and any(True for _ in modules[path].children()):
            series.setdefault(prefix, []).append(path)
    kept: list[str] = []
    for members in series.values():
        alike = len({type(modules[path]) for path in members}) == 1 and len(members) > 1
        nested = any(members[0].startswith(f"{path}.") for path in kept)
        if alike and not nested and all(calls[path].keeps_shape for path in members):
            kept += members
    return kept


def _enclosing(path: str, layers: dict[str, int]) -> str | None:
    return next((layer for layer in layers if path.startswith(f"{layer}.")), None)


def _component(
    path: str, kind: ComponentKind, module: nn.Module, call: _Call, batch: int,
    parent: str | None, layers: dict[str, int],
) -> Component:  # fmt: skip
    value = call.output
    channel = 1 if kind in ("conv", "pool") or (kind == "norm" and value.ndim == 4) else -1
    return Component(
        id=path,
        kind=kind,
        path=path,
        layer=layers.get(path, layers.get(parent) if parent else None),
        parent=parent,
        parameters=sum(p.numel() for p in module.parameters()),
        flops=call.flops // batch,
        bytes=value.numel() * value.element_size() // batch,
        width=value.shape[channel],
        units=value.shape[channel] if kind in ("conv", "linear") else 0,
    )


def _sites(path: str, kind: ComponentKind, call: _Call) -> list[Site]:
    found = []
    if kind == "layer":
        found.append(
            Site(component=path, kind="layer", node=path, axis=None, units=1, unit_ids=(path,))
        )
    elif kind in ("attention", "conv", "linear", "recurrent", "module"):
        found.append(
            Site(component=path, kind="branch", node=path, axis=None, units=1, unit_ids=(path,))
        )
    if kind == "conv":
        count = call.output.shape[1]
        found.append(
            Site(component=path, kind="channel", node=path, axis=1, units=count, unit_ids=(path,))
        )
    return found
