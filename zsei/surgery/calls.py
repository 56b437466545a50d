"""Single calls of a program: arguments by name, the values they give, how to name them in words."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, fx, nn

from zsei.errors import SurgeryRefused
from zsei.subject.reading import owner, shape


def arguments(node: fx.Node) -> dict[str, Any]:
    """All arguments of an ATen call by their schema's names, defaults included."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {str(i): argument for i, argument in enumerate(node.args)}
    found = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(node.args):
            found[argument.name] = node.args[i]
        elif argument.name in node.kwargs:
            found[argument.name] = node.kwargs[argument.name]
        else:
            found[argument.name] = argument.default_value
    return found


def set_arguments(node: fx.Node, changed: Mapping[str, Any]) -> None:
    """Replace arguments of an ATen call by name."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
    for name, value in changed.items():
        position = names.index(name)
        if position < len(node.args):
            node.update_arg(position, value)
        else:
            node.update_kwarg(name, value)


def results(node: fx.Node) -> dict[int, fx.Node]:
    """The tensors a call gives: itself, or what is taken out of the tuple it returns, by place."""
    if not isinstance(node.meta.get("val"), tuple | list):
        return {0: node}
    taken = {}
    for user in node.users:
        if user.op == "call_function" and len(user.args) == 2 and user.args[0] is node:
            place = user.args[1]
            assert isinstance(place, int)
            taken[place] = user
    return taken


def is_taken(node: fx.Node) -> bool:
    """Whether a node only takes one value out of the tuple another call returned."""
    source = node.args[0] if node.args else None
    many = isinstance(source, fx.Node) and isinstance(source.meta.get("val"), tuple | list)
    return many and getattr(node.target, "__name__", "") == "getitem"


def tensor_of(module: nn.Module, node: fx.Node) -> Tensor:
    """The parameter or buffer that a `get_attr` node reads."""
    path, _, name = str(node.target).rpartition(".")
    return getattr(module.get_submodule(path), name)


def describe(node: fx.Node) -> str:
    """A call in words: `aten.layer_norm.default` in `encoder.layer.0` on [2, 8, 32]."""
    path = owner(node).path
    where = f" in `{path}`" if path else ""
    first = next((a for a in node.all_input_nodes if shape(a)), node)
    label = node.target if node.op == "call_function" else f"{node.op} `{node.name}`"
    return f"`{label}`{where} on {list(shape(first))}"


def refuse(node: fx.Node, reason: str) -> SurgeryRefused:
    """The refusal of an edit that a call stands in the way of."""
    return SurgeryRefused(f"{describe(node)} (value `{node.name}`) {reason}")
