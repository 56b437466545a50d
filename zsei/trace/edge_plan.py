"""What the edges of a program are worked out from, found once per subject."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, fx

from zsei.subject.reading import Ancestry
from zsei.subject.types import Anatomy
from zsei.trace.edge_program import ProgramEdge, find_program_edges, program_taps
from zsei.trace.edge_readers import Reader, find_readers
from zsei.trace.edge_stream import Stream
from zsei.trace.edge_values import WholeTaps, whole_taps
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.writers import find_stream


@dataclass(frozen=True, kw_only=True)
class EdgePlan:
    """The streams of a program and who reads them; the program's own edges where there is none."""

    stream: Stream = field(default_factory=Stream)
    readers: tuple[Reader, ...] = ()
    program_edges: tuple[ProgramEdge, ...] = ()
    taps: WholeTaps = field(default_factory=WholeTaps)
    notes: tuple[str, ...] = ()
    """Readings that cannot be told apart."""


def plan_edges(
    anatomy: Anatomy,
    ancestry: Ancestry,
    engine: ProgramEngine,
    joins: Iterable[str],
    heads: Mapping[str, tuple[str, tuple[str, ...], Tensor]],
    attended: Iterable[fx.Node] = (),
) -> EdgePlan:
    """Find the streams and their readers, or the edges of a program that has none.

    Args:
        anatomy: Components and the nodes they own.
        ancestry: The program's nodes.
        engine: Has the weights.
        joins: Nodes that add a branch to the stream.
        heads: Attention -> (node of its heads, their ids, output projection [h, w, d]).
        attended: Queries, keys, values and masks to keep beside.
    """
    stream = find_stream(anatomy, ancestry.nodes, engine.constants, tuple(joins), heads)
    readers, notes = find_readers(anatomy, ancestry, engine.constants, stream, engine.output)
    if readers:
        taps = whole_taps(stream, readers, attended)
        return EdgePlan(stream=stream, readers=readers, taps=taps, notes=notes)
    edges = find_program_edges(anatomy, ancestry, engine.output)
    return EdgePlan(program_edges=edges, taps=program_taps(edges))
