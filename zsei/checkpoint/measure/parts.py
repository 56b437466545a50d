"""The criteria of each place of a group, from what one pass kept.

What flows forward and what flows back are kept apart, since they depend on unlike things: the
former on the weights in front of the place alone. Letters: u unit, r row (sample and position), c
channel, g gradient.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zsei.checkpoint.config import CheckpointConfig
from zsei.subject.types import Site
from zsei.trace.evidence import joined
from zsei.trace.kept import Evidence, Moments
from zsei.trace.rows import proximity_shares
from zsei.trace.summary import NEAR_ZERO, Trace, head_similarity
from zsei.trace.taps import Taps

Parts = dict[str, tuple[float | None, ...]]
"""Criterion -> value per unit, [u]."""
Pairs = tuple[tuple[int, int, float], ...]
MOST_PAIRS = 1024
"""Pairs of units that are alike kept of a place, most alike first."""
_BLOCK = 1024


def forward_parts(
    site: Site, taps: Taps, evidence: Evidence, trace: Trace, config: CheckpointConfig
) -> tuple[Parts, Pairs]:
    """What the values at a place say, and which of its units are alike.

    Channels and neurons: "activation frequency", the share of rows in which a unit is above 0.001
    of the place's RMS. Heads: "attention focus", 1 - normalised entropy of the attention, and
    "diversity", 1 - the highest |cos| of what a head writes with what another one does. Layers:
    "similarity", the mean cos of what enters and what leaves.
    """
    kept = evidence.values.get(site.node)
    if kept is None or ("value", site.node) in evidence.undefined:
        return {}, ()
    rows = joined(kept.rows)
    elesh = config.elesh.structured_pruning
    if site.kind == "layer":
        entered = evidence.values.get(site.source or "")
        if entered is None or ("value", site.source or "") in evidence.undefined:
            return {}, ()
        found = _similarity(joined(entered.rows), rows)
        return {} if found is None else {"similarity": (found,)}, ()
    if site.kind == "head":
        parts: Parts = {}
        named = [
            trace.measurements.get(head, {}).get("attention_entropy") for head in site.unit_ids
        ]
        entropy = [None if m is None else m.value for m in named]
        if any(value is not None for value in entropy):
            focus = (None if e is None else min(max(1 - e, 0.0), 1.0) for e in entropy)
            parts["attention focus"] = tuple(focus)
        tap = next((tap for tap in taps.attentions if tap.core == site.node), None)
        if tap is None or site.units < 2:
            return parts, ()
        alike = torch.from_numpy(head_similarity(tap, {site.node: rows})).fill_diagonal_(0)
        parts["diversity"] = told((1 - alike.abs().amax(0)).clamp(0, 1))
        limit = elesh.attention_analysis.similarity_threshold
        return parts, _most_alike(_pairs_in(alike, 0, limit))
    if rows.shape[1] % site.units:
        return {}, ()
    grouped = rows.reshape(len(rows), site.units, -1)
    size = grouped.square().mean(2).sqrt()
    overall = float(rows.square().mean().sqrt())
    frequency = (size > NEAR_ZERO * overall).double().mean(0)
    columns = grouped[:, :, 0] if grouped.shape[2] == 1 else size
    limit = elesh.channel_analysis.redundancy_threshold
    return {"activation frequency": told(frequency)}, correlated(columns, limit)


def backward_parts(site: Site, evidence: Evidence, trace: Trace) -> Parts:
    """What the gradients at a place say.

    "taylor": E |Σ a · g| of the loss; of a layer E |Σ (y - x) · g|, since leading around it leaves
    x where y was. "output sensitivity": the divergence that probes predict when the mean stands in.
    Layers also: "gradient flow", RMS of g at what enters over RMS at what leaves, and "skip
    potential", see `skip_potential`. Empty where no gradient comes, or one that is no number.
    """
    bad = {("gradient", site.node), ("gradient", site.source or "")}
    bad |= {("value", site.node), ("value", site.source or "")}
    kept = evidence.sites.get((site.component, site.kind))
    scores = trace.units.get((site.component, site.kind))
    if kept is None or scores is None or bad & set(evidence.undefined):
        return {}
    parts: Parts = {"output sensitivity": told(scores.sensitivity)}
    taylor = kept.bypass if site.kind == "layer" else kept.taylor
    if taylor.n:
        parts["taylor"] = told(taylor.mean())
    if site.kind == "layer":
        parts |= _layer_parts(site, evidence)
    return parts


def skip_potential(entered: Tensor, left: Tensor) -> float:
    """Share of the gradient that a layer's own skip carries: what stays when it is led around.

    Formula: g_x = g_y + g_f, g_x the gradient [r, c] at what enters the layer, g_y that at what
    leaves it (what a bypass would hand back) and g_f = g_x - g_y what comes through the layer's
    branches; the share of g_y by L1 proximity (`proximity_shares`), 0 to 1.
    Reading it: near 1 the layer can be led around without taking the gradient from what is before
    it; near 0.5 skip and branches give alike. 0 where what enters and leaves differ in shape.
    Misleads when: something else reads x too, which then counts as the branches'.
    References: He, Zhang, Ren and Sun, "Identity mappings in deep residual networks", 2016.
    """
    if entered.shape != left.shape:
        return 0.0
    return proximity_shares(entered, [left, entered - left])[0]


def correlated(columns: Tensor, limit: float) -> Pairs:
    """Pairs of columns [r, u] whose |r| is at or above a limit; r = -1 is as redundant as 1."""
    centred = columns - columns.mean(0)
    norms = centred.norm(dim=0)
    unit = torch.where(norms > 1e-9, centred / norms.clamp_min(1e-12), torch.zeros(()))
    found: list[tuple[int, int, float]] = []
    for start in range(0, unit.shape[1], _BLOCK):  # of many units never all pairs at once
        block = unit[:, start : start + _BLOCK].T @ unit
        found = list(_most_alike([*found, *_pairs_in(block, start, limit)]))
    return tuple(found)


def told(values: Tensor | NDArray[np.floating[Any]]) -> tuple[float | None, ...]:
    """Numbers per unit; None for what is none."""
    tensor = torch.as_tensor(values, dtype=torch.float64).flatten()
    finite = tensor.isfinite()
    return tuple(v if ok else None for v, ok in zip(tensor.tolist(), finite.tolist(), strict=True))


def _layer_parts(site: Site, evidence: Evidence) -> Parts:
    entered, left = evidence.values.get(site.source or ""), evidence.values.get(site.node)
    if entered is None or left is None or not entered.gradient_rows or not left.gradient_rows:
        return {}
    g_x, g_y = joined(entered.gradient_rows), joined(left.gradient_rows)
    behind = _size(left.gradient_rms)
    flow = _size(entered.gradient_rms) / behind if behind > 0 else None
    return {"gradient flow": (flow,), "skip potential": (skip_potential(g_x, g_y),)}


def _size(moments: Moments) -> float:
    return float((moments.squares / max(moments.n, 1)).sqrt())


def _similarity(entered: Tensor, left: Tensor) -> float | None:
    if entered.shape != left.shape:
        return None
    return float(torch.nn.functional.cosine_similarity(entered, left, dim=1).mean())


def _pairs_in(block: Tensor, start: int, limit: float) -> list[tuple[int, int, float]]:
    """Pairs above the diagonal in rows [start, ...) of a square."""
    strong = (block.abs() >= limit).triu(start + 1).nonzero()
    values = block[strong[:, 0], strong[:, 1]].tolist()
    return [(int(i) + start, int(j), v) for (i, j), v in zip(strong.tolist(), values, strict=True)]


def _most_alike(pairs: Sequence[tuple[int, int, float]]) -> Pairs:
    return tuple(sorted(pairs, key=lambda p: (-abs(p[2]), p[0], p[1]))[:MOST_PAIRS])
