"""Labels of axes: how a call says which axes of its operands and results are one."""

from dataclasses import dataclass

from torch import Tensor, fx

Label = str | None | tuple[tuple[str | None, int], ...]
"""None: the call mixes entries along this axis, it cannot be cut. A tuple: the axis is several
merged axes (label, size), the outermost first."""
Labels = tuple[Label, ...]


@dataclass(frozen=True, kw_only=True)
class Link:
    """Entry i along `target` is entry `index[i]` along `source`; both are (value, axis)."""

    source: tuple[fx.Node, int]
    target: tuple[fx.Node, int]
    index: Tensor


@dataclass(frozen=True, kw_only=True)
class CallAxes:
    """How the axes of one call hang together."""

    values: tuple[tuple[fx.Node, Labels], ...]
    """Operands and results, each with a label per axis."""
    links: tuple[Link, ...] = ()
    """Axes of which one is a piece or a repetition of another."""
    side: frozenset[fx.Node] = frozenset()
    """Operands that may be cut by selecting entries at this call alone (biases of attention)."""


def named(count: int, prefix: str) -> tuple[str, ...]:
    """`count` labels of their own."""
    return tuple(f"{prefix}{i}" for i in range(count))


def tensors(node: fx.Node) -> list[fx.Node]:
    """A call's tensor operands, each once."""
    return [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), Tensor)]
