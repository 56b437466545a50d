"""One pass over the calibration data: forward, gradients, and what is kept of them.

Per batch one forward run with a gradient tape that starts at the first tapped value (weights are
frozen, so only activations cost), one backward per probe, and a fixed number of rows of every
value. Everything else is computed from those rows and from sums. On MiniLM this costs about as much
as the forward and backward themselves.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from zsei.subject.objective import Objective, loss, readout
from zsei.subject.objective import probes as draw
from zsei.subject.screen import finite_samples
from zsei.subject.types import Batch, Site
from zsei.trace.activation_functions import FLAT, ActivationTap
from zsei.trace.attention_evidence import AttentionEvidence, keep_attention
from zsei.trace.edge_values import (
    Whole,
    WholeTaps,
    joined_whole,
    keep_gradients,
    keep_values,
    share_of,
)
from zsei.trace.engine import Engine
from zsei.trace.groups import class_members, group_members
from zsei.trace.kept import Evidence, FlatRows, Moments, SiteEvidence, ValueEvidence
from zsei.trace.responses import (
    attribution,
    removal_responses,
    root_mean_square,
    unit_mean,
)
from zsei.trace.rows import row_samples, take_rows
from zsei.trace.stretches import stretches
from zsei.trace.taps import Taps


def collect_means(
    engine: Engine, sites: Iterable[Site], batches: Iterable[Batch]
) -> dict[tuple[str, str], Tensor]:
    """Mean value of every site over the data (padding left out): what mean ablation puts in."""
    totals: dict[tuple[str, str], tuple[Tensor, float]] = {}
    by_node: dict[str, list[Site]] = {}
    for site in sites:
        by_node.setdefault(site.node, []).append(site)
    for batch in batches:

        def watching(here: list[Site], batch: Batch = batch) -> Callable[[Tensor], None]:
            def see(value: Tensor) -> None:
                for site in here:
                    key = (site.component, site.kind)
                    total, count = unit_mean(value, site, batch.mask)
                    known = totals.get(key)
                    totals[key] = (total, count) if known is None else (
                        known[0] + total, known[1] + count
                    )  # fmt: skip

            return see

        with torch.no_grad():
            engine.run(batch, {node: watching(here) for node, here in by_node.items()})
    return {key: total / count for key, (total, count) in totals.items()}


def collect(
    engine: Engine,
    taps: Taps,
    objective: Objective,
    batches: Iterable[Batch],
    *,
    probes: int,
    seed: int,
    rows: int,
    means: Mapping[tuple[str, str], Tensor] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Evidence:
    """Run the pass.

    Args:
        engine: Runs the model.
        taps: What to watch.
        objective: Gives the probes and, with labels, the loss.
        batches: Calibration data.
        probes: Random output directions per batch.
        seed: Seeds the probes.
        rows: Rows kept per value over all batches.
        means: What mean ablation puts in; None takes each batch's own mean, which saves a run.
        progress: Called with the share done.
    """
    batches = list(batches)
    evidence = Evidence(means=dict(means or {}))
    generator = torch.Generator().manual_seed(seed)
    per_batch = max(2, rows // max(len(batches), 1))
    for number, batch in enumerate(batches):
        kept_whole = share_of(number, len(batches))
        _one_batch(
            engine, taps, objective, batch, probes, generator, per_batch, evidence, means,
            kept_whole,
        )  # fmt: skip
        if progress is not None:
            progress((number + 1) / len(batches))
    evidence.whole = [joined_whole(evidence.whole)]
    # Layers may have been run in another order.
    evidence.values = {n: evidence.values[n] for n in taps.values if n in evidence.values}
    for kept in evidence.values.values():
        # One value after the other, so that no more than one is in memory twice.
        kept.rows = [joined(kept.rows)]
        if kept.gradient_rows:
            kept.gradient_rows = [joined(kept.gradient_rows)]
    return evidence


def joined(parts: list[Tensor]) -> Tensor:
    """The rows of all batches as one tensor; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _one_batch(
    engine: Engine, taps: Taps, objective: Objective, batch: Batch, probes: int,
    generator: torch.Generator, rows: int, evidence: Evidence,
    means: Mapping[tuple[str, str], Tensor] | None, kept_whole: int,
) -> None:  # fmt: skip
    looked_at = {
        name
        for tap in taps.attentions
        for name in (tap.query, tap.key, tap.value, tap.mask)
        if name
    } | {tap.source for tap in taps.activations}
    evidence.samples += batch.size

    def scalars(output: Tensor) -> list[Tensor]:
        seen = readout(objective, output, batch)
        found = [s.sum() for s in draw(objective, seen, batch, probes, generator)]
        return [*found, loss(objective, seen, batch).sum()] if objective.supervised else found

    edges = taps.edges.taps if kept_whole else WholeTaps()
    evidence.whole.append(Whole())
    wanted, shown = {*taps.values, *edges.gradients}, {*looked_at, *edges.values}
    for stretch in stretches(engine, batch, wanted, shown, scalars):
        _keep_values(taps, stretch.made, batch, rows, evidence)
        keep_values(evidence.whole[-1], edges, stretch.calls, batch, kept_whole)
        for tap in taps.attentions:
            if tap.core in stretch.made:
                kept = evidence.attention.setdefault(tap.component, AttentionEvidence())
                with torch.no_grad():
                    keep_attention(taps, tap, stretch.calls, batch, kept)
        here = [tap for tap in taps.activations if tap.source in stretch.calls]
        _keep_activations(here, stretch.calls, batch, rows, evidence)
        for number, found in enumerate(stretch.gradients):
            gradients = {name: g for name, g in found.items() if name not in taps.no_gradient}
            is_loss = number == probes
            last = number == probes - (not objective.supervised)
            _keep_gradients(
                taps,
                stretch.alive,
                gradients,
                batch,
                evidence,
                means,
                is_loss=is_loss,
                objective=objective,
            )
            if is_loss or (last and not objective.supervised):
                keep_gradients(evidence.whole[-1], edges, gradients, batch)
                for name, gradient in gradients.items():
                    if name not in taps.values:
                        continue
                    kept = evidence.values[name]
                    size = root_mean_square(gradient)
                    kept.gradient_rms.add(size)
                    _note_undefined(evidence, ("gradient", name), size, gradient, batch)
                    kept.gradient_rows.append(
                        take_rows(gradient, taps.values[name], batch.mask, rows)
                    )


def _note_undefined(
    evidence: Evidence, key: tuple[str, str], size: Tensor, value: Tensor, batch: Batch
) -> None:
    """Write down the samples on which a value is no number; `size` is a cheap sign of it."""
    if bool(size.isfinite().all()):
        return
    bad = (~finite_samples(value, batch.size)).nonzero().flatten()
    if len(bad):
        first = evidence.samples - batch.size
        evidence.undefined.setdefault(key, set()).update((first + bad).tolist())


def _keep_values(
    taps: Taps, alive: Mapping[str, Tensor], batch: Batch, rows: int, evidence: Evidence
) -> None:
    with torch.no_grad():
        for name, axis in taps.values.items():
            value = alive.get(name)
            if value is None:
                continue
            kept = evidence.values.setdefault(name, ValueEvidence())
            size = root_mean_square(value)
            kept.rms.add(size)
            _note_undefined(evidence, ("value", name), size, value, batch)
            low, high = torch.aminmax(value)
            kept.largest = max(kept.largest, -float(low), float(high))
            kept.rows.append(take_rows(value, axis, batch.mask, rows))
            first = evidence.samples - batch.size
            kept.row_samples.append(first + row_samples(value, axis, batch, rows))
        for site in taps.sites:
            if site.kind in ("neuron", "channel") and site.node in alive:
                value, axis = alive[site.node], site.axis or 0
                others = tuple(a for a in range(value.ndim) if a != axis)
                largest = torch.maximum(value.amax(others), -value.amin(others))
                kept = evidence.sites.setdefault((site.component, site.kind), SiteEvidence())
                kept.largest = (
                    largest if kept.largest is None else torch.maximum(kept.largest, largest)
                )


def _keep_activations(
    activations: Iterable[ActivationTap], calls: Mapping[str, Tensor], batch: Batch, rows: int,
    evidence: Evidence,
) -> None:  # fmt: skip
    first = evidence.samples - batch.size
    for tap in activations:
        entered = take_rows(calls[tap.source], tap.axis, batch.mask, rows)
        kept = evidence.saturated.setdefault(tap.node, FlatRows())
        kept.rows.append(tap.slope(entered).abs() < FLAT)
        kept.samples.append(first + row_samples(calls[tap.source], tap.axis, batch, rows))


def _keep_gradients(
    taps: Taps, alive: Mapping[str, Tensor], gradients: Mapping[str, Tensor], batch: Batch,
    evidence: Evidence, means: Mapping[tuple[str, str], Tensor] | None, *, is_loss: bool,
    objective: Objective,
) -> None:  # fmt: skip
    members, classes = group_members(batch), class_members(objective, batch)
    for site in taps.sites:
        gradient = gradients.get(site.node)
        if gradient is None:
            continue
        key = (site.component, site.kind)
        kept = evidence.sites.setdefault(key, SiteEvidence())
        value = alive[site.node]
        if is_loss:
            signed = attribution(gradient, value, site, batch.size)
            kept.attribution.add(signed)
            kept.taylor.add(signed.abs())
            entered = alive.get(site.source) if site.source else None
            if site.kind == "layer" and entered is not None and entered.shape == value.shape:
                around = attribution(gradient, value.detach() - entered.detach(), site, batch.size)
                kept.bypass.add(around.abs())
            continue
        if means is not None:
            mean = means.get(key)
        else:
            total, count = unit_mean(value, site, batch.mask)
            mean = total / count
            evidence.means.setdefault(key, mean)
        entered = alive.get(site.source) if site.source else None
        averaged, zeroed = removal_responses(gradient, value, mean, site, entered, batch.size)
        squared = averaged.square()
        _note_undefined(evidence, ("gradient", site.node), squared, gradient, batch)
        kept.sensitivity.add(squared)
        for group, chosen in members.items():
            kept.grouped.setdefault(group, Moments()).add(squared[chosen])
        for label, chosen in classes.items():
            kept.labelled.setdefault(label, Moments()).add(squared[chosen])
        kept.zeroing.add(zeroed.square())
    if objective.supervised and not is_loss:
        return
    for join in taps.joins:
        gradient = gradients.get(join.node)
        if gradient is None:
            continue
        for name in (join.skip, join.branch):
            product = (gradient * alive[name].detach()).reshape(batch.size, -1).sum(1)
            edge = evidence.join_gradients.setdefault(f"{name}->{join.node}", Moments())
            edge.add(product if is_loss else product.square())
