"""One pass over the calibration data for some layers: what flows forward, and what flows back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field

from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.cache import Kept
from zsei.checkpoint.measure.follow_parameters import followed_entries, parameter_of
from zsei.checkpoint.measure.group import Group
from zsei.checkpoint.measure.parts import Pairs, Parts, backward_parts, forward_parts
from zsei.checkpoint.measure.ready import Ready
from zsei.measures.gradient_noise import GradientNoise
from zsei.measures.learning_efficiency import step_size, weight_gradients, weights_of
from zsei.records import Measurement, Record
from zsei.subject.types import Site
from zsei.trace.evidence import collect, joined
from zsei.trace.kept import Evidence, Moments
from zsei.trace.rows import effective_rank
from zsei.trace.run import evidence_to_trace
from zsei.trace.summary import Trace
from zsei.trace.view import View

SERIES = (
    "rms", "gradient_rms", "gradient_signal_to_noise", "attention_entropy", "first_token_mass",
    "dead_units", "unit_sensitivity", "sensitivity", "block_influence", "effective_rank",
)  # fmt: skip
"""Measurements of components that are followed over the checkpoints."""
WEIGHT_SAMPLES = 4
"""Samples that gradients of weights are taken over."""

Found = Mapping[str, tuple[Measurement, ...]]


class Forward(Record):
    """What flows forward at one place, as it is kept."""

    parts: Parts = Field(default_factory=dict)
    pairs: Pairs = ()


@dataclass(frozen=True, kw_only=True)
class Looked:
    """What one pass gave."""

    parts: Mapping[Site, Parts]
    pairs: Mapping[Site, Pairs]
    measurements: Found
    blind: frozenset[Site]
    """Places that no gradient reaches, or none that is a number."""
    followed: Mapping[str, bytes]
    silent: frozenset[str]
    """Parameters whose gradient is no number."""
    owned: Mapping[str, Sequence[str]]
    """Component -> parameters it reads."""
    read: frozenset[Site]
    """Places whose forward part was known already."""

    def measured(self, group: Group) -> dict[str, tuple[Measurement, ...]]:
        """What was measured of the components of a group."""
        named = self.measurements
        return {c.id: named[c.id] for c in group.components if c.id in named}

    def followed_in(self, group: Group) -> dict[str, bytes]:
        """The entries that are followed of the parameters of a group."""
        names = self._parameters(group)
        return {n: data for n, data in self.followed.items() if parameter_of(n) in names}

    def notes(self, group: Group) -> tuple[str, ...]:
        """What went wrong in a group, and what stood in."""
        found = []
        names = dict.fromkeys(site.component for site in group.sites if site in self.blind)
        if names:
            found.append(
                f"No gradient, or none that is a number, reaches {', '.join(names)}: the units are "
                "ranked by the size of their weights and by their activity."
            )
        if silent := sorted(self.silent & self._parameters(group)):
            found.append(
                f"The gradient of {', '.join(silent)} is no number, so single entries are not "
                "followed."
            )
        return tuple(found)

    def _parameters(self, group: Group) -> set[str]:
        return {name for c in group.components for name in self.owned.get(c.id, ())}


def look(group: Group, job: Job, ready: Ready, cache: Kept) -> Looked:
    """Run the pass and read off it all that is wanted of a group.

    Args:
        group: The layers, with the taps that watch them.
        job: Settings and configuration.
        ready: Engine, and what decides the forward parts.
        cache: Where forward parts are kept.
    """
    subject, settings = group.subject, job.settings
    evidence = collect(
        ready.engine, group.taps, subject.objective, subject.calibration,
        probes=settings.probes, seed=settings.seed, rows=settings.rows,
    )  # fmt: skip
    _leave_out_undefined(group, evidence)
    trace = evidence_to_trace(subject, group.taps, evidence, structure=False)
    content = ready.content(subject, job)
    digests = ready.digests(subject, job)
    parts: dict[Site, Parts] = {}
    pairs: dict[Site, Pairs] = {}
    blind, read = set(), set()
    for site in group.sites:
        key = content.of_values(site, digests, job) if content else None
        forward = cache.read(key, Forward) if key else None
        if forward is not None:
            read.add(site)
        else:
            own, alike = forward_parts(site, group.taps, evidence, trace, job.config)
            forward = Forward(parts=own, pairs=alike)
            if key:
                cache.write(key, forward)
        backward = backward_parts(site, evidence, trace)
        if not backward:
            blind.add(site)
        parts[site], pairs[site] = forward.parts | backward, forward.pairs
    owned = weights_of(subject)
    steps, followed, silent = _weights(group, owned, job)
    measured = _merged(_measurements(group, ready, evidence, trace, parts, job), steps)
    return Looked(
        parts=parts, pairs=pairs, measurements=measured, blind=frozenset(blind), followed=followed,
        silent=frozenset(silent), owned=owned, read=frozenset(read),
    )  # fmt: skip


def _leave_out_undefined(group: Group, evidence: Evidence) -> None:
    """Forget values and gradients that are no number on some samples, each by itself: what one
    layer loses does not depend on which others are looked at beside it.
    """
    values = {node for what, node in evidence.undefined if what == "value"}
    gradients = {node for what, node in evidence.undefined if what == "gradient"} | values
    for node in gradients & set(evidence.values):
        evidence.values[node].gradient_rms = Moments()
        evidence.values[node].gradient_rows = []
    for node in values:
        evidence.values.pop(node, None)
    for site in group.sites:
        if {site.node, site.source} & gradients:
            evidence.sites.pop((site.component, site.kind), None)
    for tap in group.taps.attentions:
        if tap.core in values:
            evidence.attention.pop(tap.component, None)


def _measurements(
    group: Group, ready: Ready, evidence: Evidence, trace: Trace, parts: Mapping[Site, Parts],
    job: Job,
) -> dict[str, tuple[Measurement, ...]]:  # fmt: skip
    """Component -> what is followed over the checkpoints."""
    view = View(
        subject=group.subject, engine=ready.engine, taps=group.taps, evidence=evidence,
        measurements=trace.measurements, settings=job.settings,
    )  # fmt: skip
    known: Found = {c: tuple(named.values()) for c, named in trace.measurements.items()}
    known = _merged(known, GradientNoise().measure(view).measurements)
    for site in group.sites:
        if site.kind == "layer":
            known = _merged(known, {site.component: _of_layer(site, evidence, parts[site])})
    chosen = {c: tuple(m for m in named if m.name in SERIES) for c, named in known.items()}
    return {c: named for c, named in chosen.items() if named}


def _of_layer(site: Site, evidence: Evidence, parts: Parts) -> tuple[Measurement, ...]:
    """The stream behind a layer: a layer writes no value of its own."""
    kept = evidence.values.get(site.node)
    if kept is None or ("value", site.node) in evidence.undefined:
        return ()
    n = kept.rms.n
    found = [Measurement(name="effective_rank", value=effective_rank(joined(kept.rows))[0],
                         unit="dimensions", n=n)]  # fmt: skip
    (similarity,) = parts.get("similarity", (None,))
    if similarity is not None:
        found.append(Measurement(name="block_influence", value=1 - similarity, unit="1 - cos", n=n))
    moments = kept.gradient_rms
    if moments.n and ("gradient", site.node) not in evidence.undefined:
        spread = float(moments.std()) if moments.n > 1 else None
        value, unit = float(moments.mean()), "objective per activation"
        found.append(
            Measurement(name="gradient_rms", value=value, unit=unit, std=spread, n=moments.n)
        )
    return tuple(found)


def _weights(
    group: Group, owned: Mapping[str, Sequence[str]], job: Job
) -> tuple[Found, dict[str, bytes], tuple[str, ...]]:
    """Steps per component, importance of single entries, and the parameters whose gradient is no
    number.
    """
    subject = group.subject
    names = sorted({name for mine in owned.values() for name in mine})
    if not names:
        return {}, {}, ()
    n, gradients = weight_gradients(subject, names, WEIGHT_SAMPLES, job.settings.seed)
    weights = dict(subject.model.named_parameters())
    how = "mean loss" if subject.objective.supervised else "one random probe"
    steps = {}
    for component, mine in owned.items():
        known = [(weights[name], gradients[name]) for name in mine if name in gradients]
        if known:
            steps[component] = step_size(known, n, f"of {how} over {n} samples")
    silent = tuple(name for name, g in gradients.items() if not bool(g.isfinite().all()))
    return steps, followed_entries(weights, gradients, len(weights), job.config), silent


def _merged(first: Found, second: Found) -> dict[str, tuple[Measurement, ...]]:
    names = dict.fromkeys([*first, *second])
    return {name: (*first.get(name, ()), *second.get(name, ())) for name in names}
