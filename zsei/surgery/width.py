"""Channels of a residual stream: the width that all blocks between two projections share.

Held at zero are the channels of the stream wherever something is written into it. Readers then see
zeros, and convolutions and linears lose columns that multiplied zeros. A norm along the stream is
the one call that mixes channels. Of d channels with d - d' of them zero a root-mean-square norm
computes x / sqrt(Σ x² / d + ε); over the d' that stay the mean is Σ x² / d', so the edited program
takes d' / d of it and computes the same. A norm that subtracts the mean (LayerNorm) shifts the
zeros, so it cannot be cut: it stands in the way and is named.

Reference: Ashkboos et al., "SliceGPT", 2024, whose rotation is exact for the same reason.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor, fx

from zsei.subject.program import Program
from zsei.subject.reading import Ancestry, find_residuals, operation, shape
from zsei.surgery.calls import arguments
from zsei.surgery.labels import CallAxes, named


def norm_passes(nodes: Iterable[fx.Node]) -> dict[fx.Node, CallAxes]:
    """Means of squares along the last axis, passed by a cut of that axis."""
    found = {}
    for node in nodes:
        if operation(node) != "mean":
            continue
        source, given = node.args[0], arguments(node)
        assert isinstance(source, fx.Node)
        rank = len(shape(source))
        last = [axis % rank for axis in given.get("dim") or ()] == [rank - 1]
        if last and given["keepdim"] and _is_square(source):
            lead = named(rank - 1, "n")
            values = ((source, (*lead, "c")), (node, (*lead, "one")))
            found[node] = CallAxes(values=values)
    return found


def _is_square(node: fx.Node) -> bool:
    name = operation(node)
    if name == "pow":
        return isinstance(node.args[1], int | float) and node.args[1] == 2
    return name == "square" or (name == "mul" and node.args[0] is node.args[1])


def written_at(
    program: Program, removed: Mapping[fx.Node, Mapping[int, Tensor]]
) -> list[tuple[fx.Node, int]]:
    """(value, axis) of the streams that are cut: their joins, what these add, and embeddings."""
    joins = find_residuals(Ancestry(program))
    values = {node for join in joins for node in (join.node, join.skip, join.branch)}
    values |= {node for node in removed if operation(node) == "embedding"}
    return [(node, axis) for node in removed if node in values for axis in removed[node]]
