"""Turns what the evidence pass kept into measurements; no tensor of activations survives it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from zsei.records import AttributedEdge, Component, Failure, Matrix, Measurement
from zsei.subject.objective import Objective, predicted_divergence
from zsei.subject.types import Site, Subject
from zsei.trace.attention_maps import pattern_measurements
from zsei.trace.evidence import joined
from zsei.trace.kept import Evidence, Moments, SiteEvidence, ValueEvidence
from zsei.trace.responses import prediction_spread
from zsei.trace.rows import effective_rank, linear_cka, proximity_shares
from zsei.trace.taps import HeadTap, Join, Taps
from zsei.trace.undefined import Undefined

NEAR_ZERO = 1e-3
"""A value is near zero when it is below this share of its RMS."""
SIMILAR_NEURONS = 0.95
"""|correlation| from which two neurons count as near duplicates."""
WIDEST = 4096
"""Above this width neuron correlations are not computed (the matrix would be too large)."""


@dataclass(frozen=True, kw_only=True)
class UnitScores:
    """Numbers per unit of a site, each an array [U]."""

    site: Site
    sensitivity: np.ndarray
    """Predicted mean divergence when its mean stands in for the unit (Gauss-Newton probes)."""
    zeroing: np.ndarray
    """The same when zero stands in for it."""
    taylor: np.ndarray | None
    """E|Σ a · g| of the loss; None without labels."""
    fisher: np.ndarray | None
    """E(Σ a · g)²: g of labels drawn from the model's own distribution where the outputs are
    logits, of the loss for other outputs; None where neither exists."""
    activation_frequency: np.ndarray | None
    """Share of rows in which the unit is above near zero."""
    largest: np.ndarray | None
    """max |a| over all calibration data; exactly 0 means dead."""
    rms: np.ndarray | None
    """RMS of the unit over the sampled rows."""
    duplicates: tuple[tuple[int, int, float], ...] = ()
    """(i, j, correlation) of near duplicate neurons, strongest first."""
    likeness: np.ndarray | None = None
    """Highest |correlation| with another neuron or channel of the site."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What a model did on the calibration data, as numbers."""

    measurements: Mapping[str, Mapping[str, Measurement]]
    """Component id -> name -> measurement."""
    units: Mapping[tuple[str, str], UnitScores]
    """(component, site kind) -> scores of its units."""
    means: Mapping[tuple[str, str], Tensor]
    """(component, site kind) -> mean value, what mean ablation puts in."""
    shares: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(node or component that is read, node that reads) -> share of the sum (joins and heads)."""
    attributions: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """(operand, join) -> Σ a · g of that edge: signed with labels, RMS over probes without."""
    head_similarity: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Attention id -> how alike its heads' outputs are, [h, h]; see `head_similarity`."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Component id -> seconds per calibration batch, heads and output left out. A clock's word:
    only for timings."""
    overhead: float | None = None
    """Seconds of the interpreted forward over the plain one."""
    output_difference: float = 0.0
    """Largest |instrumented - plain| output, on one batch."""
    groups: Mapping[str, Mapping[str, tuple[Measurement, ...]]] = field(default_factory=dict)
    """Data group -> component id -> what measures found on that group alone."""
    matrices: tuple[Matrix, ...] = ()
    edges: tuple[AttributedEdge, ...] = ()
    notes: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    """Measures that broke."""
    undefined: tuple[Undefined, ...] = ()
    """Components that are NaN or infinite on some samples."""
    left_out: tuple[int, ...] = ()
    """Numbers of the calibration samples on which nothing was measured."""


def summarise(
    subject: Subject, taps: Taps, evidence: Evidence, *, structure: bool = True
) -> tuple[dict[str, dict[str, Measurement]], dict[tuple[str, str], UnitScores]]:
    """Measurements per component, and scores per unit.

    Args:
        subject: The model.
        taps: What was watched.
        evidence: What was kept.
        structure: Also effective ranks and near duplicate neurons, which cost more than the rest.
    """
    anatomy = subject.anatomy
    rows = {name: joined(kept.rows) for name, kept in evidence.values.items()}
    total = _Totals(anatomy.components)
    measurements: dict[str, dict[str, Measurement]] = {}
    for component in anatomy.components:
        found = {m.name: m for m in _costs(component, total)}
        node = taps.writers.get(component.id)
        if node is not None and node in evidence.values:
            found |= {
                m.name: m for m in _value_measurements(evidence.values[node], rows[node], structure)
            }
        measurements[component.id] = found
    for join in taps.joins:
        measurements[join.component] |= {m.name: m for m in _join_measurements(join, rows)}
    for tap in taps.attentions:
        kept = evidence.attention.get(tap.component)
        for index, head in enumerate(tap.heads):
            if kept is not None:
                found = pattern_measurements(kept.patterns, index)
                measurements[head] |= {m.name: m for m in found}
    units = {}
    for site in anatomy.sites:
        kept = evidence.sites.get((site.component, site.kind))
        if kept is None or not kept.sensitivity.n:
            continue
        scores = _unit_scores(subject, site, kept, rows.get(site.node), structure)
        units[site.component, site.kind] = scores
        for target, m in _unit_measurements(
            subject.objective, site, scores, kept, evidence.samples
        ):
            measurements[target][m.name] = m
        if site.kind == "layer" and site.source in rows and site.node in rows:
            m = _block_influence(rows[site.source or ""], rows[site.node], evidence.samples)
            measurements[site.component][m.name] = m
    return measurements, units


class _Totals:
    """Model-wide sums that shares are taken of: leaves only, so that nothing counts twice."""

    def __init__(self, components: tuple[Component, ...]):
        leaves = [c for c in components if c.kind not in ("layer", "head", "linear")]
        inside = {c.id for c in components if c.kind in ("attention", "mlp", "experts")}
        leaves += [c for c in components if c.kind == "linear" and c.parent not in inside]
        self.flops = sum(c.flops for c in leaves) or 1
        self.bytes = sum(c.bytes for c in leaves) or 1


def _costs(component: Component, total: _Totals) -> list[Measurement]:
    return [
        Measurement(name="parameters", value=component.parameters, unit="count"),
        Measurement(name="flops", value=component.flops, unit="operations per sample"),
        Measurement(name="flops_share", value=component.flops / total.flops, unit="share"),
        Measurement(name="bytes", value=component.bytes, unit="bytes per sample"),
        Measurement(name="bytes_share", value=component.bytes / total.bytes, unit="share"),
    ]


def _spread(name: str, moments: Moments, unit: str) -> Measurement:
    spread = float(moments.std()) if moments.n > 1 else None
    return Measurement(name=name, value=float(moments.mean()), unit=unit, std=spread, n=moments.n)


def _value_measurements(kept: ValueEvidence, rows: Tensor, structure: bool) -> list[Measurement]:
    rms = float((kept.rms.squares / max(kept.rms.n, 1)).sqrt())
    near_zero = float((rows.abs() < NEAR_ZERO * rms).double().mean()) if rms > 0 else 1.0
    sampled = f"from {rows.shape[0]} rows"
    found = [
        _spread("rms", kept.rms, "activation"),
        Measurement(name="mean_abs", value=float(rows.abs().mean()), unit="activation",
                    n=kept.rms.n, note=sampled),
        Measurement(name="near_zero_share", value=near_zero, unit="share", n=kept.rms.n,
                    note=sampled),
    ]  # fmt: skip
    if rms > 0:
        ratio = kept.largest / rms
        found.append(Measurement(name="outlier_ratio", value=ratio, unit="x RMS", n=kept.rms.n))
    if kept.gradient_rms.n:
        found.append(_spread("gradient_rms", kept.gradient_rms, "objective per activation"))
    return [*found, *_rank_measurements(rows, kept.rms.n)] if structure else found


def _rank_measurements(rows: Tensor, n: int) -> list[Measurement]:
    rank, cap = effective_rank(rows)
    note = f"from {rows.shape[0]} rows; it cannot exceed {cap}"
    return [
        Measurement(name="effective_rank", value=rank, unit="dimensions", n=n, note=note),
        Measurement(name="rank_cap", value=cap, unit="dimensions"),
        Measurement(name="saturation", value=rank / rows.shape[1], unit="share of width"),
    ]


def _join_measurements(join: Join, rows: Mapping[str, Tensor]) -> list[Measurement]:
    skip, branch, total = rows[join.skip], rows[join.branch], rows[join.node]
    if skip.shape != branch.shape:
        return []
    share = proximity_shares(total, [skip, branch])
    ratio = branch.norm(dim=1) / skip.norm(dim=1).clamp_min(1e-12)
    cosine = torch.nn.functional.cosine_similarity(skip, branch, dim=1)
    n = rows[join.node].shape[0]
    return [
        Measurement(name="branch_to_stream", value=float(ratio.mean()), unit="ratio",
                    std=float(ratio.std()), n=n, note="n counts rows"),
        Measurement(name="branch_stream_cosine", value=float(cosine.mean()), unit="cosine",
                    std=float(cosine.std()), n=n, note="n counts rows"),
        Measurement(name="branch_share", value=share[1], unit="share", n=n, note="n counts rows"),
    ]  # fmt: skip


def _block_influence(entered: Tensor, left: Tensor, n: int) -> Measurement:
    if entered.shape != left.shape:
        return Measurement(name="block_influence", value=None, state="could not tell",
                           note="the stream changes its shape")  # fmt: skip
    cosine = torch.nn.functional.cosine_similarity(entered, left, dim=1)
    spread = float(cosine.std()) if len(cosine) > 1 else None
    return Measurement(
        name="block_influence", value=float(1 - cosine.mean()), unit="1 - cos", std=spread, n=n
    )


def _unit_rows(site: Site, rows: Tensor) -> Tensor:
    """Rows [r, c] by unit: [r, U, c / U]."""
    return rows.reshape(rows.shape[0], site.units, -1)


def _unit_scores(
    subject: Subject, site: Site, kept: SiteEvidence, rows: Tensor | None, structure: bool
) -> UnitScores:
    mean = kept.sensitivity.mean()
    scores = predicted_divergence(subject.objective, mean).numpy()
    frequency = rms = None
    duplicates: tuple[tuple[int, int, float], ...] = ()
    likeness: np.ndarray | None = None
    if rows is not None and rows.shape[1] % site.units == 0 and site.units > 1:
        grouped = _unit_rows(site, rows)
        overall = float(rows.square().mean().sqrt())
        size = grouped.square().mean(2).sqrt()
        frequency = (size > NEAR_ZERO * overall).double().mean(0).numpy()
        rms = grouped.square().mean((0, 2)).sqrt().double().numpy()
        if structure and site.kind in ("neuron", "channel") and site.units <= WIDEST:
            correlation = _correlation(grouped[:, :, 0] if grouped.shape[2] == 1 else size)
            duplicates = _duplicates(correlation)
            likeness = correlation.abs().amax(0).double().numpy()
    return UnitScores(
        site=site,
        sensitivity=scores,
        zeroing=predicted_divergence(subject.objective, kept.zeroing.mean()).numpy(),
        taylor=kept.taylor.mean().numpy() if kept.taylor.n else None,
        fisher=_fisher(subject, kept),
        activation_frequency=frequency,
        largest=kept.largest.double().numpy() if kept.largest is not None else None,
        rms=rms,
        duplicates=duplicates,
        likeness=likeness,
    )


def _fisher(subject: Subject, kept: SiteEvidence) -> np.ndarray | None:
    if subject.objective.output == "logits":
        return kept.zeroing.mean().numpy()
    if not kept.attribution.n:
        return None
    return (kept.attribution.squares / kept.attribution.n).numpy()


def _correlation(columns: Tensor) -> Tensor:
    """Correlations of columns [r, U] over rows: [U, U], 0 on the diagonal."""
    centred = columns - columns.mean(0)
    norms = centred.norm(dim=0)
    unit = torch.where(norms > 1e-9, centred / norms.clamp_min(1e-12), torch.zeros(()))
    return (unit.T @ unit).fill_diagonal_(0)


def _duplicates(correlation: Tensor) -> tuple[tuple[int, int, float], ...]:
    """Pairs with |r| at or above the limit; r = -1 is as redundant as +1."""
    pairs = (correlation.triu(1).abs() >= SIMILAR_NEURONS).nonzero()
    found = [(int(i), int(j), float(correlation[i, j])) for i, j in pairs]
    return tuple(sorted(found, key=lambda p: (-abs(p[2]), p[0], p[1]))[:256])


def _unit_measurements(
    objective: Objective, site: Site, scores: UnitScores, kept: SiteEvidence, n: int
) -> list[tuple[str, Measurement]]:
    """Scores of units that are components themselves (heads, branches, layers); dead units."""
    found: list[tuple[str, Measurement]] = []
    if site.kind in ("neuron", "channel"):
        total = float(scores.sensitivity.sum())
        found.append((site.component, Measurement(
            name="unit_sensitivity", value=total, unit="predicted divergence, summed over units",
            n=n)))  # fmt: skip
        if scores.largest is not None:
            dead = int((scores.largest == 0).sum())
            m = Measurement(name="dead_units", value=dead, unit="count", n=n)
            found.append((site.component, m))
        return found
    squares = kept.sensitivity
    spreads = prediction_spread(objective, squares.mean(), squares.std())
    for index, unit in enumerate(site.unit_ids):
        spread = float(spreads[index]) if squares.n > 1 else None
        found.append((unit, Measurement(
            name="sensitivity", value=float(scores.sensitivity[index]),
            unit="predicted divergence", std=spread, n=n)))  # fmt: skip
        if scores.taylor is not None:
            value = float(scores.taylor[index])
            found.append((unit, Measurement(name="taylor", value=value, unit="|Δ loss|", n=n)))
        if kept.attribution.n:
            value = float(kept.attribution.mean()[index])
            found.append((unit, Measurement(name="attribution", value=value, unit="Δ loss", n=n)))
        if scores.activation_frequency is not None and site.kind == "head":
            value = float(scores.activation_frequency[index])
            found.append((unit, Measurement(
                name="activation_frequency", value=value, unit="share", n=n)))  # fmt: skip
    return found


def head_shares(tap: HeadTap, rows: Mapping[str, Tensor]) -> dict[tuple[str, str], float]:
    """Share of each head in what its attention writes, by L1 proximity of z_h W_O^h."""
    if tap.projection is None or tap.core not in rows:
        return {}
    heads, width, _ = tap.projection.shape
    core = rows[tap.core].reshape(-1, heads, width)
    parts = [core[:, h] @ tap.projection[h] for h in range(heads)]
    total = torch.stack(parts).sum(0)
    shares = proximity_shares(total, parts)
    return {(head, tap.component): share for head, share in zip(tap.heads, shares, strict=True)}


def head_similarity(tap: HeadTap, rows: Mapping[str, Tensor]) -> np.ndarray:
    """How alike the outputs of the heads of one attention are, [h, h].

    Formula: cosine of P_i and P_j as vectors over rows and channels, P_h = z_h W_O^h centred over
    rows: 1 when two heads write the same up to scale. Without a projection, linear CKA of z.
    """
    heads = len(tap.heads)
    core = rows[tap.core].double()
    core = (core - core.mean(0)).reshape(core.shape[0], heads, -1)
    found = np.eye(heads)
    if tap.projection is None:
        for i in range(heads):
            for j in range(i):
                found[i, j] = found[j, i] = linear_cka(core[:, i], core[:, j])
        return found
    written = torch.einsum("rhd,hdc->hrc", core, tap.projection.double()).flatten(1)
    unit = torch.nn.functional.normalize(written, dim=1)
    return (unit @ unit.T).numpy()
