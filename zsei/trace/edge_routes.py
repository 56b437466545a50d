"""Information-flow routes: how near a sum of the stream is to each vector that was added to it.

Where an attention joins the stream, y_i = s_i + Σ_h Σ_j α_ij^h v_j^h W_O^h + b; the parts are the
stream s before it and one vector per head and key. For queries of a few samples the L1 distances of
y_i to all of them are taken in chunks of heads, so that no more than [chunk, T, d] is held.

    near_k = max(0, ‖y‖₁ - ‖y - part_k‖₁),    share_k = near_k / Σ_k near_k

Source: Ferrando and Voita, "Information flow routes: automatically interpreting language models at
scale", 2024.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.trace.attention_maps import AttentionCall, attention_weights
from zsei.trace.edge_plan import EdgePlan
from zsei.trace.edge_stream import Stream
from zsei.trace.edge_values import Whole, written
from zsei.trace.rows import real_rows
from zsei.trace.taps import HeadTap

CHUNK = 2_000_000
"""Numbers held at a time."""


@dataclass(frozen=True, kw_only=True)
class AttentionRoute:
    """Shares of what an attention adds to the stream, averaged over queries."""

    heads: Tensor
    """[q, h]: all keys of a head together."""
    own: Tensor
    """[q]: of all heads, from the query's own position."""
    others: Tensor
    """[q]: of all heads, from other positions."""
    stream: Tensor
    """[q]: the stream before, and what does not depend on the input."""


def join_of(stream: Stream, component: str) -> str | None:
    """The sum that a component's output enters as it is; None where a norm stands in between."""
    numbers = {i for i, w in enumerate(stream.writers) if w.component == component}
    at = [name for name, place in stream.places.items() if numbers & set(place.writers)]
    joins = [
        name for name, place in stream.places.items()
        if place.kind == "sum" and any(source in at for source in place.sources)
    ]  # fmt: skip
    return joins[0] if len(joins) == 1 else None


def attention_route(
    tap: HeadTap, join: str, whole: Whole, queries: int, *, crossed: bool = False
) -> AttentionRoute | None:
    """Shares at the join of one attention.

    Args:
        tap: The attention.
        join: The sum it enters.
        whole: Values of some samples.
        queries: Queries per sample, evenly spread over the real ones.
        crossed: Keys are of another stream, so none of them is the query's own position.
    """
    needed = [whole.values.get(name) for name in (tap.query, tap.key, tap.value, join)]
    if tap.projection is None or any(value is None for value in needed):
        return None
    query, key, value, total = (v for v in needed if v is not None)
    mask = whole.values.get(tap.mask) if tap.mask else None
    call = AttentionCall(query=query, key=key, mask=mask, causal=tap.causal, scale=tap.scale)
    if total.shape[:2] != (query.shape[0], query.shape[2]):
        return None
    weights = attention_weights(call)
    repeats = tap.projection.shape[0] // value.shape[1]
    written_by_key = value.repeat_interleave(repeats, 1) @ tap.projection
    found = [
        _of_sample(weights[s], written_by_key[s], total[s], _queries(whole, s, total, queries))
        for s in range(len(total))
    ]
    heads, own, others, stream = (torch.cat([f[i] for f in found]) for i in range(4))
    if crossed:
        own, others = torch.zeros_like(own), own + others
    return AttentionRoute(heads=heads, own=own, others=others, stream=stream)


def _queries(whole: Whole, sample: int, total: Tensor, count: int) -> Tensor:
    real = torch.arange(total.shape[1])
    if whole.mask is not None and whole.mask.shape == total.shape[:2]:
        real = real[whole.mask[sample]]
    if len(real) <= count:
        return real
    return real[torch.linspace(0, len(real) - 1, count).round().long()]


def _of_sample(
    weights: Tensor, values: Tensor, total: Tensor, queries: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights [h, i, j], values by head and key [h, j, d], total [i, d]."""
    y, chosen = total[queries], weights[:, queries]
    size = y.abs().sum(-1)
    attended = torch.einsum("hij,hjd->id", chosen, values)
    before = (size - attended.abs().sum(-1)).clamp_min(0)
    heads, keys, width = values.shape
    step = max(1, CHUNK // (keys * width))
    near = torch.empty(len(queries), heads, keys)
    for number in range(len(queries)):
        for start in range(0, heads, step):
            part = values[start : start + step] * chosen[start : start + step, number, :, None]
            away = (y[number] - part).abs_().sum(-1)
            near[number, start : start + step] = (size[number] - away).clamp_min(0)
    near[~(chosen.transpose(0, 1) > 0)] = 0
    whole = near.sum((1, 2)) + before
    share = near / whole.clamp_min(1e-12)[:, None, None]
    same = torch.zeros(len(queries))
    if keys == total.shape[0]:
        same = share[torch.arange(len(queries)), :, queries].sum(1)
    return share.sum(2), same, share.sum((1, 2)) - same, before / whole.clamp_min(1e-12)


def branch_share(stream: Stream, component: str, join: str, whole: Whole) -> Tensor | None:
    """Share of a whole branch (an MLP) in the sum it enters, per position [N]."""
    writers = [w for w in stream.writers if w.component == component]
    if len(writers) != 1 or writers[0].weight is not None or join not in whole.values:
        return None
    total = whole.values[join]
    y = total.reshape(-1, total.shape[-1])
    branch = written(writers[0], whole)
    if branch.shape != y.shape:
        return None
    size = y.abs().sum(-1)
    near = (size - (y - branch).abs().sum(-1)).clamp_min(0)
    before = (size - branch.abs().sum(-1)).clamp_min(0)
    return real_rows(near / (near + before).clamp_min(1e-12), whole.mask)


def known_routes(
    taps: tuple[HeadTap, ...], plan: EdgePlan, whole: Whole, queries: int
) -> Mapping[str, AttentionRoute]:
    """Attention -> its shares, where its output joins a stream."""
    read = {name: reader.place for reader in plan.readers for name in reader.names}
    found = {}
    for tap in taps:
        join = join_of(plan.stream, tap.component)
        if join is None:
            continue
        crossed = read.get((tap.heads[0], "q")) != read.get((tap.heads[0], "k"))
        route = attention_route(tap, join, whole, queries, crossed=crossed)
        if route is not None:
            found[tap.component] = route
    return found
