"""What belongs to one task: the places, components and values of some layers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from zsei.checkpoint.contracts import Level, UnitKind
from zsei.records import Component
from zsei.subject.types import Site, Subject
from zsei.trace.edge_plan import EdgePlan
from zsei.trace.taps import Taps

KINDS: Mapping[Level, tuple[UnitKind, ...]] = {
    "channels": ("channel", "neuron"),
    "heads": ("head",),
    "layers": ("layer",),
}
"""Level of analysis -> kinds of sites that are looked at for it."""
WORKING = (
    "embedding", "attention", "mlp", "experts", "conv", "recurrent", "module", "residual",
)  # fmt: skip
"""Components whose gradients are followed over the checkpoints, beside layers."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Some layers of a subject."""

    subject: Subject
    """With these components and sites alone."""
    taps: Taps
    """What is watched of them. Values that only these need: the tape starts at the first."""

    @property
    def sites(self) -> tuple[Site, ...]:
        """Where its units are."""
        return self.subject.anatomy.sites

    @property
    def components(self) -> tuple[Component, ...]:
        """Of its layers."""
        return self.subject.anatomy.components


def group_of(
    subject: Subject, taps: Taps, layers: Collection[int | None], levels: Collection[Level]
) -> Group:
    """The places of some layers, and the taps that watch no more than they need.

    Args:
        subject: The whole model.
        taps: Everything there is to watch of it.
        layers: Running numbers of layers; None for what stands outside of layers.
        levels: Which kinds of units are looked at.
    """
    anatomy = subject.anatomy
    kinds = {kind for level in levels for kind in KINDS[level]}
    components = tuple(c for c in anatomy.components if c.layer in layers)
    named = {component.id: component for component in components}
    sites = tuple(
        site
        for site in anatomy.sites
        if site.kind in kinds
        and site.component in named
        and site.node in taps.values
        and (site.source is None or site.source in taps.values)
    )
    inner = {c.id for c in components if c.kind in ("attention", "mlp", "experts")}
    followed = {
        c.id
        for c in components
        if c.kind in WORKING or (c.kind == "linear" and c.parent not in inner)
    }
    writers = {c: node for c, node in taps.writers.items() if c in followed}
    wanted = {site.node for site in sites} | {site.source for site in sites if site.source}
    wanted |= set(writers.values())
    attentions = tuple(tap for tap in taps.attentions if tap.core in wanted and "head" in kinds)
    watched = replace(
        taps,
        values={node: axis for node, axis in taps.values.items() if node in wanted},
        writers=writers,
        sites=sites,
        joins=(),
        attentions=attentions,
        edges=EdgePlan(),
        activations=(),
    )
    part = replace(anatomy, components=components, sites=sites, untapped=())
    return Group(subject=replace(subject, anatomy=part), taps=watched)


def kind_of(site: Site) -> UnitKind:
    """The kind of units at a place that is looked at."""
    for kinds in KINDS.values():
        for kind in kinds:
            if site.kind == kind:
                return kind
    raise ValueError(f"{site.component} is a {site.kind}, which no level looks at")
