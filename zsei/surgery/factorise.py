"""Low-rank factorisation: a linear becomes two thin ones, fitted to the data that it sees.

Of all products A B of rank r, the fitted one comes nearest to W on the calibration data: it
minimises |(W - A B) C^(1/2)| with C the covariance of the linear's inputs (the second moment where
there is no bias to take up the mean). With W C^(1/2) = U S V^T the answer is A = U_r, B = U_r^T W:
the outputs' first r principal directions, and what W writes into them. Without data C is the unit
matrix and it is the truncated SVD. References: Eckart and Young, 1936; Yuan et al., "ASVD", 2023;
Wang et al., "SVD-LLM", 2024.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from zsei.errors import SurgeryRefused
from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import operation, shape
from zsei.surgery.calls import arguments, refuse, tensor_of
from zsei.surgery.edits import Edit, FactoriseLinear
from zsei.surgery.least_squares import LeastSquares

UNSEEN = 1e-10
"""Variance, as a share of the mean input variance, that directions the data does not show count
with: enough to order them, too little to matter beside those it shows."""


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear call: y = x W^T + b, with a weight that nothing else reads."""

    source: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    path: str
    """Of the module that holds the weight, in the user's model."""
    turned: bool
    """Whether the weight is [inputs, outputs]."""

    def matrix(self, module: nn.Module) -> Tensor:
        """The weight as [outputs, inputs]."""
        weight = tensor_of(module, self.weight).detach()
        return weight.T if self.turned else weight

    def bias_name(self) -> str | None:
        """The bias's name in the user's model; None where it has none of its own."""
        if self.bias is None or strip_prefix(str(self.bias.target)) != f"{self.path}.bias":
            return None
        return f"{self.path}.bias"


def linear_of(node: fx.Node) -> Linear | None:
    """What a call multiplies with what, when it is a linear with a module's own weight."""
    name = operation(node)
    given = arguments(node)
    if name == "linear":
        source, weight, bias, turned = given["input"], given["weight"], given["bias"], False
    elif name == "addmm" and given["beta"] == given["alpha"] == 1:
        source, weight, bias, turned = given["mat1"], given["mat2"], given["self"], True
    else:
        return None
    if not isinstance(weight, fx.Node) or not isinstance(source, fx.Node):
        return None
    path, _, leaf = strip_prefix(str(weight.target)).rpartition(".")
    if weight.op != "get_attr" or leaf != "weight" or len(shape(weight)) != 2:
        return None
    own = isinstance(bias, fx.Node) and bias.op == "get_attr"
    if bias is not None and not own:
        return None
    return Linear(source=source, weight=weight, bias=bias, path=path, turned=turned)


def linear_at(module: fx.GraphModule, edit: FactoriseLinear) -> tuple[fx.Node, Linear]:
    """The call an edit means, and what it is.

    Raises:
        SurgeryRefused: When it is no linear with a weight of its own, or would get no smaller.
    """
    node = next((n for n in module.graph.nodes if n.name == edit.site.node), None)
    if node is None:
        raise SurgeryRefused(f"`{edit.site.component}` has no call in the edited program.")
    linear = linear_of(node)
    if linear is None:
        raise refuse(node, "is no linear with a weight [o, i] of its own; only those factorise")
    outputs, inputs = linear.matrix(module).shape
    if not edit.rank >= 1 or edit.rank * (outputs + inputs) >= outputs * inputs:
        most = (outputs * inputs - 1) // (outputs + inputs)
        raise refuse(
            node, f"has {outputs} x {inputs} weights, which two factors of rank {edit.rank} do not "
            f"make fewer: `{edit.site.component}` takes ranks 1 to {most}."
        )  # fmt: skip
    return node, linear


def factor_names(program: Program, edit: FactoriseLinear) -> tuple[str, str]:
    """Names of the factors B [r, i] and A [o, r] in the user's model."""
    _, linear = linear_at(program.graph_module, edit)
    return f"{linear.path}.0.weight", f"{linear.path}.1.weight"


def renamed(program: Program, edits: Iterable[Edit]) -> dict[str, str]:
    """Biases of factorised linears: old name -> new name."""
    found = {}
    for edit in edits:
        if isinstance(edit, FactoriseLinear):
            _, linear = linear_at(program.graph_module, edit)
            if linear.bias_name() is not None:
                found[f"{linear.path}.bias"] = f"{linear.path}.1.bias"
    return found


def factorise_calls(module: fx.GraphModule, edit: FactoriseLinear) -> None:
    """Put two thin linears in the place of each call that reads the weight; factors are zero.

    Args:
        module: A copy of our own; it is changed.
        edit: Its site names a call of this graph.
    """
    _, linear = linear_at(module, edit)
    tensor = tensor_of(module, linear.weight)
    reads = [n for n in module.graph.nodes if n.op == "get_attr" and tensor_of(module, n) is tensor]
    calls: list[tuple[fx.Node, Linear]] = []
    for user in dict.fromkeys(user for read in reads for user in read.users):
        other = linear_of(user)
        if (
            other is None
            or other.weight not in reads
            or user.all_input_nodes.count(other.weight) != 1
        ):
            raise refuse(user, f"also reads the weight of `{edit.site.component}`.")
        calls.append((user, other))
    weight = linear.matrix(module)
    outputs, inputs = weight.shape
    down, up = f"model.{linear.path}.0.weight", f"model.{linear.path}.1.weight"
    put_parameter(module, down, weight.new_zeros(edit.rank, inputs))
    put_parameter(module, up, weight.new_zeros(outputs, edit.rank))
    bias = linear.bias_name()
    if bias is not None and linear.bias is not None:
        value = tensor_of(module, linear.bias)
        put_parameter(module, f"model.{linear.path}.1.bias", value)
    linear_call = torch.ops.aten.linear.default
    graph = module.graph
    for call, own in calls:
        with graph.inserting_before(call):
            first, second = graph.get_attr(down), graph.get_attr(up)
            added = own.bias
            if own.bias_name() is not None:
                added = graph.get_attr(f"model.{linear.path}.1.bias")
            middle = graph.call_function(linear_call, (own.source, first))
        for new in (first, second, middle, *((added,) if added is not None else ())):
            new.meta.setdefault("nn_module_stack", call.meta.get("nn_module_stack", {}))
        call.target, call.args, call.kwargs = linear_call, (middle, second, added), {}


def put_parameter(module: nn.Module, name: str, value: Tensor) -> None:
    """Add a parameter under a dotted name, making the modules on the way.

    Raises:
        SurgeryRefused: When the name is taken.
    """
    path, _, leaf = name.rpartition(".")
    for part in path.split("."):
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    if hasattr(module, leaf):
        raise SurgeryRefused(f"The model already has a `{name}`, so the edit cannot bring one.")
    module.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=False))


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """How a linear's outputs spread over directions of their own, strongest first."""

    directions: Tensor
    """U [o, k], orthonormal."""
    energy: Tensor
    """Variance (mean square, without a bias) of the outputs along each, [k], falling."""

    def rank_for(self, kept: float) -> int:
        """The fewest directions that hold this share of the outputs' energy, 0 < kept <= 1."""
        total = float(self.energy.sum())
        if total <= 0:
            return 1
        share = self.energy.cumsum(0) / total
        # What directions count with that the data does not show, and rounding, is no energy.
        return min(int((share < kept - 1e-8).sum()) + 1, len(share))


def spectrum(weight: Tensor, data: LeastSquares | None, *, centred: bool) -> Spectrum:
    """The directions of W C^(1/2).

    Args:
        weight: W [o, i].
        data: Sums over the inputs, of which C is made; None: C is the unit matrix.
        centred: Whether a bias takes up the mean, so that C is the covariance.
    """
    root = weight.double()
    if data is not None and data.rows:
        moment = data.xx / data.rows
        if centred:
            moment = moment - torch.outer(data.x, data.x) / data.rows**2
        floor = UNSEEN * float(moment.diagonal().mean().clamp_min(1e-12))
        values, vectors = torch.linalg.eigh(moment)
        root = root @ (vectors * (values.clamp_min(0) + floor).sqrt())
    directions, sizes, _ = torch.linalg.svd(root, full_matrices=False)
    return Spectrum(directions=directions, energy=sizes.square())


def factors(
    linear: Linear, program: Program, rank: int, data: LeastSquares | None
) -> dict[str, Tensor]:
    """New values by their names in the user's model: B [r, i], A [o, r] and, with data, the bias.

    The bias takes up what the factors lose of the mean: b + (W - A B) mean(x).
    """
    weight = linear.matrix(program.graph_module).double()
    bias = linear.bias_name()
    found = spectrum(weight, data, centred=bias is not None)
    up = found.directions[:, :rank]
    down = up.T @ weight
    new = {f"{linear.path}.0.weight": down, f"{linear.path}.1.weight": up}
    if bias is not None and linear.bias is not None and data is not None and data.rows:
        old = tensor_of(program.graph_module, linear.bias).double()
        new[f"{linear.path}.1.bias"] = old + (weight - up @ down) @ (data.x / data.rows)
    dtype = tensor_of(program.graph_module, linear.weight).dtype
    return {name: value.to(dtype).contiguous() for name, value in new.items()}


def fit_factors(
    program: Program, edits: Sequence[FactoriseLinear], data: Mapping[str, LeastSquares]
) -> dict[str, Tensor]:
    """New values for all linears to factorise.

    Args:
        program: The unedited program.
        edits: Their sites name its calls.
        data: Name of the value a linear reads -> sums over its rows; those missing are fitted
            without data.
    """
    found: dict[str, Tensor] = {}
    for edit in edits:
        _, linear = linear_at(program.graph_module, edit)
        found |= factors(linear, program, edit.rank, data.get(linear.source.name))
    return found
