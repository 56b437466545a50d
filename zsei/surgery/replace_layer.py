"""A whole layer computed from its input by one linear map, fitted by least squares.

y = x + W x + b per token, or per pixel for images; W and b minimise the squared error over the
calibration data plus ridge * |W|^2, so that the identity is the limit of a strong ridge. How strong
is settled on the data: each half of the samples judges what the other was fitted to. Where a layer
gives another number of channels or fewer pixels the map is the (strided) projection M x + b, drawn
to zero. What is put in place is M = 1 + W: one product. References: the closed form of Ashkboos et
al., "SliceGPT", 2024, and Gromov et al., 2024, for layers that a linear map can stand in for.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from zsei.errors import SurgeryRefused
from zsei.subject.program import Program
from zsei.subject.reading import channel_axis, is_float, places, shape
from zsei.surgery.calls import refuse
from zsei.surgery.edits import ReplaceLayer
from zsei.surgery.factorise import put_parameter
from zsei.surgery.least_squares import LeastSquares
from zsei.surgery.symbolic import static_twin

RIDGES = (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Strengths tried, in units of the mean variance of an input."""


@dataclass(frozen=True, kw_only=True)
class Ends:
    """What enters a layer and what leaves it, and how the channels of both lie."""

    source: str
    output: str
    inputs: int
    outputs: int
    stride: int
    axis: int
    """Of the channels: 1 for images, else -1."""


def map_names(edit: ReplaceLayer) -> tuple[str, str]:
    """Names of the new weight and bias in the user's model."""
    return f"{edit.site.component}.map.weight", f"{edit.site.component}.map.bias"


def find_ends(program: Program, edit: ReplaceLayer) -> Ends:
    """What the layer of an edit maps to what.

    Args:
        program: With plain shapes.
        edit: Its site names values of this program.

    Raises:
        SurgeryRefused: When several values enter it, or the map cannot have this form.
    """
    component, output, source = edit.site.component, edit.site.node, edit.site.source
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    if output not in nodes or (source is not None and source not in nodes):
        raise SurgeryRefused(f"`{component}` has no value that could be computed in its place.")
    end = nodes[output]
    start = nodes[source] if source is not None else _entering(program, component, end)
    before, after = shape(start), shape(end)
    if edit.form == "linear":
        fits = len(before) == len(after) >= 2 and before[:-1] == after[:-1]
        if not fits or (len(after) == 4 and channel_axis(end) == 1):
            raise refuse(
                end, f"leaves `{component}` as {list(after)} where {list(before)} enters it; a "
                f"linear map needs both as [..., channels]. Images take a convolution."
            )  # fmt: skip
        return Ends(
            source=start.name, output=output, inputs=before[-1], outputs=after[-1], stride=1,
            axis=-1,
        )  # fmt: skip
    stride = _stride(before, after)
    if stride is None or channel_axis(end) != 1:
        raise refuse(
            end, f"leaves `{component}` as {list(after)} where {list(before)} enters it; a 1 x 1 "
            f"convolution needs images [n, c, h, w], as large or an even part as large."
        )  # fmt: skip
    return Ends(
        source=start.name, output=output, inputs=before[1], outputs=after[1], stride=stride, axis=1
    )


def _entering(program: Program, component: str, end: fx.Node) -> fx.Node:
    """The only value that enters a layer, told by the module its calls stand in."""
    members = {
        node for node in program.graph_module.graph.nodes
        if any(place.path == component for place in places(node))
    }  # fmt: skip
    found = {
        argument for node in members for argument in node.all_input_nodes
        if argument not in members and argument.op != "get_attr" and is_float(argument)
    }  # fmt: skip
    if len(found) != 1:
        raise refuse(end, f"leaves `{component}`, which {len(found)} values enter; one is needed.")
    return found.pop()


def _stride(before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """The stride of a 1 x 1 convolution from one image size to another; None: there is none."""
    if len(before) != 4 or len(after) != 4 or before[0] != after[0] or 0 in after:
        return None
    stride = -(-before[2] // after[2])
    reached = tuple(-(-size // stride) for size in before[2:])
    return stride if reached == after[2:] else None


def replace_calls(module: fx.GraphModule, edit: ReplaceLayer) -> None:
    """Compute a layer's output by one map from its input; the map is zero.

    Args:
        module: A copy of our own; it is changed.
        edit: Its site names values of this graph.
    """
    twin = static_twin(Program(graph_module=module, input_names=()))
    ends = find_ends(twin, edit)
    nodes = {node.name: node for node in module.graph.nodes}
    source, output = nodes[ends.source], nodes[ends.output]
    weight, bias = (f"model.{name}" for name in map_names(edit))
    kernel = (1, 1) if edit.form == "convolution" else ()
    kind = output.meta["val"].dtype
    put_parameter(module, weight, torch.zeros(ends.outputs, ends.inputs, *kernel, dtype=kind))
    put_parameter(module, bias, torch.zeros(ends.outputs, dtype=kind))
    with module.graph.inserting_before(output):
        parameters = module.graph.get_attr(weight), module.graph.get_attr(bias)
    for node in parameters:
        node.meta["nn_module_stack"] = output.meta.get("nn_module_stack", {})
    # The call itself is exchanged, not its readers: the value keeps its name.
    output.kwargs = {}
    if edit.form == "linear":
        output.target = torch.ops.aten.linear.default
        output.args = (source, *parameters)
    else:
        output.target = torch.ops.aten.conv2d.default
        output.args = (source, *parameters, [ends.stride, ends.stride])
    # Attention counts as random for torch, which would keep what nobody reads any more.
    module.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))


def rows_of(x: Tensor, y: Tensor, ends: Ends) -> tuple[Tensor, Tensor]:
    """Inputs and outputs of a layer as rows: [..., inputs] and [..., outputs], sample first."""
    if ends.axis == 1:
        x = x[:, :, :: ends.stride, :: ends.stride].movedim(1, -1)
        y = y.movedim(1, -1)
    return x, y


def fit_map(halves: tuple[LeastSquares, LeastSquares]) -> tuple[Tensor, Tensor, float]:
    """(M [outputs, inputs], b [outputs], squared error left of that of the prior).

    The prior is the identity, or zero where the channels differ. The error is that on the half
    that a map was not fitted to, summed over both halves: 1 means that the map is of no use.

    Raises:
        SurgeryRefused: The sums are not finite.
    """
    whole = joined(*halves)
    if not whole.yy < float("inf") or not whole.xx.isfinite().all():
        raise SurgeryRefused("No map can be fitted: values at the layer's ends are not finite.")
    inputs, outputs = len(halves[0].x), len(halves[0].y)
    prior = torch.eye(outputs, inputs, dtype=torch.float64)
    if inputs != outputs:
        prior = torch.zeros(outputs, inputs, dtype=torch.float64)
    errors = {}
    for ridge in RIDGES:
        errors[ridge] = 0.0
        for fitted, judge in (halves, halves[::-1]):
            weight, bias = fitted.solve(prior, ridge=ridge)
            assert bias is not None
            errors[ridge] += squared_error(judge, weight, bias)
    # Of strengths that do equally well the strongest: what the data cannot tell stays as it was.
    least = min(errors.values()) * (1 + 1e-6) + 1e-13 * whole.yy
    ridge = max(r for r, error in errors.items() if error <= least)
    weight, bias = whole.solve(prior, ridge=ridge)
    assert bias is not None
    before = squared_error(whole, prior, torch.zeros_like(bias))
    return weight, bias, errors[ridge] / before if before > 1e-13 * whole.yy else 1.0


def squared_error(data: LeastSquares, weight: Tensor, bias: Tensor) -> float:
    """Σ |y - W x - b|^2 over the rows a sum was made of."""
    cross = (weight * data.yx).sum()
    own = torch.einsum("oi,ij,oj->", weight, data.xx, weight)
    constant = data.rows * bias.square().sum() - 2 * bias @ (data.y - weight @ data.x)
    return max(data.yy + float(own - 2 * cross + constant), 0.0)


def joined(*parts: LeastSquares) -> LeastSquares:
    """The sums over the rows of all parts."""
    whole = LeastSquares(len(parts[0].x), len(parts[0].y))
    for part in parts:
        for name in ("rows", "xx", "yx", "x", "y", "yy"):
            setattr(whole, name, getattr(whole, name) + getattr(part, name))
    return whole


def map_values(edit: ReplaceLayer, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> dict:
    """A fitted map by the names of the new parameters."""
    if edit.form == "convolution":
        weight = weight[:, :, None, None]
    names = map_names(edit)
    return dict(zip(names, (weight.to(dtype), bias.to(dtype)), strict=True))
