"""Tables of every component with what was measured about it."""

from dataclasses import dataclass

from zsei.records import AnalysisRecord, Component, Measurement
from zsei.report.text import aligned

COLUMNS = (
    "ablation_effect", "sensitivity", "taylor", "magnitude", "block_influence", "branch_to_stream",
    "effective_rank", "saturation", "rms", "near_zero_share", "gradient_rms",
)  # fmt: skip
HEAD_COLUMNS = (
    "ablation_effect", "sensitivity", "taylor", "magnitude", "attention_entropy",
    "first_token_mass", "previous_token_mass", "diagonal_mass", "effective_rank",
)  # fmt: skip


COUNTED = frozenset(("parameters", "flops", "flops_share", "bytes", "bytes_share"))
"""What the table of all components shows already."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A measurement, and its unit where all rows share one."""

    name: str
    unit: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table, its digits in line with those above and below."""

    measurement: Measurement | None
    """None where it was not measured."""
    text: str


@dataclass(frozen=True, kw_only=True)
class PartTable:
    """Rows of components, one cell per column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Component, tuple[Cell, ...]], ...]
    left_out: int


def component_table(record: AnalysisRecord, most: int) -> PartTable:
    """All components but heads, in the order of the model."""
    parts = [c for c in record.components if c.kind != "head"]
    return _table(record, parts, COLUMNS, most)


def head_table(record: AnalysisRecord, most: int) -> PartTable:
    """All heads, in the order of the model."""
    heads = [c for c in record.components if c.kind == "head"]
    return _table(record, heads, HEAD_COLUMNS, most)


@dataclass(frozen=True, kw_only=True)
class KindTable:
    """Everything measured about the components of one kind."""

    kind: str
    table: PartTable


def kind_tables(record: AnalysisRecord, most: int) -> tuple[KindTable, ...]:
    """One table per kind of component, with every measurement that was taken of it."""
    kinds = dict.fromkeys(c.kind for c in record.components)
    made: list[KindTable] = []
    for kind in kinds:
        parts = [c for c in record.components if c.kind == kind]
        names = dict.fromkeys(m.name for c in parts for m in record.measurements.get(c.id, ()))
        wanted = tuple(name for name in names if name not in COUNTED)
        if wanted:
            made.append(KindTable(kind=kind, table=_table(record, parts, wanted, most)))
    return tuple(made)


def _table(
    record: AnalysisRecord, parts: list[Component], wanted: tuple[str, ...], most: int
) -> PartTable:
    """The wanted measurements that were taken of at least one part."""
    units: dict[str, set[str]] = {}
    for part in parts:
        for measurement in record.measurements.get(part.id, ()):
            units.setdefault(measurement.name, set()).add(measurement.unit)
    columns = tuple(
        Column(name=name, unit=next(iter(units[name])) if len(units[name]) == 1 else "")
        for name in wanted
        if name in units
    )
    shown = parts[:most]
    cells = [_cells(record, shown, column.name) for column in columns]
    rows = tuple((part, tuple(c[i] for c in cells)) for i, part in enumerate(shown))
    return PartTable(columns=columns, rows=rows, left_out=max(0, len(parts) - most))


def _cells(record: AnalysisRecord, parts: list[Component], name: str) -> list[Cell]:
    found = [record.measured(part.id, name) for part in parts]
    texts = aligned([m.value if m else None for m in found])
    return [Cell(measurement=m, text=t) for m, t in zip(found, texts, strict=True)]
