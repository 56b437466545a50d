"""Channels of convolutions that are somebody's own: where they can be read, and held at zero.

Between the convolution that writes channels and the weights that read them lies a region of calls
that treat every channel by itself. The channels' value is the last one in it from which a zero
reaches every reader as a zero, so that "held at zero there" and "removed" mean the same: behind a
batch norm, but before the branch in which squeeze-and-excitation looks at all channels.
"""

from dataclasses import dataclass
from typing import Any

from torch import fx

from zsei.subject.reading import (
    BATCH_NORM,
    CONV,
    ELEMENTWISE,
    LINEAR,
    POOL,
    Ancestry,
    operation,
    parameter_names,
    shape,
)

KEEPS_ZERO = POOL | {
    "relu", "gelu", "silu", "tanh", "elu", "leaky_relu", "hardtanh", "hardswish", "mish", "relu6",
    "celu", "selu", "prelu", "neg", "dropout", "clone", "alias", "_to_copy", "to", "contiguous",
    "detach", "type_as", "sqrt", "abs", "square", "native_dropout", "getitem",
}  # fmt: skip
"""Calls that give zero for zero, channel by channel."""
READ_WHOLE = ("flatten", "view", "reshape", "mean", "adaptive_avg_pool2d", "squeeze")


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Channels one convolution writes and only other weights read; units on axis 1."""

    source: fx.Node
    value: fx.Node
    """Depthwise convolutions in between may have made several channels of each."""


def find_channels(ancestry: Ancestry) -> tuple[Channels, ...]:
    """Channels of each convolution that reach nothing but other weights."""
    found: dict[fx.Node, Channels] = {}
    for node in ancestry.nodes:
        if operation(node) not in CONV or _argument(node, "groups") != 1:
            continue
        region = _region(node, ancestry)
        value = _value(region, ancestry) if region else None
        if value is not None:
            # Two convolutions whose product is read (a gate): the first one's name counts.
            found.setdefault(value, Channels(source=node, value=value))
    return tuple(found.values())


def _argument(node: fx.Node, name: str) -> Any:
    for i, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name == name:
            return (
                node.args[i]
                if i < len(node.args)
                else node.kwargs.get(name, argument.default_value)
            )
    return None


def _region(conv: fx.Node, ancestry: Ancestry) -> list[fx.Node]:
    """All values between a convolution and its readers, in program order; [] when one is shared.

    Shared are a residual stream, an output, and channels that others write too.
    """
    inside, stack = {conv}, [conv]
    while stack:
        node = stack.pop()
        if not node.users:
            return []
        for user in node.users:
            if user in inside or _absorbs(user):
                continue
            if not _channelwise(user):
                return []
            inside.add(user)
            stack.append(user)
    region = sorted(inside, key=ancestry.index.__getitem__)
    return region if all(_own(node, inside, ancestry) for node in region[1:]) else []


def _own(node: fx.Node, inside: set[fx.Node], ancestry: Ancestry) -> bool:
    """Whether what a call reads beside the region is its alone: constants, the factor of a gate."""
    others = [
        a for a in node.all_input_nodes
        if a not in inside and ancestry.bits[ancestry.index[a]] & ancestry.inputs
    ]  # fmt: skip
    return not others or (operation(node) == "mul" and all(len(a.users) == 1 for a in others))


def _value(region: list[fx.Node], ancestry: Ancestry) -> fx.Node | None:
    """The last value from which zeros reach all readers of the region."""
    inside = set(region)
    read = [node for node in region if any(_absorbs(user) for user in node.users)]
    for start in reversed(region):
        if not shape(start):
            continue
        zero = {start}
        for node in region:
            if keeps_zero(node) and _enough(node, inside, zero):
                zero.add(node)
        if zero.issuperset(read):
            return start
    return None


def _enough(node: fx.Node, inside: set[fx.Node], zero: set[fx.Node]) -> bool:
    """A product needs one factor that is zero, a sum all terms, other calls all of the region."""
    name = operation(node)
    if name == "mul":
        return any(a in zero for a in node.all_input_nodes)
    if name == "div":
        return node.args[0] in zero
    if name in ("add", "sub"):
        return all(a in zero for a in node.args[:2])
    operands = [a for a in node.all_input_nodes if a in inside]
    return bool(operands) and all(a in zero for a in operands)


def keeps_zero(node: fx.Node) -> bool:
    """Whether a call gives zero for zeros; a product, a quotient and a sum each in its own way."""
    name = operation(node)
    if name in CONV:
        return _argument(node, "bias") is None
    if name in ("constant_pad_nd", "pad"):
        return not _argument(node, "value")
    if name in ("clamp", "clamp_min", "clamp_max"):
        low, high = _argument(node, "min"), _argument(node, "max")
        return (low is None or low <= 0) and (high is None or high >= 0)
    return name in KEEPS_ZERO or name in ("mul", "div", "add", "sub")


def _absorbs(user: fx.Node) -> bool:
    """Whether a reader takes channels in with weights (perhaps after pooling or flattening)."""
    name = operation(user)
    if name in CONV:
        return _argument(user, "groups") == 1
    if name in READ_WHOLE:
        return bool(user.users) and all(_is_linear(u) or _absorbs(u) for u in user.users)
    return _is_linear(user)


def _is_linear(node: fx.Node) -> bool:
    return operation(node) in LINEAR and bool(parameter_names(node))


def _channelwise(user: fx.Node) -> bool:
    """Whether a call treats every channel by itself."""
    name = operation(user)
    if name in CONV:
        source = user.args[0]
        assert isinstance(source, fx.Node)
        return _argument(user, "groups") == shape(source)[1]
    if name in BATCH_NORM or name in POOL or name in ("constant_pad_nd", "pad", "getitem"):
        return True
    return name in ELEMENTWISE
