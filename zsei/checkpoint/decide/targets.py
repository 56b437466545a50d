"""What was chosen, in the words of the messages."""

from dataclasses import dataclass

from zsei.checkpoint.config import StructuredPruning
from zsei.checkpoint.contracts import (
    AttentionHeadTarget,
    ChannelPruningTarget,
    HeadRedundancy,
    LayerPruningTarget,
)  # fmt: skip
from zsei.checkpoint.decide.choose import Chosen
from zsei.checkpoint.decide.cuttable import Cuttable, units_of
from zsei.checkpoint.tasks import DecideTask


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What goes, by kind, in the order of the keys."""

    channels: tuple[ChannelPruningTarget, ...] = ()
    attention_heads: tuple[AttentionHeadTarget, ...] = ()
    layers: tuple[LayerPruningTarget, ...] = ()

    @property
    def components(self) -> tuple[str, ...]:
        """Ids of the components that lose something."""
        targets = (*self.channels, *self.attention_heads, *self.layers)
        return tuple(sorted({target.layer_name for target in targets}))


def targets_of(
    place: Cuttable, chosen: Chosen, task: DecideTask, limits: StructuredPruning
) -> Targets:
    """What goes, with the importance it was chosen by and what else is known of it."""
    parts = {part.key: part for part in place.parts}
    channels, heads, layers = [], [], []
    for key, groups in sorted(chosen.items()):
        part, site, told = parts[key], place.sites[key], task.parts.get(key, {})
        units = units_of(groups, part.together)
        importance = tuple(value for u in units if (value := part.importance[u]) is not None)
        if site.kind == "layer":
            layers.append(
                LayerPruningTarget(
                    layer_name=part.component,
                    importance=importance[0],
                    similarity=_first(told.get("similarity", ())),
                    skip_potential=_first(told.get("skip potential", ())),
                )
            )
        elif site.kind == "head":
            focus = told.get("attention focus", ())
            heads.append(
                AttentionHeadTarget(
                    layer_name=part.component,
                    head_indices=units,
                    head_importance=importance,
                    attention_entropy=tuple(_entropy(focus[u]) for u in units) if focus else (),
                    redundancy_pairs=tuple(
                        HeadRedundancy(first=first, second=second, similarity=similarity)
                        for first, second, similarity in part.alike
                        if {first, second} & set(units)
                    ),
                    redundancy_threshold=limits.attention_analysis.similarity_threshold,
                )
            )
        else:
            channels.append(
                ChannelPruningTarget(
                    layer_name=part.component,
                    kind="neuron" if site.kind == "neuron" else "channel",
                    channel_indices=units,
                    channel_importance=importance,
                )
            )
    return Targets(channels=tuple(channels), attention_heads=tuple(heads), layers=tuple(layers))


def _entropy(focus: float | None) -> float | None:
    """Normalised entropy, from what heads are ranked by."""
    return None if focus is None else 1 - focus


def _first(values: tuple[float | None, ...]) -> float | None:
    return values[0] if values else None
