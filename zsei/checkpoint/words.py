"""A decision in words."""

from zsei.checkpoint.contracts import StructuralPruningDecision

_DONE = {"observe": "would go", "mask": "are held at zero", "remove": "go"}


def in_words(decision: StructuralPruningDecision) -> str:
    """What goes and why, or why nothing does, in one sentence."""
    if not decision.approved_for_application:
        why = decision.rejection_reason or "nothing was found that may go."
        return f"Nothing goes: {why[:1].lower()}{why[1:]}"
    what = [
        f"{count} {noun if count == 1 else noun + 's'}"
        for count, noun in _counts(decision)
        if count
    ]
    share = ""
    if decision.statistics is not None:
        before, after = decision.statistics.parameters_before, decision.statistics.parameters_after
        share = f"; {before:,} parameters become {after:,}"
    return f"{' and '.join(what) or 'Units'} {_DONE[decision.mode]}{share}."


def _counts(decision: StructuralPruningDecision) -> list[tuple[int, str]]:
    found = {"channel": 0, "neuron": 0}
    for target in decision.channels:
        found[target.kind] += len(target.channel_indices)
    return [
        *((count, kind) for kind, count in found.items()),
        (sum(len(target.head_indices) for target in decision.attention_heads), "head"),
        (len(decision.layers), "layer"),
    ]
