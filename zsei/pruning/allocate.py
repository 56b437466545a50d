"""Which groups go for a budget: the cheapest for what they save, over all layers and kinds."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from zsei.pruning.order import Curve
from zsei.subject.types import UnitKind
from zsei.surgery.edits import RemoveUnits

Saving = Literal["parameters", "flops"]


@dataclass(frozen=True, kw_only=True)
class Allocation:
    """What goes, in the original's numbers, and what that is expected to do."""

    edits: tuple[RemoveUnits, ...]
    saved: float
    """Parameters, or the share of operations; sites that are coupled count twice here, so the plan
    of the edits has the last word."""
    cost: float
    """Sum of the predicted divergences."""


def allocate(
    curves: Sequence[Curve],
    target: float,
    saving: Saving,
    *,
    counts: Mapping[UnitKind, int] | None = None,
) -> Allocation:
    """Take groups along the curves, each time the one with the least cost per saving.

    Args:
        curves: One per place.
        target: Parameters, or share of operations, to save at least; stops there.
        saving: What is counted.
        counts: Where given, so many units of each kind go instead, whatever they save.
    """
    left = None if counts is None else dict(counts)
    taken: dict[int, list[int]] = {}
    saved = cost = 0.0
    heap: list[tuple[float, int, int]] = []

    def push(number: int, position: int) -> None:
        curve = curves[number]
        if position < len(curve.groups):
            worth = worth_of(curve, saving) if counts is None else 1.0
            heapq.heappush(heap, (curve.costs[position] / max(worth, 1e-12), number, position))

    for number in range(len(curves)):
        push(number, 0)
    while heap and (left is not None or saved < target):
        _, number, position = heapq.heappop(heap)
        curve = curves[number]
        kind = curve.place.left.site.kind
        if left is not None:
            if left.get(kind, 0) < curve.place.together:
                continue
            left[kind] -= curve.place.together
        taken.setdefault(number, []).append(curve.groups[position])
        saved += worth_of(curve, saving)
        cost += curve.costs[position]
        push(number, position + 1)
    return Allocation(
        edits=tuple(
            RemoveUnits(
                site=curves[number].place.left.whole,
                units=tuple(sorted(u for g in groups for u in curves[number].place.units(g))),
            )
            for number, groups in sorted(taken.items())
        ),
        saved=saved,
        cost=cost,
    )


def worth_of(curve: Curve, saving: Saving) -> float:
    """What one group of a place saves."""
    return curve.place.parameters if saving == "parameters" else curve.place.flops


def joined(first: Sequence[RemoveUnits], more: Sequence[RemoveUnits]) -> tuple[RemoveUnits, ...]:
    """Edits of the original and further ones, one per site, with the original's sites."""
    sites = {(edit.site.component, edit.site.kind): edit.site for edit in (*more, *first)}
    units: dict[tuple[str, str], set[int]] = {}
    for edit in (*first, *more):
        units.setdefault((edit.site.component, edit.site.kind), set()).update(edit.units)
    return tuple(
        RemoveUnits(site=sites[key], units=tuple(sorted(own))) for key, own in sorted(units.items())
    )
