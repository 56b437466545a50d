"""What a decoder's attention has to keep per token, and which heads look far back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

from zsei.measures.modality import answers_from_the_last, few_samples, text_input
from zsei.records import Component, Measurement
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class AttentionMemory:
    """Bytes of keys and values per token, how far they are shared, and who uses them from afar.

    Measures: the cache that decoding needs, per attention and in all, and the range over which
    heads carry what matters.

    Formula: kv_bytes_per_token = 2 · (key heads · head size) · bytes per number; gqa_ratio = query
    heads / key heads, both from the widths of the projections; kv_cache_share = cache of the
    context given over cache and weights. long_range_share of a head = d_h s_h / Σ d s over all
    heads, d_h its mean attention distance in tokens, s_h its output sensitivity; effect_distance
    of an attention = Σ d s / Σ s over its heads.

    Reading it: heads of a high long_range_share are those that a shorter window would cost; the
    rest can do with a sliding window. The share of the cache grows with the context.

    Misleads when: attention goes where nothing is read (mass parked on the first token counts as
    distance, though its effect is small), or the runtime keeps the cache in another precision.

    References: Ainslie et al., "GQA: training generalized multi-query transformer models from
    multi-head checkpoints", EMNLP 2023; Xiao et al., "Efficient streaming language models with
    attention sinks", ICLR 2024.
    """

    name: ClassVar[str] = "attention-memory"

    samples: int = 2
    """Samples on which it is tested whether later tokens change earlier outputs."""

    def measure(self, view: View) -> Measured:
        """Numbers on attentions, heads and the output; nothing for models that do not decode."""
        subject = view.subject
        index = text_input(subject)
        if index is None:
            return Measured()
        attentions = [c for c in subject.anatomy.components if c.kind == "attention"]
        if not attentions:
            return Measured()
        found = _far_heads(view)
        few = few_samples(subject, self.samples)
        if not answers_from_the_last(subject, index, few):
            return Measured(measurements=found)
        size = next(iter(subject.model.parameters())).element_size()
        total = 0
        for attention in attentions:
            widths = _widths(view, attention)
            if widths is None:
                continue
            query, key = widths
            total += 2 * key * size
            found[attention.id] = (
                *found.get(attention.id, ()),
                Measurement(
                    name="kv_bytes_per_token", value=2 * key * size, unit="bytes per token"
                ),
                Measurement(name="gqa_ratio", value=query / key, unit="query heads per key head"),
            )
        if total:
            given = few.inputs[index].shape[1]
            weights = sum(p.numel() * p.element_size() for p in subject.model.parameters())
            note = f"{given} tokens of one text, over its cache and {weights} bytes of weights"
            last = subject.anatomy.components[-1].id
            found[last] = (
                *found.get(last, ()),
                Measurement(name="kv_bytes_per_token", value=total, unit="bytes per token",
                            note="all attentions"),
                Measurement(name="kv_cache_share", unit="share", note=note,
                            value=total * given / (total * given + weights)),
            )  # fmt: skip
        return Measured(measurements=found)


def _widths(view: View, attention: Component) -> tuple[int, int] | None:
    """(width of the queries, width of the keys), from the linears of an attention."""
    linears = [
        c for c in view.subject.anatomy.components
        if c.parent == attention.id and c.kind == "linear"
    ]  # fmt: skip
    site = view.subject.anatomy.site(attention.id, "head")
    core = view.rows.get(site.node) if site is not None else None
    if core is None or len(linears) < 2:
        return None
    query = core.shape[1]
    making = [c.width for c in linears[:-1]]
    if len(making) == 1:
        both = making[0] - query
        return (query, both // 2) if both > 0 and both % 2 == 0 else None
    return query, min(making)


def _far_heads(view: View) -> dict[str, tuple[Measurement, ...]]:
    """Distance weighted by effect, per head and per attention."""
    pairs: dict[str, tuple[float, float, int]] = {}
    parents: Mapping[str, str | None] = {c.id: c.parent for c in view.subject.anatomy.components}
    for component in view.subject.anatomy.components:
        named = view.measurements.get(component.id, {})
        distance, effect = named.get("attention_distance"), named.get("sensitivity")
        if component.kind != "head" or distance is None or effect is None:
            continue
        if distance.value is not None and effect.value is not None:
            pairs[component.id] = (distance.value, max(effect.value, 0.0), distance.n)
    total = sum(d * s for d, s, _ in pairs.values())
    if total <= 0:
        return {}
    found: dict[str, tuple[Measurement, ...]] = {
        head: (Measurement(name="long_range_share", value=d * s / total, unit="share", n=n),)
        for head, (d, s, n) in pairs.items()
    }
    for attention in dict.fromkeys(parents[head] for head in pairs):
        own = [pairs[head] for head in pairs if parents[head] == attention]
        weight = sum(s for _, s, _ in own)
        if attention is not None and weight > 0:
            value = sum(d * s for d, s, _ in own) / weight
            found[attention] = (
                Measurement(name="effect_distance", value=value, unit="tokens", n=own[0][2]),
            )
    return found
