"""One example of each message: in the schemas, in the service's documentation, and in tests."""

from zsei.checkpoint.contracts import (
    AnalysisParameters,
    AnalysisReport,
    ApplicationReport,
    ChannelImportanceData,
    ChannelPruningTarget,
    CheckpointMetadata,
    Message,
    PrunedArchitecture,
    PruningMasks,
    PruningStatistics,
    SafetyValidation,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
    TensorMask,
    request_key,
)
from zsei.records import Measurement, Verdict
from zsei.surgery.module_edit import Attribute, ModuleEdit, TensorCut

_KEY = request_key(epoch=31, architecture_hash="1f0c2d3e4a5b", request_id="digits-31")
_DECISION = "d-5b1e0c7a92f4"
_DECISION_KEY = f"31:9a8b7c6d5e4f:{_DECISION}:conservative"

REQUEST = StructuralAnalysisRequest(
    request_id="digits-31",
    idempotency_key=_KEY,
    checkpoint=CheckpointMetadata(
        run="digits", epoch=31, step=6200, weights="uploads/digits-31.safetensors", accuracy=0.93,
        loss=0.24,
    ),
    architecture=PrunedArchitecture(
        model_class="Classifier", parameters=2410, original_parameters=2410,
        shapes={"first.weight": (64, 24), "first.bias": (64,), "second.weight": (10, 64),
                "second.bias": (10,)},
    ),
    parameters=AnalysisParameters(mode="remove"),
)  # fmt: skip
DECISION = StructuralPruningDecision(
    decision_id=_DECISION,
    idempotency_key=_DECISION_KEY,
    request_id="digits-31",
    run="digits",
    epoch=31,
    mode="remove",
    channels=(
        ChannelPruningTarget(
            layer_name="first", kind="neuron", channel_indices=(3, 17),
            channel_importance=(0.00021, 0.00034),
        ),
    ),
    statistics=PruningStatistics(
        parameters_before=2410, parameters_after=2340, original_parameters=2410, sparsity_before=0,
        sparsity_after=0.029, sparsity_wanted=0.03, channels=2,
    ),
    safety=SafetyValidation(
        phase="conservative", tried=1, breaker="the circuit breaker is closed",
        verdict=Verdict(
            proposal_id=_DECISION, outcome="accepted", reason="inside the limits",
            bounds=(Measurement(name="divergence", value=0.004, n=256, note="limit 0.05"),),
        ),
    ),
    edit=ModuleEdit(
        cuts=(
            TensorCut(name="first.weight", axis=0, removed=(3, 17)),
            TensorCut(name="first.bias", axis=0, removed=(3, 17)),
            TensorCut(name="second.weight", axis=1, removed=(3, 17)),
        ),
        attributes=(
            Attribute(module="first", name="out_features", value=62),
            Attribute(module="second", name="in_features", value=62),
        ),
    ),
    masks=PruningMasks(masks=(TensorMask(name="first.weight", axis=0, removed=(3, 17)),)),
    approved_for_application=True,
)  # fmt: skip
APPLIED = ApplicationReport(
    decision_id=_DECISION, idempotency_key=f"32:{_DECISION}:applied", run="digits", epoch=32,
    outcome="applied", reason="approved by the gate", parameters=2340, accuracy_before=0.93,
    accuracy_after=0.93, loss_before=0.24, loss_after=0.25,
)  # fmt: skip
REPORT = AnalysisReport(
    request_id="digits-31", idempotency_key=_KEY, run="digits", epoch=31, depth="full",
    confidence=1.0, record_id="a-0f1e2d3c4b5a", seconds=12.5, peak_memory_bytes=612_000_000,
    ranking_accuracy=Measurement(name="ranking_accuracy", value=0.93, unit="Kendall", n=24),
    importance=(
        ChannelImportanceData(
            layer_name="first", kind="neuron", importance=(0.4, 0.6),
            parts={"taylor": (0.35, 0.65), "magnitude": (0.5, 0.5)},
        ),
    ),
    recommendations=("epoch 32: conservative, up to 3.1 % of the original parameters",),
)  # fmt: skip

EXAMPLES: dict[str, Message] = {
    type(message).__name__: message for message in (REQUEST, DECISION, APPLIED, REPORT)
}
"""Name of a message -> one of them."""
