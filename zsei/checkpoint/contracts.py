"""The messages between a training run and the analysis beside it.

A run sends a `StructuralAnalysisRequest` with each checkpoint and gets a
`StructuralPruningDecision` back; what it did with it comes back as an `ApplicationReport`. All are
JSON, refuse unknown keys and carry the version of this contract. Each has an idempotency key:
sending it twice changes nothing and gives the first answer again. `zsei contracts` prints their
JSON schemas.
"""

from typing import Literal, get_args

from pydantic import Field, field_validator

from zsei.gate.phases import Phase
from zsei.records import Measurement, Record, Verdict
from zsei.settings import SafetyLevel
from zsei.surgery.module_edit import ModuleEdit

VERSION = "1.0"
"""Version of the contract: another first number is another contract, another second one adds
optional fields."""

Level = Literal["channels", "heads", "layers"]
"""Levels of analysis; each is also a kind of change (`zsei.settings.EditKind`)."""
LEVELS: tuple[Level, ...] = get_args(Level)
Mode = Literal["observe", "mask", "remove"]
"""What may be done with a decision: nothing, hold at zero, take out."""
UnitKind = Literal["channel", "neuron", "head", "layer"]
Depth = Literal["full", "channels", "basic", "previous", "none"]
"""How far an analysis came: everything; channels only (too little memory); magnitudes of weights
only (out of time, or no gradients); the analysis of an earlier checkpoint; nothing."""


class Message(Record):
    """Base of all messages."""

    version: str = VERSION

    @field_validator("version")
    @classmethod
    def _known(cls, value: str) -> str:
        if value.partition(".")[0] != VERSION.partition(".")[0]:
            raise ValueError(
                f"messages of version {VERSION} are understood, and this one is of version "
                f"{value}; update the side that is older"
            )
        return value


class CheckpointMetadata(Record):
    """Which checkpoint, and where its weights are."""

    run: str
    """Name of the training run."""
    epoch: int = Field(ge=1)
    """Counted from 1."""
    step: int | None = Field(default=None, ge=0)
    weights: str
    """File or folder with the weights, relative to the run's folder (such as
    `snapshots/000031.safetensors`) or to the folder that is watched or served."""
    sha256: str = ""
    """Of the weights' file; empty: not checked."""
    accuracy: float | None = Field(default=None, ge=-1, le=1)
    """What training measured on its own validation data, as a share of 1."""
    loss: float | None = None


class PrunedArchitecture(Record):
    """What the model looks like at a checkpoint, and how it came to."""

    model_class: str
    parameters: int = Field(ge=1)
    original_parameters: int = Field(ge=1)
    """Before the first cut of this run."""
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Parameter -> shape."""
    applied: tuple[str, ...] = ()
    """Ids of the decisions that were carried out and stand, oldest first."""
    masked: tuple[str, ...] = ()
    """Those among them whose units are still there, held at zero."""


class AnalysisParameters(Record):
    """What is to be looked at."""

    levels: tuple[Level, ...] = LEVELS
    mode: Mode = "observe"


class PerformanceRequirements(Record):
    """What the analysis may take."""

    timeout_seconds: float = Field(default=300.0, gt=0)
    """For the whole checkpoint."""
    memory_gigabytes: float = Field(default=4.0, gt=0)
    """Resident memory of each worker."""


class StructuralAnalysisRequest(Message):
    """Asks for the analysis of one checkpoint, and for a decision about it."""

    request_id: str = Field(min_length=1, max_length=200)
    idempotency_key: str = Field(min_length=1, max_length=500)
    """`{epoch}:{architecture hash}:{request_id}` (`request_key`)."""
    checkpoint: CheckpointMetadata
    architecture: PrunedArchitecture
    parameters: AnalysisParameters = AnalysisParameters()
    requirements: PerformanceRequirements = PerformanceRequirements()


class ChannelImportanceData(Record):
    """What was measured of the channels, neurons or heads of one place, or of one layer."""

    layer_name: str
    """Component id, such as `encoder.layer.3/mlp`."""
    kind: UnitKind
    importance: tuple[float | None, ...]
    """Combined, per unit; None where it was not measured."""
    parts: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)
    """Name of a criterion ("taylor", "magnitude", "activation frequency" ...) -> per unit."""
    correlations: tuple[tuple[int, int, float], ...] = ()
    """(unit, unit, r) of those that are alike."""


class HeadRedundancy(Record):
    """Two heads that write alike."""

    first: int
    second: int
    similarity: float


class ChannelPruningTarget(Record):
    """Channels or neurons that go."""

    layer_name: str
    kind: Literal["channel", "neuron"]
    channel_indices: tuple[int, ...]
    """Numbers in the architecture of the request."""
    channel_importance: tuple[float, ...]


class AttentionHeadTarget(Record):
    """Heads that go."""

    layer_name: str
    head_indices: tuple[int, ...]
    head_importance: tuple[float, ...]
    attention_entropy: tuple[float | None, ...] = ()
    redundancy_pairs: tuple[HeadRedundancy, ...] = ()
    redundancy_threshold: float = 0.95


class LayerPruningTarget(Record):
    """A layer that goes."""

    layer_name: str
    importance: float
    similarity: float | None = None
    """cos of what enters and what leaves it."""
    skip_potential: float | None = None


class PruningStatistics(Record):
    """How much goes."""

    parameters_before: int
    parameters_after: int
    original_parameters: int
    sparsity_before: float = Field(ge=0, le=1)
    """Share of the original parameters that is gone already."""
    sparsity_after: float = Field(ge=0, le=1)
    sparsity_wanted: float = Field(ge=0, le=1)
    """What the schedule asks for at this epoch."""
    channels: int = 0
    heads: int = 0
    layers: int = 0


class SafetyValidation(Record):
    """What speaks for and against a decision."""

    phase: Phase
    verdict: Verdict | None = None
    """What the gate measured on a copy; None when it was not asked."""
    breaker: str = ""
    """State of the circuit breaker, in words."""
    tried: int = 0
    """Cuts that went before the gate, the smaller ones included."""


class TensorMask(Record):
    """Entries of one parameter or buffer that are held at zero."""

    name: str
    axis: int
    removed: tuple[int, ...]


class PruningMasks(Record):
    """What to hold at zero, and the parameters that are dead by themselves."""

    masks: tuple[TensorMask, ...] = ()
    dead: dict[str, int] = Field(default_factory=dict)
    """Parameter -> number of its entries that were dead over the checkpoints seen."""
    confidence: float = Field(default=0.0, ge=0, le=1)
    """The confidence that "dead" was asked to reach."""


class StructuralPruningDecision(Message):
    """The answer: what goes, why, and whether it may."""

    decision_id: str
    idempotency_key: str
    """`{epoch}:{model hash}:{decision id}:{level}`, as in the audit log."""
    request_id: str
    run: str
    epoch: int
    level: SafetyLevel = "conservative"
    mode: Mode = "observe"
    channels: tuple[ChannelPruningTarget, ...] = ()
    attention_heads: tuple[AttentionHeadTarget, ...] = ()
    layers: tuple[LayerPruningTarget, ...] = ()
    statistics: PruningStatistics | None = None
    safety: SafetyValidation
    edit: ModuleEdit | None = None
    """The cut by parameter name; None when nothing goes or the class cannot be edited."""
    masks: PruningMasks = PruningMasks()
    depth: Depth = "full"
    confidence: float = Field(default=1.0, ge=0, le=1)
    """1 for a whole analysis; lower after each fallback."""
    fallbacks: tuple[str, ...] = ()
    """What went wrong and what stood in, in words."""
    approved_for_application: bool = False
    rejection_reason: str = ""
    """Why it may not be carried out; empty when it may."""


class ApplicationReport(Message):
    """What a training run did with a decision."""

    decision_id: str
    idempotency_key: str
    run: str
    epoch: int
    """When it was done."""
    outcome: Literal["applied", "refused", "expired", "rolled back"]
    reason: str
    parameters: int
    """Of the model afterwards."""
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None


class AnalysisReport(Message):
    """How one analysis went."""

    request_id: str
    idempotency_key: str
    run: str
    epoch: int
    depth: Depth
    confidence: float
    fallbacks: tuple[str, ...] = ()
    record_id: str = ""
    """Of the analysis in memory; empty when it was not kept."""
    finding_ids: tuple[str, ...] = ()
    ranking_accuracy: Measurement | None = None
    """Kendall's tau of the cheap ranking against exact ablation on a sample, where it was taken."""
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    """Largest resident memory of a worker."""
    retries: int = 0
    cached: int = 0
    """Places whose measures came from the cache."""
    recommendations: tuple[str, ...] = ()
    """What the next checkpoints will bring, in words."""


MESSAGES: tuple[type[Message], ...] = (
    StructuralAnalysisRequest, StructuralPruningDecision, ApplicationReport, AnalysisReport,
)  # fmt: skip


def request_key(*, epoch: int, architecture_hash: str, request_id: str) -> str:
    """The idempotency key of a request."""
    return f"{epoch}:{architecture_hash}:{request_id}"
