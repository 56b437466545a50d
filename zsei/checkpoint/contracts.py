"""The messages between a training run and the analysis beside it.

A run sends a `StructuralAnalysisRequest` with each checkpoint and gets a
`StructuralPruningDecision` back; what it did with it comes back as an `ApplicationReport`. All are
JSON, refuse unknown keys and carry the version of this contract. Each has an idempotency key:
sending it twice changes nothing and gives the first answer again. `zsei contracts` prints their
JSON schemas; the docstrings below are the descriptions in them.
"""

import re
from typing import Annotated, Literal, get_args

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
LAST_EPOCH = 999_999_999
"""Epochs name files, so they end somewhere."""
RunName = Annotated[
    str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
]
"""Name of a training run: it names a folder, so it is made of letters, digits, `.`, `_` and `-`."""
RequestName = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")
]
"""Name of a request: it stands in addresses, so only letters, digits, `.`, `_`, `:` and `-`."""
Epoch = Annotated[int, Field(ge=1, le=LAST_EPOCH)]
"""Counted from 1."""


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


class CheckpointMetadata(Record):
    """Which checkpoint, and where its weights are."""

    run: RunName
    """Name of the training run."""
    epoch: Epoch
    """Counted from 1."""
    step: int | None = Field(default=None, ge=0, le=2**63 - 1)
    """Optimizer steps so far."""
    weights: str = Field(min_length=1, max_length=1000)
    """File or folder with the weights, relative to the run's folder (such as
    `snapshots/000031.safetensors`) or to the folder that is watched or served."""
    sha256: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")
    """Of the weights' file, in hex; empty: not checked."""
    accuracy: float | None = Field(default=None, ge=-1, le=1)
    """What training measured on its own validation data, as a share of 1."""
    loss: float | None = None
    """What training measured there."""


class PrunedArchitecture(Record):
    """What the model looks like at a checkpoint, and how it came to."""

    model_class: str
    """Name of the model's class."""
    parameters: int = Field(ge=1)
    """As it is now."""
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
    """What is measured; only these may be cut."""
    mode: Mode = "observe"
    """What may be done with the decision."""


class PerformanceRequirements(Record):
    """What the analysis may take."""

    timeout_seconds: float = Field(default=300.0, gt=0)
    """For the whole checkpoint."""
    memory_gigabytes: float = Field(default=4.0, gt=0)
    """Resident memory of each worker."""


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


class ChannelImportanceData(Record):
    """What was measured of the channels, neurons or heads of one place, or of one layer."""

    layer_name: str
    """Component id, such as `encoder.layer.3/mlp`."""
    kind: UnitKind
    """What its units are."""
    importance: tuple[float | None, ...]
    """Combined, per unit; None where it was not measured."""
    parts: dict[str, tuple[float | None, ...]] = Field(default_factory=dict)
    """Name of a criterion ("taylor", "magnitude", "activation frequency" ...) -> per unit."""
    correlations: tuple[tuple[int, int, float], ...] = ()
    """(unit, unit, r) of those that are alike."""


class HeadRedundancy(Record):
    """Two heads that write alike."""

    first: int
    """Number of the one head."""
    second: int
    """Number of the other."""
    similarity: float
    """cos of what they write."""


class ChannelPruningTarget(Record):
    """Channels or neurons that go."""

    layer_name: str
    """Component id."""
    kind: Literal["channel", "neuron"]
    """What the indices count."""
    channel_indices: tuple[int, ...]
    """Numbers in the architecture of the request."""
    channel_importance: tuple[float, ...]
    """Of each, in the same order."""


class AttentionHeadTarget(Record):
    """Heads that go."""

    layer_name: str
    """Component id of the attention."""
    head_indices: tuple[int, ...]
    """Numbers in the architecture of the request."""
    head_importance: tuple[float, ...]
    """Of each, in the same order."""
    attention_entropy: tuple[float | None, ...] = ()
    """Normalised entropy of each; None where it was not measured."""
    redundancy_pairs: tuple[HeadRedundancy, ...] = ()
    """Which heads stand in for those that go."""
    redundancy_threshold: float = 0.95
    """From which similarity on two count as alike."""


class LayerPruningTarget(Record):
    """A layer that goes."""

    layer_name: str
    """Component id of the layer."""
    importance: float
    """Combined."""
    similarity: float | None = None
    """cos of what enters and what leaves it."""
    skip_potential: float | None = None
    """How much of the gradient would still pass without it, as a share of 1."""


class PruningStatistics(Record):
    """How much goes."""

    parameters_before: int
    """At the checkpoint."""
    parameters_after: int
    """Once it is carried out."""
    original_parameters: int
    """Before the first cut of the run."""
    sparsity_before: float = Field(ge=0, le=1)
    """Share of the original parameters that is gone already."""
    sparsity_after: float = Field(ge=0, le=1)
    """The same share, once it is carried out."""
    sparsity_wanted: float = Field(ge=0, le=1)
    """What the schedule asks for at this epoch."""
    channels: int = 0
    """Channels and neurons that go."""
    heads: int = 0
    """Heads that go."""
    layers: int = 0
    """Layers that go."""


class SafetyValidation(Record):
    """What speaks for and against a decision."""

    phase: Phase
    """Of the schedule, at this epoch."""
    verdict: Verdict | None = None
    """What the gate measured on a copy; None when it was not asked."""
    breaker: str = ""
    """State of the circuit breaker, in words."""
    tried: int = 0
    """Cuts that went before the gate, the smaller ones included."""


class TensorMask(Record):
    """Entries of one parameter or buffer that are held at zero."""

    name: str
    """Of the parameter or buffer."""
    axis: int
    """Along which it is masked."""
    removed: tuple[int, ...]
    """Numbers of the entries along that axis."""


class PruningMasks(Record):
    """What to hold at zero, and the parameters that are dead by themselves."""

    masks: tuple[TensorMask, ...] = ()
    """What to hold at zero."""
    dead: dict[str, int] = Field(default_factory=dict)
    """Parameter -> number of its entries that were dead over the checkpoints seen."""
    confidence: float = Field(default=0.0, ge=0, le=1)
    """The confidence that "dead" was asked to reach."""


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
