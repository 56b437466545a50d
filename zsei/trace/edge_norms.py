"""Norms as linear maps: with its statistics frozen at the clean run a norm only rescales channels.

LayerNorm of x is (x - mean x) · r · w + b with r = 1 / sqrt(var x + eps) per position. Holding r at
its value of the clean run makes it linear in x, so every summand of x is carried through by itself
and b enters as one more. RMSNorm leaves the mean in; a batch norm in evaluation is linear as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from zsei.subject.reading import BATCH_NORM, operation, shape

LAYER_NORM = {"layer_norm", "native_layer_norm"}
RMS_NORM = {"rms_norm", "_fused_rms_norm"}


@dataclass(frozen=True, kw_only=True)
class FrozenNorm:
    """y = (x - mean x) · r · weight + bias, per position; r is read off the clean run."""

    component: str
    source: str
    """Node of x."""
    weight: Tensor
    """[d]."""
    bias: Tensor | None = None
    """[d]."""
    centred: bool = False
    """Whether the mean over channels is taken off first."""
    statistic: Literal["none", "variance", "mean square", "node"] = "none"
    """Where r comes from: 1, x itself, or the value of a node."""
    node: str = ""
    """For "node": whose value r is."""
    eps: float = 0.0

    @property
    def watched(self) -> str | None:
        """The node whose value r is computed from."""
        if self.statistic == "none":
            return None
        return self.node if self.statistic == "node" else self.source

    def scale(self, value: Tensor) -> Tensor:
        """The r of each position, [N], from the rows [N, ...] of the watched node."""
        if self.statistic == "node":
            return value.reshape(-1)
        if self.statistic == "variance":
            return (value.var(-1, correction=0) + self.eps).rsqrt()
        return (value.square().mean(-1) + self.eps).rsqrt()

    def carry(self, parts: Tensor, scale: Tensor | None) -> Tensor:
        """Summands [..., N, d] of x as summands of y, the bias left out."""
        if self.centred:
            parts = parts - parts.mean(-1, keepdim=True)
        parts = parts * self.weight
        return parts if scale is None else parts * scale[:, None]

    def pull(self, directions: Tensor) -> Tensor:
        """The transpose, without r: directions [..., d] at y as directions at x."""
        directions = directions * self.weight
        return directions - directions.mean(-1, keepdim=True) if self.centred else directions


def frozen_norm(
    component: str, members: tuple[fx.Node, ...], output: fx.Node, constants: Mapping[str, Any]
) -> FrozenNorm | None:
    """The norm a component is, as a linear map of its input; None where it is none we can freeze.

    Args:
        component: Its id.
        members: The calls it consists of.
        output: The value it writes.
        constants: Weights and buffers by node.
    """
    first = members[0]
    name = operation(first)
    width = shape(output)[-1] if shape(output) else 0
    if name in LAYER_NORM | RMS_NORM:
        source, sizes, *rest = first.args
        if not isinstance(source, fx.Node) or list(_plain(sizes)) != [width]:
            return None
        tensors = [constants.get(a.name) if isinstance(a, fx.Node) else None for a in rest[:2]]
        weight, bias = (*tensors, None, None)[:2]
        eps = next((a for a in rest if isinstance(a, float)), None)
        if name in RMS_NORM:
            bias = None
            eps = torch.finfo(torch.float32).eps if eps is None else eps
        return FrozenNorm(
            component=component,
            source=source.name,
            weight=torch.ones(width) if weight is None else weight.detach(),
            bias=None if bias is None else bias.detach(),
            centred=name in LAYER_NORM,
            statistic="variance" if name in LAYER_NORM else "mean square",
            eps=1e-5 if eps is None else eps,
        )
    return _written_out(component, members, output, constants)


def channel_affine(
    component: str, norm: fx.Node, source: fx.Node, constants: Mapping[str, Any]
) -> FrozenNorm:
    """A batch norm in evaluation over the channels of `source` (rows [N, d]).

    Args:
        component: Its id.
        norm: The batch norm's call.
        source: The value whose last axis are its channels.
        constants: Weights and buffers by node.
    """
    tensors = [constants[a.name] for a in norm.all_input_nodes if a.name in constants]
    numbers = [a for a in norm.args if isinstance(a, float)]
    mean, variance = tensors[-2:]
    weight, bias = tensors[:2] if len(tensors) == 4 else (torch.ones(()), torch.zeros(()))
    scale = weight * (variance + numbers[-1]).rsqrt()
    return FrozenNorm(
        component=component, source=source.name, weight=scale.detach(),
        bias=(bias - mean * scale).detach(),
    )  # fmt: skip


def is_batch_norm(node: fx.Node) -> bool:
    """Whether a call is a batch norm."""
    return operation(node) in BATCH_NORM


def _written_out(
    component: str, members: tuple[fx.Node, ...], output: fx.Node, constants: Mapping[str, Any]
) -> FrozenNorm | None:
    """A norm spelled out in several calls: found by running them with r held at 1."""
    roots = [node for node in members if operation(node) == "rsqrt"]
    outside = {
        a for node in members for a in node.all_input_nodes
        if a not in members and a.op != "get_attr"
    }  # fmt: skip
    if len(roots) != 1 or len(outside) != 1:
        return None
    source = next(iter(outside))
    width = shape(source)[-1]

    def held(x: Tensor) -> Tensor:
        values: dict[fx.Node, Any] = {source: x[None, None]}
        for node in members:
            if node in roots:
                values[node] = torch.ones(1, 1, 1)
                continue
            args, kwargs = map_arg(
                (node.args, dict(node.kwargs)),
                lambda a: values[a] if a in values else constants[a.name],
            )
            assert callable(node.target)
            values[node] = node.target(*args, **kwargs)
        return values[output][0, 0]

    try:
        bias = held(torch.zeros(width))
        ramp = torch.linspace(0.1, 2, width).square()
        weight = held(torch.ones(width)) - bias
        seen = held(ramp) - bias
        centred = not torch.allclose(seen, weight * ramp, atol=1e-5)
        if centred:
            away = ramp - ramp.mean()
            weight = torch.where(away.abs() > 1e-6, seen / away, torch.ones(()))
            test = ramp.sqrt() - ramp.sqrt().mean()
            if not torch.allclose(held(ramp.sqrt()) - bias, weight * test, atol=1e-4):
                return None
    except (RuntimeError, KeyError, IndexError):
        return None
    return FrozenNorm(
        component=component,
        source=source.name,
        weight=weight.detach(),
        bias=bias.detach() if bool(bias.any()) else None,
        centred=centred,
        statistic="node",
        node=roots[0].name,
    )


def _plain(sizes: object) -> list[int]:
    return [int(s) for s in sizes] if isinstance(sizes, list | tuple) else []
