"""One model as one flat, functional graph of ATen calls.

`torch.export` gives the graph; functionalisation removes in-place calls, so that every value can be
kept, replaced and differentiated by its node's name. The graph returns one tensor: the model's
main output (`pick_output`).
"""

import copy
import hashlib
import inspect
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsei.errors import ExportError, ModelError
from zsei.subject.streamed import ReleasingInterpreter, hand_on, mapped_weights, release

OUTPUT_FIELDS = (
    "logits", "prediction_outputs", "prediction_logits", "last_hidden_state", "text_embeds",
    "pooler_output", "start_logits",
)  # fmt: skip
"""Fields of a structured output, in the order in which the first present one is taken."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """A model as a functional graph with one tensor output."""

    graph_module: fx.GraphModule
    """Placeholders are the inputs in order; `get_attr` nodes are parameters and buffers, named
    `model.<name in the user's model>`; each call's `meta["val"]` holds its shape and dtype."""
    input_names: tuple[str, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The main output for inputs of the exported shape."""
        if mapped_weights(self.graph_module) is not None:
            return ReleasingInterpreter(self.graph_module).run(*inputs)
        return self.graph_module(*inputs)

    def node(self, name: str) -> fx.Node:
        """The node of this name."""
        for node in self.graph_module.graph.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


def pick_output(output: Any) -> Tensor:
    """The main tensor of whatever a model returned: itself, a known field, or the first tensor."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        for field in OUTPUT_FIELDS:
            if isinstance(output.get(field), Tensor):
                return output[field]
        output = list(output.values())
    if isinstance(output, Sequence):
        for value in output:
            if isinstance(value, Tensor) and value.is_floating_point():
                return value
        for value in output:
            if isinstance(value, Sequence | Mapping) and not isinstance(value, str):
                return pick_output(value)
    raise ModelError(
        f"A model must return a floating point tensor, or a tuple, mapping or model output that "
        f"holds one; this one returned {type(output).__name__}. Wrap it in a module that does."
    )


class MainOutput(nn.Module):
    """Calls a model with tensors by name and returns its main output."""

    def __init__(self, model: nn.Module, input_names: Sequence[str]):
        super().__init__()
        self.model = model
        self.input_names = tuple(input_names)
        accepted = inspect.signature(model.forward).parameters
        self.by_position = not all(name in accepted for name in input_names)
        # A cache of keys and values is state that one forward pass does not need.
        self.extra = {"use_cache": False} if "use_cache" in accepted else {}

    def forward(self, *inputs: Tensor) -> Tensor:
        """The model's main output for its inputs in order."""
        if self.by_position:
            return pick_output(self.model(*inputs, **self.extra))
        named = dict(zip(self.input_names, inputs, strict=True))
        return pick_output(self.model(**named, **self.extra))


def frozen_twin(model: nn.Module) -> nn.Module:
    """A copy of the module tree in eval mode that shares, but cannot train, the user's weights.

    Parameters and buffers are aliases without gradient: no memory is doubled, and neither the mode
    nor the hooks nor the `requires_grad` flags of the user's model are touched.
    """
    memo: dict[int, Any] = {}
    for tensor in [*model.parameters(), *model.buffers()]:
        alias = tensor.detach()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(alias, requires_grad=False) if is_parameter else alias
    return copy.deepcopy(model, memo).eval()


def export(
    model: nn.Module,
    input_names: Sequence[str],
    inputs: Sequence[Tensor],
    *,
    dynamic: bool = False,
) -> Program:
    """Export a model at the shapes of `inputs` as one functional program.

    Args:
        model: The model, in eval mode (see `frozen_twin`).
        input_names: Names of forward's arguments.
        inputs: One tensor per name; axis 0 is the sample.
        dynamic: Keep sizes symbolic where the model allows it, so that the program also runs other
            batch sizes and lengths. Used for saving; analysis wants plain numbers.

    Raises:
        ExportError: With the reason, when control flow depends on data and the like.
    """
    call = MainOutput(model, input_names).eval()
    shapes = None
    if dynamic:
        auto = torch.export.Dim.AUTO
        shapes = {"inputs": tuple(dict.fromkeys(range(t.ndim), auto) for t in inputs)}
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    # A graph that cannot be had is reported by the exception; torch also logs it, at length.
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        quiet = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
        with warnings.catch_warnings(), torch.no_grad(), quiet[0], quiet[1]:
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                call, tuple(inputs), dynamic_shapes=shapes, strict=False
            ).run_decompositions({})
            module = exported.module(check_guards=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"torch.export must see the model as one graph; it stopped with "
            f"{type(error).__name__}: {reason[:300]}. Control flow that depends on data is the "
            f"usual cause."
        ) from error
    finally:
        logging.disable(logged)
        torch.backends.mha.set_fastpath_enabled(fastpath)
    assert isinstance(module, fx.GraphModule)
    hand_on(model, module)
    return Program(graph_module=_clean(module), input_names=tuple(input_names))


def _clean(module: fx.GraphModule) -> fx.GraphModule:
    """Drop assertions and dead calls, and let views be reshapes.

    A view demands strides that another attention kernel (one chosen because gradients are wanted,
    or because heads are fewer) need not give; a reshape is the same value whatever the strides.
    """
    aten = torch.ops.aten
    for node in list(module.graph.nodes):
        if node.op != "call_function":
            continue
        if "_assert" in str(node.target):
            module.graph.erase_node(node)
        elif node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default
    module.graph.eliminate_dead_code()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    module.recompile()
    return module


def strip_prefix(name: str) -> str:
    """A parameter or module path in the user's model, without the wrapper's `model.`."""
    return "" if name == "model" else name.removeprefix("model.")


def parameter_count(model: nn.Module) -> int:
    """Numbers in a model's parameters, tied ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_hash(model: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all parameters and buffers."""
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        value = tensor.detach().to("cpu").contiguous()
        hasher.update(f"{name}:{tuple(value.shape)}:{value.dtype}".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy().data)
        release(model, (tensor,))
    return hasher.hexdigest()
