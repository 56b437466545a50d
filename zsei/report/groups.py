"""What was measured on each data group alone: one table per measurement, a column per group."""

from dataclasses import dataclass

from zsei.records import AnalysisRecord, Measurement
from zsei.report.parts import Cell
from zsei.report.text import aligned

SHOWN = ("ablation_effect", "sensitivity", "rms", "seconds")
"""Measurements shown first; others follow by name."""


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """One measurement by component and data group, most different components first."""

    name: str
    unit: str
    groups: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    left_out: int


def group_tables(record: AnalysisRecord, tables: int, rows: int) -> tuple[GroupTable, ...]:
    """The first tables, each with the components that differ most between the groups."""
    groups = tuple(record.groups)
    found: dict[str, dict[str, dict[str, Measurement]]] = {}
    for group, components in record.groups.items():
        for component, measurements in components.items():
            for measurement in measurements:
                found.setdefault(measurement.name, {}).setdefault(component, {})[group] = (
                    measurement
                )
    names = [n for n in SHOWN if n in found] + sorted(set(found) - set(SHOWN))
    return tuple(_table(name, found[name], groups, rows) for name in names[:tables])


def _table(
    name: str, components: dict[str, dict[str, Measurement]], groups: tuple[str, ...], most: int
) -> GroupTable:
    def difference(component: str) -> float:
        told = [m.value for m in components[component].values() if m.value is not None]
        return max(told) - min(told) if told else 0.0

    order = sorted(components, key=lambda c: (-difference(c), c))
    shown = order[:most]
    columns = [[components[c].get(group) for c in shown] for group in groups]
    texts = [aligned([m.value if m else None for m in column]) for column in columns]
    units = {m.unit for named in components.values() for m in named.values()}
    return GroupTable(
        name=name,
        unit=units.pop() if len(units) == 1 else "",
        groups=groups,
        rows=tuple(
            (
                component,
                tuple(
                    Cell(measurement=columns[g][i], text=texts[g][i]) for g in range(len(groups))
                ),
            )
            for i, component in enumerate(shown)
        ),
        left_out=len(order) - len(shown),
    )
