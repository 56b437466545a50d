"""Facts read off single calls of a program: what they compute, where, and from what."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from zsei.subject.program import Program, strip_prefix

LINEAR = {"linear", "addmm", "mm", "matmul", "bmm"}
CONV = {
    "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d",
}  # fmt: skip
NORM = {
    "layer_norm", "native_layer_norm", "batch_norm", "_native_batch_norm_legit_no_training",
    "group_norm", "native_group_norm", "rms_norm", "_fused_rms_norm", "instance_norm",
}  # fmt: skip
BATCH_NORM = {"batch_norm", "_native_batch_norm_legit_no_training"}
CHANNEL_NORM = BATCH_NORM | {"group_norm", "native_group_norm", "instance_norm"}
POOL = {
    "max_pool1d", "max_pool2d", "max_pool3d", "max_pool2d_with_indices", "avg_pool1d", "avg_pool2d",
    "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d",
    "_adaptive_avg_pool2d",
}  # fmt: skip
RECURRENT = {
    "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
    "rnn_relu_cell",
}  # fmt: skip
EXPERTS = {"grouped_mm_fallback", "_grouped_mm", "grouped_mm"}
ATTENTION = {
    "scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_flash_attention",
}  # fmt: skip
LAYOUT = {
    "view", "reshape", "_unsafe_view", "transpose", "permute", "t", "contiguous", "clone", "alias",
    "unsqueeze", "squeeze", "flatten", "unflatten", "_to_copy", "to", "dropout", "expand", "detach",
    "getitem",
}  # fmt: skip
ACTIVATION = {
    "relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "hardtanh", "hardswish",
    "softplus", "mish", "hardsigmoid", "relu6", "celu", "selu", "prelu", "erf", "pow", "clamp",
}  # fmt: skip
ELEMENTWISE = ACTIVATION | {
    "mul", "add", "sub", "div", "neg", "exp", "dropout", "clone", "alias", "_to_copy", "to",
    "contiguous", "detach", "rsub", "sqrt", "abs", "clamp_min", "clamp_max", "square", "minimum",
    "maximum", "where", "native_dropout",
}  # fmt: skip


def operation(node: fx.Node) -> str:
    """The call's plain name: `aten.layer_norm.default` -> `layer_norm`; "" for other nodes."""
    if node.op != "call_function":
        return ""
    name = getattr(node.target, "_schema", None)
    if name is not None:
        return name.name.split("::")[-1]
    return getattr(node.target, "__name__", str(node.target))


def value(node: fx.Node) -> Tensor | None:
    """The fake tensor a node produces (shape and dtype only), or None for tuples and the like."""
    found = node.meta.get("val")
    return found if isinstance(found, Tensor) else None


def shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's value; () when it is no tensor."""
    found = value(node)
    return () if found is None else tuple(found.shape)


def is_float(node: fx.Node) -> bool:
    """Whether the node's value is a floating point tensor."""
    found = value(node)
    return found is not None and found.is_floating_point()


@dataclass(frozen=True, kw_only=True)
class Place:
    """One call of one module: its path in the user's model, its class, and which call it is."""

    path: str
    call: int
    """0 for the first call of a shared module, 1 for the second, and so on."""
    class_name: str


def places(node: fx.Node) -> tuple[Place, ...]:
    """The module calls a node stands in, outermost first, without the wrapper itself."""
    found = []
    for key, (path, class_name) in (node.meta.get("nn_module_stack") or {}).items():
        clean = strip_prefix(path)
        if path in ("", "model"):
            clean = ""
        suffix = key.rsplit("@", 1)
        call = int(suffix[1]) if len(suffix) == 2 and suffix[1].isdigit() else 0
        label = class_name if isinstance(class_name, str) else class_name.__name__
        found.append(Place(path=clean, call=call, class_name=label.rsplit(".", 1)[-1]))
    return tuple(place for place in found if place.path)


def owner(node: fx.Node) -> Place:
    """The innermost module call a node stands in."""
    stack = places(node)
    return stack[-1] if stack else Place(path="", call=0, class_name="")


def parameter_names(node: fx.Node) -> tuple[str, ...]:
    """Names, in the user's model, of the parameters and buffers a call reads directly.

    A weight that is only transposed or cast on its way counts as read directly.
    """
    names = []
    for argument in node.all_input_nodes:
        while operation(argument) in LAYOUT and len(argument.all_input_nodes) == 1:
            argument = argument.all_input_nodes[0]
        if argument.op == "get_attr":
            names.append(strip_prefix(str(argument.target)))
    return tuple(names)


def channel_axis(node: fx.Node, known: dict[fx.Node, int] | None = None) -> int:
    """Axis of a value's channels: 1 behind convolutions, pooling and batch norm, else the last.

    Element-wise calls keep the axis of what they read; images that come in have it at 1.

    Args:
        node: The value.
        known: Axes told before, added to: along a residual stream each is then one step.
    """
    known = {} if known is None else known
    passed = []
    while node not in known:
        passed.append(node)
        name = operation(node)
        if name in CONV or name in POOL or name in CHANNEL_NORM:
            known[node] = 1
            break
        following = [a for a in node.all_input_nodes if shape(a) == shape(node)]
        if name == "getitem":
            following = node.all_input_nodes
        if name not in ELEMENTWISE | {"getitem"} or not following:
            known[node] = 1 if node.op == "placeholder" and len(shape(node)) == 4 else -1
            break
        node = following[0]
    axis = known[node]
    known |= dict.fromkeys(passed, axis)
    return axis


def is_weighted(node: fx.Node) -> bool:
    """Whether a call mixes channels: products with weights, convolutions, attention, recurrence."""
    name = operation(node)
    if name in LINEAR:
        return True
    return name in CONV or name in ATTENTION or name in RECURRENT or name in EXPERTS


class Ancestry:
    """Who is computed from whom, as bit sets over program order."""

    def __init__(self, program: Program):
        self.nodes: list[fx.Node] = list(program.graph_module.graph.nodes)
        self.index: Mapping[fx.Node, int] = {node: i for i, node in enumerate(self.nodes)}
        self.bits: list[int] = []
        for node in self.nodes:
            bits = 0
            for argument in node.all_input_nodes:
                i = self.index[argument]
                bits |= self.bits[i] | (1 << i)
            self.bits.append(bits)
        self.weighted = sum(1 << i for i, node in enumerate(self.nodes) if is_weighted(node))
        self.inputs = sum(1 << i for i, node in enumerate(self.nodes) if node.op == "placeholder")

    def computed_from(self, node: fx.Node, ancestor: fx.Node) -> bool:
        """Whether `node` is computed from `ancestor`."""
        return bool(self.bits[self.index[node]] >> self.index[ancestor] & 1)

    def common(self, first: fx.Node, second: fx.Node) -> fx.Node | None:
        """The latest value, not a parameter, that both are computed from (or are)."""
        i, j = self.index[first], self.index[second]
        bits = (self.bits[i] | 1 << i) & (self.bits[j] | 1 << j)
        while bits:
            top = bits.bit_length() - 1
            node = self.nodes[top]
            if is_float(node) and node.op != "get_attr" and not self._constant(top):
                return node
            bits &= ~(1 << top)
        return None

    def weighted_between(self, ancestor: fx.Node, node: fx.Node) -> int:
        """How many channel-mixing calls lie on the ways from `ancestor` (excluded) to `node`."""
        start, end = self.index[ancestor], self.index[node]
        candidates = (self.bits[end] | 1 << end) & self.weighted
        candidates &= ~((1 << (start + 1)) - 1)
        count = 0
        while candidates:
            top = candidates.bit_length() - 1
            if self.bits[top] >> start & 1:
                count += 1
            candidates &= ~(1 << top)
        return count

    def _constant(self, i: int) -> bool:
        """Whether nothing the user put in reaches node i."""
        bits = self.bits[i] | 1 << i
        return not bits & self.inputs


@dataclass(frozen=True, kw_only=True)
class Residual:
    """An add that joins a stream with something computed from it."""

    node: fx.Node
    skip: fx.Node
    branch: fx.Node


def find_residuals(ancestry: Ancestry) -> tuple[Residual, ...]:
    """All residual joins, in program order.

    A join is `add(a, b)` of two equally shaped floating point tensors where one is computed from
    the other through at least one channel-mixing call, or where both come from one value, one by
    two or more mixing calls and the other by at most one (a projected or subsampled shortcut).
    """
    found = []
    for node in ancestry.nodes:
        if operation(node) != "add" or len(node.all_input_nodes) != 2:
            continue
        first, second = node.all_input_nodes
        if not (is_float(first) and is_float(second) and shape(first) == shape(second)):
            continue
        if len(shape(node)) < 2:
            continue
        origin = ancestry.common(first, second)
        if origin is None:
            continue
        a = ancestry.weighted_between(origin, first)
        b = ancestry.weighted_between(origin, second)
        skip, branch = (first, second) if a < b else (second, first)
        if (min(a, b) == 0 and max(a, b) >= 1) or (min(a, b) == 1 and max(a, b) >= 2):
            found.append(Residual(node=node, skip=skip, branch=branch))
    return tuple(found)


def layer_paths(residuals: Iterable[Residual], ancestry: Ancestry) -> dict[str, str]:
    """Paths of the repeated blocks, each with its class name.

    A block is the innermost numbered module around a residual join whose numbered siblings are all
    of one class (`encoder.layer.3`; not T5's `block.0.layer.1`, whose siblings differ).
    """
    classes: dict[str, str] = {}
    for node in ancestry.nodes:
        for place in places(node):
            classes[place.path] = place.class_name
    siblings: dict[str, set[str]] = {}
    for path, class_name in classes.items():
        prefix, _, number = path.rpartition(".")
        if number.isdigit():
            siblings.setdefault(prefix, set()).add(class_name)
    found: dict[str, str] = {}
    for residual in residuals:
        for place in reversed(places(residual.node)):
            prefix, _, number = place.path.rpartition(".")
            if not number.isdigit():
                continue
            if len(siblings[prefix]) == 1:
                found.setdefault(place.path, place.class_name)
                break
    return found
