"""What reads the units that were cut: the calls whose weights can make up for them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import fx

from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import CONV, LAYOUT, operation, shape
from zsei.surgery.calls import arguments

Cuts = Mapping[str, Mapping[int, tuple[int, ...]]]
"""Parameter name -> axis -> removed entries."""
PASSING = LAYOUT | {"dropout", "native_dropout"}


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A linear or convolution that lost inputs, in an edited program."""

    node: str
    """The call, by the same name in the original and in the edited program."""
    source: str
    """The value it reads."""
    weight_node: str
    """The node that reads its weight."""
    weight: str
    """Its weight, by its name in the user's model."""
    bias: str | None
    """Its bias likewise; None where it has none of its own."""
    transposed: bool
    """Whether the weight is [inputs, outputs]."""
    join: str | None
    """The residual sum it writes into, where there is one."""
    skip: str | None
    """What else enters that sum."""
    fresh: bool = False
    """Whether it is new, in a layer's place: its weight then starts from the identity, not from
    what it is."""


def find_readers(program: Program, cut: Cuts) -> tuple[list[Reader], int]:
    """The calls that read fewer inputs than before, in program order, and how many were left out.

    Left out are calls whose weight is read in several places, is computed, or has groups: one new
    value could not serve them, or is not found by least squares alone.

    Args:
        program: The edited program.
        cut: Parameter name -> axis -> what went of it.
    """
    found: list[Reader] = []
    missed = 0
    for node in program.graph_module.graph.nodes:
        given = _weighted(node)
        if given is None or (0 if given[2] else 1) not in cut.get(_name(given[1]), {}):
            continue
        reader = _reader(node, *given)
        missed += reader is None
        found += [] if reader is None else [reader]
    return found, missed


def find_maps(program: Program, names: Iterable[str]) -> list[Reader]:
    """The maps that stand in the place of layers, by the names of their weights.

    What such a map should give is what the layer gave, residual stream and all.
    """
    wanted = set(names)
    found: list[Reader] = []
    for node in program.graph_module.graph.nodes:
        given = _weighted(node)
        reader = _reader(node, *given) if given and _name(given[1]) in wanted else None
        found += [] if reader is None else [replace(reader, join=None, skip=None, fresh=True)]
    return found


def _name(weight: fx.Node) -> str:
    return strip_prefix(str(weight.target))


def _weighted(node: fx.Node) -> tuple[fx.Node, fx.Node, bool] | None:
    """(what it reads, its weight, whether that is [inputs, outputs]) of a linear or convolution."""
    name = operation(node)
    if name not in ("linear", "addmm", "mm", "matmul") and name not in CONV:
        return None
    given = arguments(node)
    source = given.get("input", given.get("mat1", given.get("self")))
    weight = given.get("weight", given.get("mat2", given.get("other")))
    turned = name in ("addmm", "mm", "matmul") or "transpose" in name
    while isinstance(weight, fx.Node) and operation(weight) in ("t", "transpose"):
        turned, weight = not turned, weight.all_input_nodes[0]
    if not isinstance(weight, fx.Node) or not isinstance(source, fx.Node):
        return None
    return (source, weight, turned) if weight.op == "get_attr" else None


def _reader(node: fx.Node, source: fx.Node, weight: fx.Node, turned: bool) -> Reader | None:
    name = operation(node)
    given = arguments(node)
    turns = [user for user in weight.users if user is not node]
    private = len(weight.users) == 1 and all(len(turn.users) == 1 for turn in turns)
    spread = "transpose" in name or given.get("transposed") or given.get("groups", 1) != 1
    if not private or spread or len(shape(weight)) not in (2, 4):
        return None
    bias = given.get("self") if name == "addmm" else given.get("bias")
    own = isinstance(bias, fx.Node) and bias.op == "get_attr" and len(bias.users) == 1
    join, skip = _join(node)
    return Reader(
        node=node.name,
        source=source.name,
        weight_node=weight.name,
        weight=_name(weight),
        bias=_name(bias) if own and isinstance(bias, fx.Node) else None,
        transposed=turned,
        join=join,
        skip=skip,
    )


def _join(node: fx.Node) -> tuple[str | None, str | None]:
    """The sum a call writes into through passing calls of its own shape, and the other summand."""
    here = node
    while len(here.users) == 1:
        user = next(iter(here.users))
        if operation(user) == "add":
            others = [a for a in user.all_input_nodes if a is not here]
            if len(others) == 1 and shape(others[0]) == shape(user) == shape(node):
                return user.name, others[0].name
            return None, None
        if operation(user) not in PASSING or shape(user) != shape(here):
            return None, None
        here = user
    return None, None
