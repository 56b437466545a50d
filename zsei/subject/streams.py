"""Residual streams: joins that add to one another share one width."""

from collections.abc import Iterable

from torch import fx

from zsei.subject.reading import ELEMENTWISE, LAYOUT, Residual, operation, shape


def first_joins(residuals: Iterable[Residual]) -> tuple[Residual, ...]:
    """The first join of each stream, in program order.

    A join goes on with a stream when what it adds to is an earlier join, perhaps behind
    element-wise calls. Behind a post-norm every join begins a stream of its own.
    """
    found = []
    streams: set[fx.Node] = set()
    for join in residuals:
        if not _continues(join, streams):
            found.append(join)
        streams.add(join.node)
    return tuple(found)


def _continues(join: Residual, streams: set[fx.Node]) -> bool:
    node = join.skip
    while node not in streams:
        same = [a for a in node.all_input_nodes if shape(a) == shape(node)]
        if len(same) != 1 or operation(node) not in ELEMENTWISE | LAYOUT:
            return False
        node = same[0]
    return True
