"""Work, span and steps of a program: how much of it has to happen one thing after the other.

Work is what all calls do, span what the heaviest chain of calls that need one another does. Calls
are taken as indivisible here: inside one a machine finds its own parallel work.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from torch import fx

from zsei.graph.traffic import views
from zsei.subject.cost import flops
from zsei.subject.program import Program
from zsei.subject.reading import RECURRENT, Ancestry, is_weighted, operation, shape, value
from zsei.subject.types import Subject


@dataclass(frozen=True, kw_only=True)
class Span:
    """Work and span of a set of calls, for one batch."""

    work: int
    """Operations of all calls: those of `flops`, and one per entry of every value made."""
    span: int
    """Operations of the heaviest chain."""
    steps: int
    """Most calls one after the other; a recurrent call counts once per time step and layer."""
    calls: int

    @property
    def parallelism(self) -> float:
        """Work over span: how many calls could run at once on average, 1 for a chain."""
        return self.work / self.span if self.span else 1.0


@dataclass(frozen=True, kw_only=True)
class Recurrence:
    """A weight read again and again, each time on what came of the time before."""

    weight: str
    nodes: tuple[str, ...]
    """The products on the chain, in order; one for a recurrent call that loops inside."""
    steps: int
    operations: int
    """Operations for one batch of all products that wait for an earlier one."""
    rows: int
    """Rows per sample that one step handles."""


def operations(node: fx.Node) -> int:
    """Operations of a call for one batch: `flops`, and one per entry it makes."""
    if node.op != "call_function" or views(node) is not None:
        return 0
    found = value(node)
    return flops(node) + (found.numel() if found is not None else 0)


def sequential_steps(node: fx.Node) -> int:
    """Steps a call takes that need one another: 1, but layers x time steps in a recurrent one."""
    name = operation(node)
    if name not in RECURRENT or name.endswith("_cell"):
        return 1
    # Signature: input, state, weights, has_biases, layers, dropout, train, bidirectional, first.
    layers, first = node.args[4], node.args[8]
    assert isinstance(layers, int)
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return layers * shape(source)[1 if first else 0]


def span(program: Program, members: Iterable[str] | None = None) -> Span:
    """Work and span of a program, or of some of its calls by name."""
    wanted = None if members is None else set(members)
    heaviest: dict[fx.Node, int] = {}
    deepest: dict[fx.Node, int] = {}
    work = calls = 0
    for node in program.graph_module.graph.nodes:
        own = operations(node) if wanted is None or node.name in wanted else 0
        before = [a for a in node.all_input_nodes if a in heaviest]
        heaviest[node] = own + max((heaviest[a] for a in before), default=0)
        taken = sequential_steps(node) if own else 0
        deepest[node] = taken + max((deepest[a] for a in before), default=0)
        work += own
        calls += own > 0
    return Span(
        work=work,
        span=max(heaviest.values(), default=0),
        steps=max(deepest.values(), default=0),
        calls=calls,
    )


def recurrences(subject: Subject, least: int) -> tuple[Recurrence, ...]:
    """Weights read in a chain of at least `least` products, longest chain first.

    A chain is a series of products with one and the same parameter in which each is computed from
    the one before it; recurrent calls loop over time inside.
    """
    if subject.program is None:
        return ()
    ancestry = Ancestry(subject.program)
    samples = subject.calibration[0].size
    readers: dict[str, list[fx.Node]] = {}
    found: list[Recurrence] = []
    for node in ancestry.nodes:
        if not is_weighted(node):
            continue
        names = [str(a.target) for a in node.all_input_nodes if a.op == "get_attr"]
        if sequential_steps(node) > 1:
            found.append(
                Recurrence(
                    weight=names[0] if names else node.name, nodes=(node.name,),
                    steps=sequential_steps(node), operations=_looped(node), rows=1,
                )
            )  # fmt: skip
        for argument in node.all_input_nodes:
            if argument.op == "get_attr" and len(shape(argument)) > 1:
                readers.setdefault(str(argument.target), []).append(node)
    for weight, nodes in readers.items():
        chain = _longest_chain(nodes, ancestry)
        if len(chain) >= 2:
            rows = max(prod(shape(n)[:-1]) for n in chain) // samples
            waiting = sum(flops(n) for n in nodes if _waits(n, nodes, ancestry))
            found.append(
                Recurrence(
                    weight=weight, nodes=tuple(n.name for n in chain), steps=len(chain),
                    operations=waiting, rows=rows,
                )
            )  # fmt: skip
    return tuple(sorted((r for r in found if r.steps >= least), key=lambda r: (-r.steps, r.weight)))


def _looped(node: fx.Node) -> int:
    """Operations of a recurrent call that wait for the time step before.

    The weights of a layer and direction are those on its inputs, those on its state and, where it
    has one, its projection. What is done to the inputs waits for nothing, nor does the first step.
    """
    source, weights, first = node.args[0], node.args[2], node.args[8]
    assert isinstance(source, fx.Node)
    assert isinstance(weights, list | tuple)
    sizes = [shape(w) for w in weights if isinstance(w, fx.Node) and len(shape(w)) == 2]
    # A projection is wider than it is high and follows every pair.
    each = 3 if len(sizes) > 2 and sizes[0][0] == sizes[1][0] != sizes[2][0] else 2
    each = each if len(sizes) % each == 0 else 2
    waiting = sum(prod(size) for i, size in enumerate(sizes) if i % each)
    rows, steps = prod(shape(source)[:-1]), shape(source)[1 if first else 0]
    return 2 * waiting * rows // steps * (steps - 1)


def _waits(node: fx.Node, nodes: list[fx.Node], ancestry: Ancestry) -> bool:
    return any(ancestry.computed_from(node, other) for other in nodes)


def _longest_chain(nodes: list[fx.Node], ancestry: Ancestry) -> list[fx.Node]:
    """The longest series among `nodes`, in program order, each computed from the one before."""
    best: dict[fx.Node, list[fx.Node]] = {}
    for node in nodes:
        before = [best[o] for o in best if ancestry.computed_from(node, o)]
        best[node] = [*max(before, key=len, default=[]), node]
    return max(best.values(), key=len, default=[])
