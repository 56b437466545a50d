"""The strongest pairs of a writer and a reader of the residual stream, as rows."""

from dataclasses import dataclass

from zsei.records import AnalysisRecord, AttributedEdge
from zsei.report.text import aligned


@dataclass(frozen=True, kw_only=True)
class EdgeRow:
    """One pair, its numbers in line with those above and below."""

    edge: AttributedEdge
    attribution: str
    integrated: str
    route_share: str


@dataclass(frozen=True, kw_only=True)
class EdgeTable:
    """The strongest pairs."""

    rows: tuple[EdgeRow, ...]
    largest: float
    """Largest |attribution|."""
    integrated: bool
    """Whether any row has an integrated attribution; so for the next."""
    routes: bool
    left_out: int


def edge_table(record: AnalysisRecord, most: int) -> EdgeTable:
    """The first `most` pairs of a record, which are the strongest ones."""
    shown = record.edges[:most]
    columns = (
        aligned([e.attribution for e in shown]),
        aligned([e.integrated for e in shown]),
        aligned([e.route_share for e in shown]),
    )
    return EdgeTable(
        rows=tuple(
            EdgeRow(edge=edge, attribution=first, integrated=second, route_share=third)
            for edge, first, second, third in zip(shown, *columns, strict=True)
        ),
        largest=max((abs(e.attribution) for e in shown), default=0.0),
        integrated=any(e.integrated is not None for e in shown),
        routes=any(e.route_share is not None for e in shown),
        left_out=len(record.edges) - len(shown),
    )
