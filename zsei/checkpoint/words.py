"""A decision in words."""

from zsei.checkpoint.contracts import StructuralPruningDecision

_LISTED = 3
"""Places that are named one by one."""


def in_words(decision: StructuralPruningDecision) -> str:
    """What goes, or would go, and why nothing does, in one sentence."""
    reason = decision.rejection_reason.strip().rstrip(".") or "nothing was found that may go"
    reason = reason[:1].lower() + reason[1:]
    cut = _cut(decision)
    if decision.approved_for_application:
        if decision.mode == "mask":
            return f"Held at zero: {cut}{_becomes(decision, 'would become')}."
        return f"To be taken out: {cut}{_becomes(decision, 'become')}."
    verdict = decision.safety.verdict
    if cut and verdict is not None and verdict.outcome == "accepted":
        could = f"Could go, as the gate measured: {cut}{_becomes(decision, 'would become')}"
        return f"{could}. Nothing is done: {reason}."
    return f"Nothing goes: {reason}."


def _cut(decision: StructuralPruningDecision) -> str:
    """Such as "3 neurons and 1 head in h.0/mlp, h.1/attention"; empty when nothing would go."""
    counts = {"channel": 0, "neuron": 0, "head": 0, "layer": len(decision.layers)}
    for target in decision.channels:
        counts[target.kind] += len(target.channel_indices)
    for heads in decision.attention_heads:
        counts["head"] += len(heads.head_indices)
    what = [f"{n} {kind if n == 1 else kind + 's'}" for kind, n in counts.items() if n]
    places = [
        target.layer_name
        for target in (*decision.channels, *decision.attention_heads, *decision.layers)
    ]
    rest = " and elsewhere" if len(places) > _LISTED else ""
    return f"{' and '.join(what)} in {', '.join(places[:_LISTED])}{rest}" if what else ""


def _becomes(decision: StructuralPruningDecision, verb: str) -> str:
    told = decision.statistics
    if told is None:
        return ""
    return f"; {told.parameters_before:,} parameters {verb} {told.parameters_after:,}"
