"""Which values are alive when: the memory a forward pass holds, from shapes alone.

A value is alive from the call that makes it to the last call that reads it. Calls that only look at
a value in another shape (transpose, slice, expand ...) make nothing: they keep the value they look
at alive. Inputs and parameters are not counted, since they are there whatever the model does.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx

from zsei.graph.traffic import owners, views
from zsei.subject.cost import value_bytes
from zsei.subject.program import Program
from zsei.subject.reading import is_float
from zsei.subject.types import Subject


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One call, and what is alive while it runs."""

    node: str
    """Name of the call."""
    held: Mapping[str, int]
    """Node that made a value -> its bytes for the whole batch."""

    @property
    def bytes(self) -> int:
        """Bytes alive in all."""
        return sum(self.held.values())


@dataclass(frozen=True, kw_only=True)
class Peak:
    """Where a forward pass holds most, and what it would hold without a component's inside."""

    bytes: int
    """Most bytes alive at once, per sample."""
    node: str
    """The call at which that is."""
    component: str
    """The component that makes the call, or whose value the call goes on with; "" for none."""
    without: Mapping[str, int]
    """Component -> peak in bytes per sample over all calls but its own."""


def moments(program: Program) -> tuple[Moment, ...]:
    """What is alive during every call of a program, in program order."""
    nodes = [node for node in program.graph_module.graph.nodes if node.op != "output"]
    order = {node: i for i, node in enumerate(nodes)}
    makers: dict[fx.Node, tuple[fx.Node, ...]] = {}
    last: dict[fx.Node, int] = {}
    end = len(nodes)
    for node in nodes:
        makers[node] = _makers(node, makers)
        readers = [order.get(user, end) for user in node.users]
        for maker in makers[node]:
            last[maker] = max(last.get(maker, 0), order[node], *readers)
    ending: dict[int, list[fx.Node]] = {}
    for maker, at in last.items():
        ending.setdefault(at, []).append(maker)
    alive: dict[fx.Node, int] = {}
    found = []
    for node in nodes:
        if node.op != "call_function":
            continue
        if makers[node] == (node,):
            alive[node] = value_bytes(node)
        found.append(Moment(node=node.name, held={n.name: size for n, size in alive.items()}))
        for maker in ending.get(order[node], ()):
            alive.pop(maker, None)
    return tuple(found)


def _makers(
    node: fx.Node, makers: Mapping[fx.Node, tuple[fx.Node, ...]]
) -> tuple[fx.Node, ...]:  # fmt: skip
    """The calls whose memory a node's value lies in; itself, unless it only looks at another's."""
    if node.op != "call_function":
        return ()
    looked_at = views(node)
    return (node,) if looked_at is None else makers[looked_at]


def peak(subject: Subject) -> Peak | None:
    """The peak of live activations; None where there is no program to read it off."""
    if subject.program is None:
        return None
    samples = subject.calibration[0].size
    owner = _attributed(subject)
    steps = moments(subject.program)
    top = max(steps, key=lambda step: step.bytes)
    most: dict[str, int] = {}
    for step in steps:
        component = owner[step.node]
        most[component] = max(most.get(component, 0), step.bytes)
    ordered = sorted(most.items(), key=lambda item: -item[1])
    first, second = [*ordered, ("", 0), ("", 0)][:2]
    without = {
        name: (second[1] if name == first[0] else first[1]) // samples for name in most if name
    }
    return Peak(
        bytes=top.bytes // samples,
        node=top.node,
        component=owner[top.node],
        without=without,
    )


def peak_without(subject: Subject, components: frozenset[str]) -> int:
    """Peak in bytes per sample over all calls that none of these components makes."""
    assert subject.program is not None
    owner = _attributed(subject)
    sizes = [s.bytes for s in moments(subject.program) if owner[s.node] not in components]
    return max(sizes, default=0) // subject.calibration[0].size


def _attributed(subject: Subject) -> dict[str, str]:
    """Node -> its component; an activation between two components counts with the first."""
    assert subject.program is not None
    owner = owners(subject)
    found: dict[str, str] = {}
    for node in subject.program.graph_module.graph.nodes:
        before = [found[a.name] for a in node.all_input_nodes if is_float(a) and found[a.name]]
        inherited = before[0] if before and node.op == "call_function" else ""
        found[node.name] = owner.get(node.name, inherited)
    return found
