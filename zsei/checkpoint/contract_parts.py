"""What the messages between training and analysis are made of (`zsei.checkpoint.contracts`)."""

from typing import Annotated, Literal, get_args

from pydantic import Field

from zsei.gate.phases import Phase
from zsei.records import Record, Verdict

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
