"""The messages between a training run and the analysis beside it.

A run sends a `StructuralAnalysisRequest` with each checkpoint and gets a
`StructuralPruningDecision` back; what it did with it comes back as an `ApplicationReport`. All are
JSON, refuse unknown keys and carry the version of this contract. Each has an idempotency key:
sending it twice changes nothing and gives the first answer again. `zsei contracts` prints their
JSON schemas; the docstrings below are the descriptions in them.
"""

import re
from typing import Literal

from pydantic import Field, field_validator

from zsei.checkpoint.contract_parts import (
    LAST_EPOCH,
    LEVELS,
    AnalysisParameters,
    AttentionHeadTarget,
    ChannelImportanceData,
    ChannelPruningTarget,
    CheckpointMetadata,
    Depth,
    Epoch,
    HeadRedundancy,
    LayerPruningTarget,
    Level,
    Mode,
    PerformanceRequirements,
    PrunedArchitecture,
    PruningMasks,
    PruningStatistics,
    RequestName,
    RunName,
    SafetyValidation,
    TensorMask,
    UnitKind,
)
from zsei.records import Measurement, Record
from zsei.settings import SafetyLevel
from zsei.surgery.module_edit import ModuleEdit

__all__ = [
    "LAST_EPOCH",
    "LEVELS",
    "MESSAGES",
    "VERSION",
    "AnalysisParameters",
    "AnalysisReport",
    "ApplicationReport",
    "AttentionHeadTarget",
    "ChannelImportanceData",
    "ChannelPruningTarget",
    "CheckpointMetadata",
    "Depth",
    "Epoch",
    "HeadRedundancy",
    "LayerPruningTarget",
    "Level",
    "Message",
    "Mode",
    "PerformanceRequirements",
    "PrunedArchitecture",
    "PruningMasks",
    "PruningStatistics",
    "RequestName",
    "RunName",
    "SafetyValidation",
    "StructuralAnalysisRequest",
    "StructuralPruningDecision",
    "TensorMask",
    "UnitKind",
    "request_key",
]

VERSION = "1.0"
"""Version of the contract: another first number is another contract, another second one adds
optional fields."""

_VERSIONS = rf"^{VERSION.partition('.')[0]}\.[0-9]+$"


class Message(Record):
    """Base of all messages."""

    version: str = Field(default=VERSION, json_schema_extra={"pattern": _VERSIONS})
    """Of the contract. A newer second number adds optional fields only."""

    @field_validator("version")
    @classmethod
    def _known(cls, value: str) -> str:
        # Not a `pattern` of the field: a stranger's version deserves this sentence.
        if re.fullmatch(_VERSIONS.strip("^$"), value) is None:
            raise ValueError(
                f"messages of version {VERSION} are understood, and this one is of version "
                f"{value}; update the side that is older"
            )
        return value


class StructuralAnalysisRequest(Message):
    """Asks for the analysis of one checkpoint, and for a decision about it."""

    request_id: RequestName
    """Chosen by who asks; asks for this checkpoint and no other."""
    idempotency_key: str = Field(min_length=1, max_length=500)
    """`{epoch}:{architecture hash}:{request_id}` (`request_key`)."""
    checkpoint: CheckpointMetadata
    """Which checkpoint."""
    architecture: PrunedArchitecture
    """What the model looks like there."""
    parameters: AnalysisParameters = AnalysisParameters()
    """What is to be looked at."""
    requirements: PerformanceRequirements = PerformanceRequirements()
    """What it may take."""


class StructuralPruningDecision(Message):
    """The answer: what goes, why, and whether it may."""

    decision_id: str
    """Of this decision."""
    idempotency_key: str
    """`{epoch}:{model hash}:{decision id}:{level}`, as in the audit log."""
    request_id: str
    """Of the request it answers."""
    run: RunName
    """Of that request."""
    epoch: Epoch
    """Of that request."""
    level: SafetyLevel = "conservative"
    """The limits the gate held it to."""
    mode: Mode = "observe"
    """What may be done with it."""
    channels: tuple[ChannelPruningTarget, ...] = ()
    """Channels and neurons that go."""
    attention_heads: tuple[AttentionHeadTarget, ...] = ()
    """Heads that go."""
    layers: tuple[LayerPruningTarget, ...] = ()
    """Layers that go."""
    statistics: PruningStatistics | None = None
    """How much goes; None when nothing was looked for."""
    safety: SafetyValidation
    """What speaks for and against it."""
    edit: ModuleEdit | None = None
    """The cut by parameter name; None when nothing goes or the class cannot be edited."""
    masks: PruningMasks = PruningMasks()
    """The same cut as what to hold at zero, and the parameters that are dead already."""
    buffers: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """Running statistics of batch norms that a removal changes: name -> value after the cut."""
    depth: Depth = "full"
    """How far the analysis behind it came."""
    confidence: float = Field(default=1.0, ge=0, le=1)
    """1 for a whole analysis; lower after each fallback."""
    fallbacks: tuple[str, ...] = ()
    """What went wrong and what stood in, in words."""
    approved_for_application: bool = False
    """Whether it may be carried out."""
    rejection_reason: str = ""
    """Why it may not be carried out; empty when it may."""


class ApplicationReport(Message):
    """What a training run did with a decision; the design's mask application, and its answer."""

    decision_id: str
    """Of the decision."""
    idempotency_key: str
    """`{epoch}:{decision id}:{outcome}`."""
    run: RunName
    """Of the decision."""
    epoch: Epoch
    """When it was done."""
    outcome: Literal["applied", "refused", "expired", "rolled back"]
    """What was done."""
    reason: str
    """Why, in words."""
    parameters: int
    """Of the model afterwards."""
    accuracy_before: float | None = None
    """Of the run's own validation before, as a share of 1."""
    accuracy_after: float | None = None
    """The same afterwards."""
    loss_before: float | None = None
    """Of the run's own validation before."""
    loss_after: float | None = None
    """The same afterwards."""


class AnalysisReport(Message):
    """How one analysis went."""

    request_id: str
    """Of the request that was answered."""
    idempotency_key: str
    """Of the request."""
    run: RunName
    """Of the request."""
    epoch: Epoch
    """Of the request."""
    depth: Depth
    """How far it came."""
    confidence: float
    """1 for a whole analysis; lower after each fallback."""
    fallbacks: tuple[str, ...] = ()
    """What went wrong and what stood in, in words."""
    record_id: str = ""
    """Of the analysis in memory; empty when it was not kept."""
    finding_ids: tuple[str, ...] = ()
    """Of the record's findings."""
    ranking_accuracy: Measurement | None = None
    """Kendall's tau of the cheap ranking against exact ablation on a sample, where it was taken."""
    seconds: float = 0.0
    """From the request's start to its decision."""
    peak_memory_bytes: int = 0
    """Largest resident memory of a worker."""
    retries: int = 0
    """Tasks that were tried again."""
    cached: int = 0
    """Places whose measures came from the cache."""
    importance: tuple[ChannelImportanceData, ...] = ()
    """What was measured at this checkpoint, by place."""
    recommendations: tuple[str, ...] = ()
    """What the next checkpoints will bring, in words."""


MESSAGES: tuple[type[Message], ...] = (
    StructuralAnalysisRequest, StructuralPruningDecision, ApplicationReport, AnalysisReport,
)  # fmt: skip


def request_key(*, epoch: int, architecture_hash: str, request_id: str) -> str:
    """The idempotency key of a request."""
    return f"{epoch}:{architecture_hash}:{request_id}"
