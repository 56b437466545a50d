"""Merging neurons that repeat others: one stays and does the work of all, by new weights behind it.

A neuron j whose value is s a_i + c on the data, with a_i the value of the neuron that stays, is cut
after its outgoing weights were added to the other's: W[:, i] += s W[:, j], b += c W[:, j]. s and c
are the least-squares line over the calibration rows (through the origin where the reader has no
bias of its own), so that s is below zero where two neurons move against each other. Groups of
duplicates are connected components: in a chain of likenesses the ends may differ from the neuron
that stays, which is the one most like all others. References: Srinivas and Babu, "Data-free
parameter pruning for deep neural networks", 2015.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import networkx as nx
import torch
from torch import Tensor, fx

from zsei.errors import UsageError
from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import CONV, LAYOUT, operation, shape
from zsei.subject.types import Batch, Site, Subject
from zsei.surgery.calibration import exact_rows, passed_over
from zsei.surgery.calls import arguments, tensor_of
from zsei.surgery.factorise import linear_of
from zsei.surgery.least_squares import LeastSquares
from zsei.trace.engine import engine_for

Groups = tuple[tuple[int, ...], ...]
"""Neurons of a site that repeat each other; the first of each group stays."""


@dataclass(frozen=True, kw_only=True)
class UnitReader:
    """The one call that reads a site's units, and where a unit's weights lie in it."""

    weight: str
    bias: str | None
    """None where the call has no bias of its own."""
    axis: int
    """Of the weight, along which the units lie."""


def unit_reader(program: Program, site: Site) -> UnitReader:
    """The linear or convolution that alone reads a site's units.

    Raises:
        UsageError: When something else reads them, or their order is changed on the way.
    """
    node = program.node(site.node)
    if site.axis is None or site.unit_size != 1:
        raise UsageError(f"Only neurons and channels are merged; {site.component} has none.")
    axis = site.axis
    while True:
        users = list(node.users)
        if len(users) != 1:
            raise _no_reader(site, f"{len(users)} calls read them")
        here, node = node, users[0]
        found = _reading(node, here, axis)
        if found is not None:
            return found
        last = axis == len(shape(here)) - 1
        same = shape(node) == shape(here) or (last and shape(node)[-1:] == shape(here)[-1:])
        if operation(node) not in LAYOUT - {"transpose", "permute", "t", "getitem"} or not same:
            raise _no_reader(site, f"`{operation(node)}` reads them")
        axis = len(shape(node)) - 1 if last else axis


def _reading(node: fx.Node, source: fx.Node, axis: int) -> UnitReader | None:
    """How a call reads the units of a value, if it is a linear or convolution with own weights."""
    linear = linear_of(node)
    if linear is not None and linear.source is source and axis == len(shape(source)) - 1:
        if len(linear.weight.users) > 1:
            return None
        return UnitReader(
            weight=f"{linear.path}.weight", bias=linear.bias_name(), axis=0 if linear.turned else 1
        )
    if operation(node) not in CONV or "transpose" in operation(node) or axis != 1:
        return None
    given = arguments(node)
    weight, bias = given["weight"], given["bias"]
    own = isinstance(weight, fx.Node) and weight.op == "get_attr" and len(weight.users) == 1
    if not own or given["groups"] != 1 or given["input"] is not source:
        return None
    private = isinstance(bias, fx.Node) and bias.op == "get_attr" and len(bias.users) == 1
    return UnitReader(
        weight=strip_prefix(str(weight.target)),
        bias=strip_prefix(str(bias.target)) if private else None,
        axis=1,
    )


def _no_reader(site: Site, found: str) -> UsageError:
    return UsageError(
        f"Units are merged where one linear or convolution reads them through layout calls alone; "
        f"behind {site.component}, {found}. Prune its units instead."
    )


def unit_sums(subject: Subject, sites: Sequence[Site]) -> list[LeastSquares]:
    """Sums over the values of each site's units on the calibration data, padding left out."""
    sums = [LeastSquares(site.units, 0) for site in sites]

    def see(values: Mapping[str, Tensor], batch: Batch) -> None:
        for site, own in zip(sites, sums, strict=True):
            assert site.axis is not None
            rows = exact_rows(values[site.node].movedim(site.axis, -1), batch)
            own.add(rows, rows[:, :0])

    nodes = [site.node for site in sites]
    passed_over(engine_for(subject), subject.calibration, nodes, see)
    return sums


def correlations(sums: LeastSquares) -> Tensor:
    """Correlation of every two units, [units, units]; 0 with a unit that never moves."""
    count = max(sums.rows, 1)
    covariance = sums.xx - torch.outer(sums.x, sums.x) / count
    size = covariance.diagonal().clamp_min(0).sqrt()
    # Sums of squares that cancel leave noise of this size behind.
    moves = size.square() > 1e-12 * sums.xx.diagonal().clamp_min(1e-30)
    unit = torch.where(moves, 1 / size.clamp_min(1e-30), 0.0)
    return (covariance * unit * unit[:, None]).fill_diagonal_(1.0)


def duplicate_groups(likeness: Tensor, least: float) -> Groups:
    """Connected components of |r| >= least, each with the unit most like all others first."""
    graph: nx.Graph[int] = nx.Graph()
    pairs = (likeness.abs().triu(1) >= least).nonzero().tolist()
    graph.add_edges_from((int(i), int(j)) for i, j in pairs)
    found = []
    for component in nx.connected_components(graph):
        units = sorted(component)
        total = likeness[units][:, units].abs().sum(1)
        # Within the noise of the sums the first of equals stays.
        stays = units[int((total >= total.max() - 1e-9).nonzero()[0])]
        found.append((stays, *(unit for unit in units if unit != stays)))
    return tuple(sorted(found))


def merged_weights(
    program: Program, site: Site, groups: Groups, sums: LeastSquares
) -> dict[str, Tensor]:
    """New weight and bias of the reader, sized as before anything is cut.

    Of a padded convolution a constant c counts as if it stood in the padding too.

    Args:
        program: The unedited program.
        site: Where the units are.
        groups: Which units go into which.
        sums: From `unit_sums`.
    """
    reader = unit_reader(program, site)
    module = program.graph_module
    held = {strip_prefix(str(n.target)): n for n in module.graph.nodes if n.op == "get_attr"}
    old = tensor_of(module, held[reader.weight]).detach()
    weight = old.double().clone()
    columns = weight.movedim(reader.axis, 0)
    shift = torch.zeros(columns[0].shape[0], dtype=torch.float64)
    for stays, *others in groups:
        before = columns.clone()
        for other in others:
            scale, offset = line(sums, stays, other, intercept=reader.bias is not None)
            columns[stays] += scale * before[other]
            shift += offset * before[other].flatten(1).sum(1) if before[other].ndim > 1 else (
                offset * before[other]
            )  # fmt: skip
    found = {reader.weight: weight.to(old.dtype)}
    if reader.bias is not None:
        bias = tensor_of(module, held[reader.bias]).detach()
        found[reader.bias] = (bias.double() + shift).to(bias.dtype)
    return found


def line(sums: LeastSquares, x: int, y: int, *, intercept: bool) -> tuple[float, float]:
    """(s, c) of the least-squares line y = s x + c between two units; c is 0 without intercept."""
    count = max(sums.rows, 1)
    mean_x, mean_y = (float(sums.x[unit]) / count if intercept else 0.0 for unit in (x, y))
    spread = float(sums.xx[x, x]) / count - mean_x**2
    if spread <= 1e-12 * max(float(sums.xx[x, x]) / count, 1e-30):
        return 0.0, mean_y
    scale = (float(sums.xx[x, y]) / count - mean_x * mean_y) / spread
    return scale, mean_y - scale * mean_x
