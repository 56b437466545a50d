"""Units that can be scored and ablated, whatever the site they live at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from zsei.subject.types import Site, UnitKind
from zsei.trace.summary import Trace

RANKED: tuple[UnitKind, ...] = ("head", "layer", "branch", "neuron", "channel")
"""Kinds that are ranked, each among its own."""
PARTS: tuple[UnitKind, ...] = ("head", "branch", "layer")
"""Kinds whose units are components of their own."""


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One head, layer, branch, neuron or channel."""

    id: str
    site: Site
    index: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Units(Sequence[Unit]):
    """Many units as columns: a model has tens of thousands of channels.

    As a sequence it gives them one by one; criteria read the columns.
    """

    sites: tuple[Site, ...]
    site: np.ndarray
    """Number of each unit's site in `sites`, [U]."""
    number: np.ndarray
    """Number of each unit within its site, [U]."""

    def __len__(self) -> int:
        return len(self.number)

    @overload
    def __getitem__(self, i: int) -> Unit: ...
    @overload
    def __getitem__(self, i: slice) -> "Units": ...
    def __getitem__(self, i: int | slice) -> "Unit | Units":
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        site, index = self.sites[self.site[i]], int(self.number[i])
        return Unit(id=unit_id(site, index), site=site, index=index)

    def take(self, which: np.ndarray | Sequence[int]) -> "Units":
        """Those at these places, in this order."""
        chosen = np.asarray(which, dtype=int)
        return Units(sites=self.sites, site=self.site[chosen], number=self.number[chosen])

    def columns(self, per_site: Sequence[np.ndarray]) -> np.ndarray:
        """One number per unit [U] from one array [units of the site] per site."""
        starts = np.cumsum([0, *(len(values) for values in per_site)])[:-1]
        flat = np.concatenate([np.asarray(values, dtype=float) for values in per_site])
        return flat[starts[self.site] + self.number]


def unit_id(site: Site, index: int) -> str:
    """The unit's own id, or `component/neuron.3` where units are no components."""
    if site.kind in ("neuron", "channel"):
        return f"{site.component}/{site.kind}.{index}"
    return site.unit_ids[index]


def units_of_kind(trace: Trace, *kinds: UnitKind) -> Units:
    """All units of these kinds that were scored, in program order, kind by kind."""
    return units_at(
        scores.site for kind in kinds for scores in trace.units.values() if scores.site.kind == kind
    )


def units_at(sites: Iterable[Site]) -> Units:
    """All units of these sites."""
    known = tuple(sites)
    if not known:
        return Units(sites=(), site=np.zeros(0, int), number=np.zeros(0, int))
    return Units(
        sites=known,
        site=np.repeat(np.arange(len(known)), [site.units for site in known]),
        number=np.concatenate([np.arange(site.units) for site in known]),
    )
