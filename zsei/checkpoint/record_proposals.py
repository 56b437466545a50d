"""A decision in the words of any other analysis: proposals, and what the gate said of them."""

from collections.abc import Iterator, Mapping, Sequence

from pydantic import JsonValue

from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.records import Component, Proposal, Verdict

_STRATEGIES = {"channel": "prune-channels", "neuron": "prune-neurons"}


def proposals_of(
    decision: StructuralPruningDecision,
    components: Sequence[Component],
    original: Mapping[str, str],
) -> tuple[Proposal, ...]:
    """One proposal for each place that a decision names.

    Args:
        decision: Its units are numbered as in the model of its request, and so are `params`.
        components: Of that model.
        original: Id there -> id when the run began.
    """
    return tuple(
        Proposal.make(
            strategy=strategy, components=tuple(original.get(c, c) for c in named), params=params,
            priority=number,
            rationale=f"the schedule of the run asked for it at epoch {decision.epoch}",
        )
        for number, (strategy, named, params) in enumerate(_targets(decision, components))
    )  # fmt: skip


def _targets(
    decision: StructuralPruningDecision, components: Sequence[Component]
) -> Iterator[tuple[str, tuple[str, ...], dict[str, JsonValue]]]:
    for target in decision.channels:
        strategy = _STRATEGIES[target.kind]
        params: dict[str, JsonValue] = {f"{target.kind}s": list(target.channel_indices)}
        yield strategy, (target.layer_name,), params
    heads = {(c.parent, c.index): c.id for c in components if c.kind == "head"}
    for target in decision.attention_heads:
        ids = tuple(heads.get((target.layer_name, head), "") for head in target.head_indices)
        named = ids if all(ids) else (target.layer_name,)
        yield "prune-heads", named, {"heads": list(target.head_indices)}
    for target in decision.layers:
        yield "remove-layer", (target.layer_name,), {}


def verdicts_of(
    decision: StructuralPruningDecision, proposals: Sequence[Proposal]
) -> tuple[tuple[Verdict, ...], Verdict | None]:
    """What the gate said: of one proposal, or of all of them together.

    The gate of a run judges a cut as a whole. Of several places each verdict then says so, and the
    numbers stand with the one on all of them. Where the gate was not asked, the reason is the
    decision's own.
    """
    judged = decision.safety.verdict
    if not proposals:
        return (), None
    if judged is None:
        reason = decision.rejection_reason or "the gate was not asked"
        return tuple(
            Verdict(proposal_id=p.id, outcome="inapplicable", reason=reason) for p in proposals
        ), None
    if len(proposals) == 1:
        return (judged.model_copy(update={"proposal_id": proposals[0].id}),), None
    reason = f"judged together with {len(proposals) - 1} more: {judged.reason}"
    each = tuple(
        Verdict(proposal_id=p.id, outcome=judged.outcome, reason=reason) for p in proposals
    )
    together = judged.model_copy(update={"proposal_id": "+".join(p.id for p in proposals)})
    return each, together
