"""Where the memory goes: parameters, the peak of live activations, attention's T² term."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.analyzers.context import Analysis
from zsei.analyzers.pressure import pressure_checks
from zsei.analyzers.shares import criticality_shares, hot_spots, working_parts
from zsei.analyzers.words import listed, percent
from zsei.graph.attention_memory import attention_memory
from zsei.graph.liveness import peak, peak_without
from zsei.graph.traffic import CONTAINERS
from zsei.records import Component, Finding, Measurement
from zsei.subject.blocks import is_linear
from zsei.subject.cost import flops


@final
@dataclass(frozen=True, kw_only=True)
class MemoryBottleneck:
    """Parts that hold a large share of the parameters or make the peak of live activations.

    Measures: each component's share of the parameters beside its share of the effect; the most
    bytes of activations alive at once in a forward pass, and how much lower that peak would be if
    one component's own calls needed nothing; the share of operations that grows with T².

    Formula: parameters_share = parameters of the component / of the model (a tied weight counts
    where it is read first). peak_bytes = max over calls of the bytes of all values still to be
    read, from shapes; peak_saving = 1 - peak over all other calls / peak. quadratic_share =
    operations of the products of attention whose both sides are activations / all operations; at
    twice the length it becomes 4q / (4q + 2(1 - q)). attention_score_bytes = heads x queries x keys
    x bytes of a number, at f times the length f² as much. memory_pressure = peak_saving /
    criticality_share. Severity: the excess of parameters_share over
    criticality_share (all of it where no effect is known, as of embeddings and of the part that
    makes the output), peak_saving, or quadratic_share. The calls of one module are weighed together
    against its parameters.

    Reading it: parameters decide what must be stored and read once per batch; the peak decides the
    largest batch and length. A peak made by one kind of block goes down when that block works in
    chunks.

    Misleads when: an allocator keeps more than is alive, a kernel needs scratch space, or gradients
    are wanted: training keeps almost every value alive.

    References: Vaswani et al., "Attention is all you need", NeurIPS 2017 (the T² term); Chen et
    al., "Training deep nets with sublinear memory cost", 2016 (liveness and recomputation); Kitaev,
    Kaiser and Levskaya, "Reformer", ICLR 2020 (feed-forward layers in chunks).
    """

    code: ClassVar[str] = "memory-bottleneck"
    clock: ClassVar[bool] = False

    min_parameters_share: float = 0.15
    """Share of the model's parameters from which a component is looked at."""
    min_pressure: float = 3.0
    """Least ratio of parameters share to criticality share, where an effect is known."""
    min_unweighed_share: float = 0.3
    """Share of the parameters from which a component is told of whose effect is not known."""
    min_peak_saving: float = 0.5
    """Share by which the peak must fall without a component's (or a kind's) own calls."""
    min_peak_pressure: float = 2.0
    """Least ratio of that share to the criticality share, where an effect is known."""
    min_quadratic_share: float = 0.2
    """Share of the operations that grows with the square of the length."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """Parameters, then the peak, then the T² term."""
        yield from self._parameters(analysis)
        yield from self._peak(analysis)
        yield from self._quadratic(analysis)

    def _parameters(self, analysis: Analysis) -> Iterator[Finding]:
        leaves = _leaves(analysis)
        total = sum(part.parameters for part in leaves)
        effects = _by_module(criticality_shares(analysis), leaves)
        held = {part.id: part.parameters / total for part in leaves}
        yield from hot_spots(
            code=self.code,
            measure="parameters_share",
            noun="parameters",
            cost=held,
            criticality=effects,
            bands=(self.min_parameters_share,),
            pressure=self.min_pressure,
            extra={},
            tests=lambda named: pressure_checks(analysis, named, held, self.min_pressure),
        )
        for part in leaves:
            share = held[part.id]
            if part.id in effects or share < self.min_unweighed_share:
                continue
            yield Finding.make(
                code=self.code,
                components=(part.id,),
                severity=share,
                evidence=(
                    Measurement(name="parameters", value=part.parameters, unit="count"),
                    Measurement(name="parameters_share", value=share, unit="share"),
                ),
                message=f"{part.id} holds {percent(share)} of the parameters ({part.parameters}).",
            )

    def _peak(self, analysis: Analysis) -> Iterator[Finding]:
        found = peak(analysis.subject)
        if found is None or found.bytes == 0:
            return
        parts = working_parts(analysis)
        here = next((part for part in parts if part.id == found.component), None)
        if here is None:
            return
        alike = [part for part in parts if part.kind == here.kind]
        left = peak_without(analysis.subject, frozenset(p.id for p in alike))
        alone, together = 1 - found.without[here.id] / found.bytes, 1 - left / found.bytes
        if self._worth(analysis, (here.id,), alone):
            components, saving, whose = (here.id,), alone, f"the calls of {here.id}"
        elif self._worth(analysis, tuple(part.id for part in alike), together):
            components, saving = tuple(part.id for part in alike), together
            whose = f"the calls of the {len(alike)} {here.kind} parts"
        else:
            return
        yield Finding.make(
            code=self.code,
            components=components,
            severity=saving,
            evidence=(
                Measurement(name="peak_bytes", value=found.bytes, unit="bytes per sample"),
                Measurement(name="peak_saving", value=saving, unit="share"),
                *_pressure(analysis, components, saving),
            ),
            message=f"Live activations peak at {found.bytes} bytes per sample in {here.id}; "
            f"without {whose} the peak would be {percent(saving)} lower.",
        )

    def _worth(self, analysis: Analysis, components: tuple[str, ...], saving: float) -> bool:
        """Whether the peak falls enough, and by more than what the parts bring."""
        pressure = _pressure(analysis, components, saving)
        weighed = not pressure or (pressure[0].value or 0.0) >= self.min_peak_pressure
        return saving >= self.min_peak_saving and weighed

    def _quadratic(self, analysis: Analysis) -> Iterator[Finding]:
        subject = analysis.subject
        attentions = [c for c in subject.anatomy.components if c.kind == "attention"]
        total = sum(part.flops for part in working_parts(analysis))
        if subject.program is None or not attentions or not total:
            return
        nodes = {node.name: node for node in subject.program.graph_module.graph.nodes}
        squared = sum(
            flops(nodes[name])
            for part in attentions
            for name in subject.anatomy.nodes[part.id]
            if not is_linear(nodes[name])
        )
        share = squared / subject.calibration[0].size / total
        if share < self.min_quadratic_share:
            return
        doubled = 4 * share / (4 * share + 2 * (1 - share))
        names = tuple(part.id for part in attentions)
        scores = [a for a in attention_memory(subject) if a.grows]
        held = "held" if any(a.written_out for a in scores) else "a fused call holds none of them"
        yield Finding.make(
            code=self.code,
            components=names,
            severity=share,
            evidence=(
                Measurement(name="quadratic_share", value=share, unit="share"),
                Measurement(name="quadratic_share_doubled", value=doubled, unit="share",
                            note="at twice the length"),
                *(
                    Measurement(name="attention_score_bytes", unit="bytes per sample",
                                value=max(a.scores(factor) for a in scores),
                                note=f"largest attention at {factor} x the length; {held}")
                    for factor in (1, 2, 4) if scores
                ),
            ),
            message=f"{percent(share)} of the operations, in {listed(names, 2)}, grow with the "
            f"square of the length; at twice the length they would be "
            f"{percent(doubled)}.",
        )  # fmt: skip


def _by_module(shares: Mapping[str, float], leaves: list[Component]) -> dict[str, float]:
    """Share of the effect of all calls of a module, by its first call, which holds the weights."""
    found: dict[str, float] = {}
    for leaf in leaves:
        calls = [c for c in shares if _module(c) == _module(leaf.id)]
        if calls:
            found[leaf.id] = sum(shares[c] for c in calls)
    return found


def _module(component: str) -> str:
    """A component's id without the number of its call."""
    return re.sub(r"#\d+", "", component)


def _pressure(
    analysis: Analysis, components: tuple[str, ...], saving: float
) -> tuple[Measurement, ...]:
    """The share of the peak over the share of the effect, where an effect is known."""
    effects = criticality_shares(analysis)
    brought = sum(effects.get(c, 0.0) for c in components)
    if brought <= 0:
        return ()
    return (Measurement(name="memory_pressure", value=saving / brought, unit="ratio"),)


def _leaves(analysis: Analysis) -> list[Component]:
    """Components that hold parameters, each parameter counted in one of them."""
    kinds = {c.id: c.kind for c in analysis.subject.anatomy.components}
    seen: set[str] = set()
    found = []
    for c in analysis.subject.anatomy.components:
        inside = kinds.get(c.parent or "") in CONTAINERS
        if c.kind in ("layer", "head") or inside or not c.parameters:
            continue
        # A module called again is listed again; its weights are the same.
        name = _module(c.id)
        if name not in seen:
            seen.add(name)
            found.append(c)
    return found
