"""Linears and convolutions as one product of rows: what each row reads and what it gives."""

from collections.abc import Callable

from torch import Tensor, fx
from torch.nn import functional as F

from zsei.subject.reading import CONV, operation
from zsei.surgery.calls import arguments


def rows_read(node: fx.Node) -> Callable[[Tensor], Tensor]:
    """How a value becomes the rows that a call multiplies with its weight: [r, inputs].

    For a convolution a row is the patch under one output position, channels outermost, as in its
    weight flattened to [outputs, inputs].
    """
    if operation(node) not in CONV:
        return lambda value: value.flatten(0, -2)
    given = arguments(node)
    kernel = given["weight"].meta["val"].shape[2:]
    where = given["dilation"], given["padding"], given["stride"]

    def unfold(value: Tensor) -> Tensor:
        return F.unfold(value, kernel, *where).transpose(1, 2).flatten(0, 1)

    return unfold


def rows_written(value: Tensor, node: fx.Node) -> Tensor:
    """What a call gives, or its gradient, as rows [r, outputs] in the order of `rows_read`."""
    if operation(node) in CONV:
        return value.flatten(2).transpose(1, 2).flatten(0, 1)
    return value.flatten(0, -2)
