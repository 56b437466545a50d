"""Numbers that belong to two components, or to a component on one group of the data.

A slot calls for them as `{owner:name@other}`: `{encoder.layer.0:layer_similarity@encoder.layer.1}`
is an entry of a matrix, `{a:edge_attribution@b}` what writer a gives reader b, `{a:rms@prose}` what
was measured on that group alone.
"""

from collections.abc import Callable, Container, Mapping
from functools import cached_property
from typing import Any, Generic, TypeVar

from zsei.records import AnalysisRecord, AttributedEdge, Matrix

EDGE = "edge_attribution"
ROUTE = "route_share"
Made = TypeVar("Made")


class Pairs(Generic[Made]):
    """Looks numbers up by two names; nothing is built before it is asked for."""

    def __init__(self, record: AnalysisRecord, make: Callable[..., Made]) -> None:
        """Take the record, and what builds a fact."""
        self._record = record
        self._make = make

    def find(self, owner: str, name: str, components: Container[str]) -> Made | None:
        """The fact that `{owner:name@other}` stands for, or None."""
        measurement, sign, other = name.partition("@")
        if not sign or owner not in components:
            return None
        for look in (self._edge, self._matrix, self._group):
            told = look(owner, measurement, other)
            if told is not None:
                both = {part for part in (owner, other) if part in components}
                return self._make(
                    name=name, measurement=measurement, components=frozenset(both), **told
                )
        return None

    @cached_property
    def _edges(self) -> Mapping[tuple[str, str], AttributedEdge]:
        """Writer and reader -> their edge of the largest attribution, which stands first."""
        found: dict[tuple[str, str], AttributedEdge] = {}
        for edge in self._record.edges:
            found.setdefault((edge.writer, edge.reader), edge)
        return found

    @cached_property
    def _matrices(self) -> Mapping[str, tuple[Matrix, dict[str, int], dict[str, int]]]:
        """Name -> the first matrix of that name, with the place of every row and column."""
        return {
            matrix.name: (
                matrix,
                {name: place for place, name in enumerate(matrix.rows)},
                {name: place for place, name in enumerate(matrix.columns)},
            )
            for matrix in reversed(self._record.matrices)
        }

    def _edge(self, owner: str, measurement: str, other: str) -> dict[str, Any] | None:
        edge = self._edges.get((owner, other))
        if edge is None or measurement not in (EDGE, ROUTE):
            return None
        if measurement == ROUTE:
            return {"value": edge.route_share, "unit": "share"}
        return {"value": edge.attribution}

    def _matrix(self, owner: str, measurement: str, other: str) -> dict[str, Any] | None:
        if measurement not in self._matrices:
            return None
        matrix, rows, columns = self._matrices[measurement]
        if owner not in rows or other not in columns:
            return None
        return {"value": matrix.values[rows[owner]][columns[other]], "unit": matrix.unit}

    def _group(self, owner: str, measurement: str, other: str) -> dict[str, Any] | None:
        for taken in self._record.groups.get(other, {}).get(owner, ()):
            if taken.name == measurement:
                return {"value": taken.value, "unit": taken.unit}
        return None
