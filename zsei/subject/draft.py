"""The anatomy while it is being read: parts, the sites found so far, and the finished records."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import prod

from torch import fx

from zsei.records import Component, ComponentKind
from zsei.subject.cost import flops, value_bytes
from zsei.subject.reading import (
    LAYOUT,
    Ancestry,
    Place,
    channel_axis,
    operation,
    places,
    shape,
)
from zsei.subject.types import Anatomy, Site, UnitKind


@dataclass
class Part:
    """A component while it is being put together."""

    id: str
    kind: ComponentKind
    path: str
    nodes: list[fx.Node]
    output: fx.Node
    layer: int | None = None
    parent: str | None = None
    index: int | None = None
    units: int = 0
    share: float = 1.0
    """Share of the nodes' parameters and operations that is this part's own (heads)."""


@dataclass
class Draft:
    """The anatomy while it is being read."""

    ancestry: Ancestry
    parts: dict[str, Part] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    untapped: list[Site] = field(default_factory=list)
    layers: dict[tuple[str, int], str] = field(default_factory=dict)
    """(block path, call) -> layer id."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Layer id -> running number."""
    calls: Counter[str] = field(default_factory=Counter)
    """Module path -> how often the module is called."""
    owned: dict[fx.Node, str] = field(default_factory=dict)
    """Node -> id of the part (attention, mlp, experts) that swallowed it."""

    def layer_of(self, node: fx.Node) -> str | None:
        """Id of the outermost repeated block a node stands in."""
        for place in places(node):
            found = self.layers.get((place.path, place.call))
            if found is not None:
                return found
        return None

    def add(self, part: Part) -> str:
        """File a part under its id, made unique by its call number where need be."""
        layer = part.parent if part.parent in self.numbers else self.layer_of(part.nodes[0])
        if part.kind != "layer":
            part.layer = self.numbers.get(layer) if layer else None
            part.parent = part.parent or layer
        self.parts[part.id] = part
        return part.id

    def tap(
        self, component: str, kind: UnitKind, node: fx.Node, axis: int | None, units: int = 1,
        unit_ids: tuple[str, ...] = (), source: str | None = None, unit_size: int = 1,
    ) -> None:  # fmt: skip
        """Add a site."""
        self.sites.append(
            Site(
                component=component, kind=kind, node=node.name, axis=axis, units=units,
                unit_size=unit_size, unit_ids=unit_ids or (component,), source=source,
            )
        )  # fmt: skip

    def unique(self, name: str) -> str:
        """`name`, or `name.2`, `name.3` ... when it is taken."""
        if name not in self.parts:
            return name
        number = 2
        while f"{name}.{number}" in self.parts:
            number += 1
        return f"{name}.{number}"

    def numbered(self, name: str, place: Place) -> str:
        """`name#k` for the k-th call of a module that is called more than once, else `name`."""
        return name if self.calls[place.path] < 2 else f"{name}#{place.call + 1}"

    def swallow(self, part: str, starts: Iterable[fx.Node], end: fx.Node) -> list[fx.Node]:
        """All nodes on the ways from `starts` to `end`, marked as the part's own."""
        index, starts = self.ancestry.index, set(starts)
        first = min((index[start] for start in starts), default=0)
        # Going back from the end no further than the first start: the cost is that of the part.
        behind, stack = {end}, [end]
        while stack:
            for argument in stack.pop().all_input_nodes:
                if argument not in behind and index[argument] >= first:
                    behind.add(argument)
                    stack.append(argument)
        reached: set[fx.Node] = set()
        for node in sorted(behind, key=index.__getitem__):
            if node in starts or not reached.isdisjoint(node.all_input_nodes):
                reached.add(node)
        found = [n for n in sorted(reached, key=index.__getitem__) if n not in self.owned]
        self.owned |= dict.fromkeys(found, part)
        return found


def finish(draft: Draft, family: str, parameters: set[str]) -> Anatomy:
    """The finished anatomy: parts in program order, with what they cost.

    `parameters` are the names of trainable tensors: what a batch norm has counted is none of them.
    """
    index = draft.ancestry.index
    batch = next(shape(n)[0] for n in draft.ancestry.nodes if n.op == "placeholder")
    sizes = {
        node.name: prod(shape(node)) for node in draft.ancestry.nodes if node.target in parameters
    }
    parts = sorted(
        draft.parts.values(),
        key=lambda p: (
            p.kind == "output",
            index[p.nodes[0]],
            p.kind != "layer",
            p.parent is not None,
            p.index or 0,
        ),
    )
    costs: dict[int, tuple[int, int]] = {}
    for part in parts:
        # The heads of one attention share its list of calls: counted once.
        if id(part.nodes) not in costs:
            costs[id(part.nodes)] = _cost(part.nodes, sizes)
    axes: dict[fx.Node, int] = {}
    components = tuple(_component(p, batch, costs[id(p.nodes)], axes) for p in parts)
    known = set(draft.parts)
    return Anatomy(
        components=components,
        nodes={part.id: tuple(n.name for n in part.nodes) for part in parts},
        outputs={part.id: part.output.name for part in parts},
        sites=tuple(site for site in draft.sites if site.component in known),
        family=family,
        untapped=tuple(draft.untapped),
    )


def _cost(nodes: list[fx.Node], sizes: dict[str, int]) -> tuple[int, int]:
    """(parameters, operations for the whole batch) of calls; a weight read twice counts once."""
    weights = {a.name for node in nodes for a in _constants(node) if a.name in sizes}
    return sum(sizes[w] for w in weights), sum(flops(node) for node in nodes)


def _component(
    part: Part, batch: int, cost: tuple[int, int], axes: dict[fx.Node, int]
) -> Component:  # fmt: skip
    counted = part.kind not in ("input", "output", "residual")
    width = shape(part.output)
    return Component(
        id=part.id,
        kind=part.kind,
        path=part.path,
        layer=part.layer,
        parent=part.parent,
        index=part.index,
        parameters=round(cost[0] * part.share) if counted else 0,
        flops=round(cost[1] * part.share / batch) if counted else 0,
        bytes=value_bytes(part.output) // batch,
        width=width[channel_axis(part.output, axes)] if width else 0,
        units=part.units,
    )


def _constants(node: fx.Node) -> list[fx.Node]:
    """The parameter nodes a call reads, perhaps through a transpose."""
    found = []
    for argument in node.all_input_nodes:
        while operation(argument) in LAYOUT and len(argument.all_input_nodes) == 1:
            argument = argument.all_input_nodes[0]
        if argument.op == "get_attr":
            found.append(argument)
    return found
