"""One analysis out of what the workers found in their layers.

Letters: u unit, k criterion, K the units of one pool (all channels and neurons of the model, all
heads, all layers).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import Depth, UnitKind
from zsei.checkpoint.tasks import GroupMeasure, SiteMeasure
from zsei.errors import UsageError
from zsei.records import Component, Conditions, Measurement, Provenance

Floats = NDArray[np.float64]
Importance = tuple[float | None, ...]

POOLS: tuple[tuple[UnitKind, ...], ...] = (("channel", "neuron"), ("head",), ("layer",))
"""Kinds whose units are ranked together."""
DEPTHS: tuple[Depth, ...] = ("full", "channels", "basic", "previous", "none")
"""From the best to the worst."""


@dataclass(frozen=True, kw_only=True)
class Combined:
    """What was found at one checkpoint."""

    importance: dict[str, Importance]
    """"component|kind" -> importance per unit; None where nothing could be told of it."""
    pairs: dict[str, tuple[tuple[int, int, float], ...]]
    """"component|kind" -> units that are alike."""
    sites: tuple[SiteMeasure, ...]
    """In the order of the model."""
    measurements: dict[str, tuple[Measurement, ...]] = field(default_factory=dict)
    components: tuple[Component, ...] = ()
    provenance: Provenance | None = None
    conditions: Conditions | None = None
    confidence: float = 1.0
    """The lowest of all groups."""
    depth: Depth = "full"
    """The least of all groups."""
    notes: tuple[str, ...] = ()
    cached: int = 0
    exact: tuple[tuple[str, int, float, float], ...] = ()
    """(key, unit, importance, exact effect) of units that were ablated."""


def combine(groups: Sequence[GroupMeasure], config: CheckpointConfig) -> Combined:
    """Merge groups of layers into one analysis; their order changes nothing.

    Importance of a unit: Σ_k w_k · s_k / Σ w_k over the criteria that are known of its place, w the
    weights of the configuration and s_k = x / (mean of x over the units of the pool that have it ·
    |K|), so that s is the share of the total when all have it, and a place that lacks a criterion
    is compared by the others on the same scale. Channels and neurons mix "taylor", "magnitude" and
    "activation frequency", heads "attention focus", "diversity" and the gradient; layers have the
    share of "taylor" alone, and the size of their weights where there is none. Without labels
    "output sensitivity" stands in for "taylor"; the gradient of heads is "output sensitivity".

    Raises:
        UsageError: There is no group, or a place is in two of them.
    """
    if not groups:
        raise UsageError("An analysis needs at least one group of layers, and got none.")
    sites = _in_order(groups)
    importance: dict[str, Importance] = {}
    for kinds in POOLS:
        pool = [site for site in sites if site.kind in kinds]
        importance |= _mixed(pool, _weights(kinds[0], pool, config))
    components = _components(groups)
    measured = {name: found for group in groups for name, found in group.measurements.items()}
    described = next((g for g in groups if g.provenance is not None), None)
    exact = sorted(
        (key, unit, score, effect)
        for group in groups
        for key, unit, _, effect in group.exact
        if (score := importance[key][unit]) is not None
    )
    return Combined(
        importance=importance,
        pairs={site.key: site.pairs for site in sites if site.pairs},
        sites=sites,
        measurements={c.id: measured[c.id] for c in components if c.id in measured},
        components=components,
        provenance=described.provenance if described else None,
        conditions=described.conditions if described else None,
        confidence=min(group.confidence for group in groups),
        depth=DEPTHS[max(DEPTHS.index(group.depth) for group in groups)],
        notes=tuple(sorted({note for group in groups for note in group.notes})),
        cached=sum(group.cached for group in groups),
        exact=tuple(exact),
    )


def shares(known: Iterable[Floats], size: int) -> list[Floats]:
    """Each number over the mean of all of them and over a count: shares of the total when the count
    is theirs. Equal ones where all are zero; NaN stays.
    """
    parts = list(known)
    flat = np.concatenate(parts) if parts else np.zeros(0)
    told = flat[~np.isnan(flat)]
    mean = float(np.sort(told).mean()) if len(told) else 0.0
    if mean <= 0:
        return [np.where(np.isnan(part), np.nan, 1 / max(size, 1)) for part in parts]
    return [part / (mean * size) for part in parts]


def _weights(
    kind: UnitKind, pool: Sequence[SiteMeasure], config: CheckpointConfig
) -> dict[str, float]:
    """Criterion -> its weight."""
    pruning = config.elesh.structured_pruning
    labels = any("taylor" in site.parts for site in pool)
    first = "taylor" if labels else "output sensitivity"
    if kind == "head":
        heads = pruning.attention_analysis
        return {
            "attention focus": heads.entropy_weight,
            "diversity": heads.diversity_weight,
            "output sensitivity": heads.gradient_weight,
        }
    if kind == "layer":
        return {first: 1.0}
    channels = pruning.channel_analysis
    return {
        first: channels.taylor_weight,
        "magnitude": channels.magnitude_weight,
        "activation frequency": channels.frequency_weight,
    }


def _mixed(pool: Sequence[SiteMeasure], weights: Mapping[str, float]) -> dict[str, Importance]:
    """Key -> importance of the units of one pool."""
    total = {site.key: np.zeros(_units(site)) for site in pool}
    weight = {site.key: np.zeros(_units(site)) for site in pool}
    # What nothing else is known of has the size of its weights alone.
    plain = [s.key for s in pool if not any(w and name in s.parts for name, w in weights.items())]
    for name, share in [*weights.items(), ("magnitude", 0.0)]:
        having = [site for site in pool if name in site.parts]
        size = sum(_units(site) for site in pool)
        found = shares((_numbers(site.parts[name]) for site in having), size)
        for site, values in zip(having, found, strict=True):
            own = share or (1.0 if name == "magnitude" and site.key in plain else 0.0)
            known = ~np.isnan(values)
            total[site.key][known] += own * values[known]
            weight[site.key][known] += own
    return {
        key: tuple(
            float(t / w) if w > 0 else None for t, w in zip(total[key], weight[key], strict=True)
        )
        for key in total
    }


def _units(site: SiteMeasure) -> int:
    return max((len(values) for values in site.parts.values()), default=0)


def _numbers(values: Importance) -> Floats:
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _in_order(groups: Sequence[GroupMeasure]) -> tuple[SiteMeasure, ...]:
    sites = [site for group in groups for site in group.sites]
    sites.sort(key=lambda site: (site.layer is None, site.layer or 0, site.key))
    twice = [a.key for a, b in pairwise(sites) if a.key == b.key]
    if twice:
        raise UsageError(
            f"Each place is measured by one worker, and {twice[0]} came from two. Give every layer "
            "to one task."
        )
    return tuple(sites)


def _components(groups: Sequence[GroupMeasure]) -> tuple[Component, ...]:
    """Layer by layer, each in the order of the model; then what stands outside of layers."""
    found = {c.id: c for group in groups for c in group.components}
    return tuple(sorted(found.values(), key=lambda c: (c.layer is None, c.layer or 0)))
