"""What each layer holds, costs and does: the rows of the per-layer bars."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zsei.records import AnalysisRecord, Component, Measurement
from zsei.report.text import aligned


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One repeated block, or what stands outside of all blocks."""

    number: int | None
    """Running number of the block; None for what stands outside."""
    id: str
    """Id of the layer component, or of the first component inside."""
    parameters: int
    flops: int
    flops_share: float | None
    """Share of the model's FLOPs, 0 to 1; None when none were counted."""
    influence: Measurement | None
    """Block influence 1 - cos(in, out) of the layer."""
    rank: Measurement | None
    """Effective rank of what the layer hands on."""


@dataclass(frozen=True, kw_only=True)
class LayerTable:
    """The rows with what their bars are measured against, and their numbers in line."""

    rows: tuple[LayerRow, ...]
    parameters: int
    """Largest of the rows; so for the next three."""
    flops_share: float
    influence: float
    rank: float
    influences: tuple[str, ...]
    """`influence` of each row as text."""
    ranks: tuple[str, ...]


def layer_table(record: AnalysisRecord) -> LayerTable:
    """Everything the per-layer bars show."""
    rows = layer_rows(record)
    influences = [row.influence.value if row.influence else None for row in rows]
    ranks = [row.rank.value if row.rank else None for row in rows]
    return LayerTable(
        rows=rows,
        parameters=max((row.parameters for row in rows), default=0),
        flops_share=max((row.flops_share or 0.0 for row in rows), default=0.0),
        influence=max((value or 0.0 for value in influences), default=0.0),
        rank=max((value or 0.0 for value in ranks), default=0.0),
        influences=tuple(aligned(influences)),
        ranks=tuple(aligned(ranks)),
    )


def total(members: Sequence[Component], value: Callable[[Component], int]) -> int:
    """Sum over members, counting a part only where what it belongs to has no count of its own."""
    present = {c.id: c for c in members}

    def counted_above(component: Component) -> bool:
        above, seen = component.parent, {component.id}
        while above is not None and above in present and above not in seen:
            if value(present[above]):
                return True
            seen.add(above)
            above = present[above].parent
        return False

    return sum(value(c) for c in members if not counted_above(c))


def _of_layer(
    record: AnalysisRecord, members: Sequence[Component], name: str
) -> Measurement | None:
    """The measurement of the layer itself, else of the last of its parts that has it."""
    whole = [c for c in members if c.kind == "layer"]
    parts = [c for c in reversed(members) if c.kind not in ("layer", "head")]
    for component in [*whole, *parts]:
        found = record.measured(component.id, name)
        if found is not None:
            return found
    return None


def layer_rows(record: AnalysisRecord) -> tuple[LayerRow, ...]:
    """One row per layer in order, and a last one for all that stands outside of layers."""
    groups: dict[int | None, list[Component]] = {}
    for component in record.components:
        groups.setdefault(component.layer, []).append(component)
    everything = total(record.components, lambda c: c.flops)
    rows: list[LayerRow] = []
    for number in sorted(groups, key=lambda n: (n is None, n)):
        members = groups[number]
        flops = total(members, lambda c: c.flops)
        whole = next((c.id for c in members if c.kind == "layer"), members[0].id)
        rows.append(
            LayerRow(
                number=number,
                id=whole if number is not None else "",
                parameters=total(members, lambda c: c.parameters),
                flops=flops,
                flops_share=flops / everything if everything else None,
                influence=None if number is None else _of_layer(record, members, "block_influence"),
                rank=None if number is None else _of_layer(record, members, "effective_rank"),
            )
        )
    return tuple(rows)
