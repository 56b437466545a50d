"""Units that can be scored and ablated, one entry each, whatever the site they live at."""

from dataclasses import dataclass

from zsei.subject.types import Site, UnitKind
from zsei.trace.summary import Trace

RANKED: tuple[UnitKind, ...] = ("head", "layer", "branch", "neuron", "channel")
"""Kinds that are ranked, each among its own."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One head, layer, branch, neuron or channel."""

    id: str
    site: Site
    index: int


def unit_id(site: Site, index: int) -> str:
    """The unit's own id, or `component/neuron.3` where units are no components."""
    if site.kind in ("neuron", "channel"):
        return f"{site.component}/{site.kind}.{index}"
    return site.unit_ids[index]


def units_of_kind(trace: Trace, kind: UnitKind) -> list[Unit]:
    """All units of a kind that were scored, in program order."""
    return [
        Unit(id=unit_id(scores.site, index), site=scores.site, index=index)
        for scores in trace.units.values()
        if scores.site.kind == kind
        for index in range(scores.site.units)
    ]
