"""A decision in one sentence."""

from typing import Any

import pytest

from zsei.checkpoint.contracts import (
    AttentionHeadTarget,
    ChannelPruningTarget,
    LayerPruningTarget,
    PruningStatistics,
    SafetyValidation,
    StructuralPruningDecision,
)
from zsei.checkpoint.words import in_words
from zsei.records import Verdict


def decision(outcome: Any = None, **changes: Any) -> StructuralPruningDecision:
    verdict = None
    if outcome is not None:
        verdict = Verdict.model_construct(outcome=outcome)
    return StructuralPruningDecision.model_construct(
        safety=SafetyValidation.model_construct(phase="moderate", verdict=verdict), **changes
    )


def neurons(*places: str) -> tuple[ChannelPruningTarget, ...]:
    return tuple(
        ChannelPruningTarget(
            layer_name=place, kind="neuron", channel_indices=(1, 2), channel_importance=(0.1, 0.2)
        )
        for place in places
    )


HEADS = (
    AttentionHeadTarget(layer_name="h.1/attention", head_indices=(3,), head_importance=(0.1,)),
)
LAYERS = (LayerPruningTarget(layer_name="h.2", importance=0.1),)
NUMBERS = PruningStatistics(
    parameters_before=12_000, parameters_after=11_000, original_parameters=12_000,
    sparsity_before=0.0, sparsity_after=0.08, sparsity_wanted=0.1,
)  # fmt: skip

SAID = {
    "nothing": (decision(rejection_reason="The breaker is open."),
                "Nothing goes: the breaker is open."),
    "no reason": (decision(), "Nothing goes: nothing was found that may go."),
    "observed": (
        decision("accepted", channels=neurons("h.0/mlp"), statistics=NUMBERS,
                 rejection_reason="observe only"),
        "Could go, as the gate measured: 2 neurons in h.0/mlp; 12,000 parameters would become "
        "11,000. Nothing is done: observe only.",
    ),
    "rejected": (
        decision("rejected", channels=neurons("h.0/mlp"), rejection_reason="It lost 9 %"),
        "Nothing goes: it lost 9 %.",
    ),
    "removed": (
        decision("accepted", channels=neurons("h.0/mlp"), attention_heads=HEADS, layers=LAYERS,
                 statistics=NUMBERS, mode="remove", approved_for_application=True),
        "To be taken out: 2 neurons and 1 head and 1 layer in h.0/mlp, h.1/attention, h.2; 12,000 "
        "parameters become 11,000.",
    ),
    "masked": (
        decision("accepted", channels=neurons(*"abcd"), mode="mask", approved_for_application=True),
        "Held at zero: 8 neurons in a, b, c and elsewhere.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("told", "says"), SAID.values(), ids=SAID.keys())
def test_a_decision_in_words(told: StructuralPruningDecision, says: str) -> None:
    assert in_words(told) == says
