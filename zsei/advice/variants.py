"""Turns an edit that a language model asks for into a proposal the program can carry out."""

from zsei.advice.schemas import SIZES, Variant
from zsei.records import AnalysisRecord, Proposal
from zsei.strategies import find_strategy

_EFFECTS = ("ablation_effect", "sensitivity")
"""By which heads are told apart, the exact one first."""


def as_proposal(variant: Variant, record: AnalysisRecord) -> Proposal:
    """The proposal that a variant means.

    A size of an attention is that share of its heads, at least one, those of least effect;
    heads that are named themselves all go. Strategies that take a fraction get it.
    """
    fraction = SIZES[variant.size]
    components: dict[str, None] = {}
    for name in variant.components:
        heads = [c.id for c in record.components if c.kind == "head" and c.parent == name]
        if variant.strategy == "prune-heads" and heads:
            heads.sort(key=lambda head: (_effect(head, record), head))
            heads = heads[: max(1, int(fraction * len(heads)))]
            components |= dict.fromkeys(heads)
        else:
            components[name] = None
    takes_fraction = "fraction" in find_strategy(variant.strategy).params.model_fields
    return Proposal.make(
        strategy=variant.strategy,
        components=tuple(components),
        params={"fraction": fraction} if takes_fraction else {},
    )


def _effect(head: str, record: AnalysisRecord) -> float:
    """What removing a head does, as far as it is known; unknown is taken for much."""
    for name in _EFFECTS:
        found = record.measured(head, name)
        if found is not None and found.value is not None:
            return found.value
    return float("inf")
