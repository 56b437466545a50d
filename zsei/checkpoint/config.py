"""How checkpoints are analysed: the keys of the Elesh configuration, and a section of our own.

A YAML or TOML file has a section `elesh`, with the names and defaults of the Elesh design, and a
section `run` for what that design leaves open. Both may be left out; unknown keys are refused.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from zsei.checkpoint.contracts import Mode
from zsei.checkpoint.schedule import Epochs, Schedule
from zsei.errors import UsageError

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?\s*", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


class Section(BaseModel):
    """Base of all sections."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ChannelAnalysis(Section):
    """How the importance of channels and neurons is mixed (each criterion as share of its sum)."""

    taylor_weight: float = Field(default=0.5, ge=0)
    magnitude_weight: float = Field(default=0.3, ge=0)
    frequency_weight: float = Field(default=0.2, ge=0)
    redundancy_threshold: float = Field(default=0.95, gt=0, le=1)
    """|r| from which two count as alike."""
    min_channels_per_layer: int = Field(default=16, ge=1)


class AttentionAnalysis(Section):
    """How the importance of heads is mixed."""

    entropy_weight: float = Field(default=0.3, ge=0)
    """Of 1 - normalised entropy."""
    diversity_weight: float = Field(default=0.3, ge=0)
    gradient_weight: float = Field(default=0.4, ge=0)
    similarity_threshold: float = Field(default=0.95, gt=0, le=1)
    min_heads_per_layer: int = Field(default=2, ge=1)


class LayerAnalysis(Section):
    """From when on a layer may go."""

    taylor_threshold: float = Field(default=0.001, ge=0)
    """Share of the Taylor importance of all layers: an absolute one would depend on the batch."""
    similarity_threshold: float = Field(default=0.95, gt=0, le=1)
    """cos of what enters and what leaves it."""
    skip_potential_threshold: float = Field(default=0.8, ge=0, le=1)
    max_layer_removal_ratio: float = Field(default=0.2, ge=0, le=1)


class SafetySchedule(Section):
    """Epochs of each phase; validation follows."""

    validation_epochs: int = Field(default=30, ge=0)
    """Of preparation: observed, never cut."""
    conservative_epochs: int = Field(default=30, ge=0)
    moderate_epochs: int = Field(default=30, ge=0)
    aggressive_epochs: int = Field(default=30, ge=0)

    @model_validator(mode="after")
    def _cuts_somewhere(self) -> "SafetySchedule":
        try:
            _ = self.epochs
        except UsageError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def epochs(self) -> Epochs:
        """As the schedule wants them."""
        return Epochs(
            preparation=self.validation_epochs,
            conservative=self.conservative_epochs,
            moderate=self.moderate_epochs,
            aggressive=self.aggressive_epochs,
        )


class RollbackTriggers(Section):
    """Drop of accuracy, as a share of 1, that puts back what was cut last."""

    channel_accuracy_drop: float = Field(default=0.02, gt=0, le=1)
    head_accuracy_drop: float = Field(default=0.03, gt=0, le=1)
    layer_accuracy_drop: float = Field(default=0.05, gt=0, le=1)


class StructuredPruning(Section):
    """What may be cut, and when."""

    channel_analysis: ChannelAnalysis = ChannelAnalysis()
    attention_analysis: AttentionAnalysis = AttentionAnalysis()
    layer_analysis: LayerAnalysis = LayerAnalysis()
    safety_schedule: SafetySchedule = SafetySchedule()
    rollback_triggers: RollbackTriggers = RollbackTriggers()


class Target(Section):
    """A figure to hold."""

    metric: str
    target: float


class AccuracyTargets(Section):
    """Figures the analysis is compared with in reports and metrics; they decide nothing."""

    channel_importance_ranking: Target = Target(metric="kendall_tau", target=0.90)
    attention_redundancy_detection: Target = Target(
        metric="cosine_similarity_precision", target=0.95
    )
    layer_skip_potential: Target = Target(metric="gradient_flow_preservation", target=0.85)
    structured_pruning_accuracy: Target = Target(metric="MAPE_vs_Taylor", target=0.03)


class EleshConfig(Section):
    """The Elesh configuration, by its own names."""

    analysis_workers_per_gpu: int = Field(default=4, ge=1)
    """Workers at most; without a GPU, of this machine. Never more than it has cores."""
    layers_per_worker: int = Field(default=8, ge=1)
    """Layers of one task."""
    sketch_width: int = Field(default=100_000, ge=1)
    sketch_depth: int = Field(default=10, ge=1)
    importance_history_epochs: int = Field(default=500, ge=1)
    structured_pruning: StructuredPruning = StructuredPruning()
    analysis_timeout: float = Field(default=300.0, gt=0)
    """Seconds of one task (a group of layers)."""
    marking_threshold: float = Field(default=1e-8, gt=0)
    confidence_threshold: float = Field(default=0.95, gt=0, lt=1)
    analysis_cache_size: int = Field(default=1024**3, ge=0)
    """Bytes; "1GB" in a file."""
    parallel_analysis_threads: int = Field(default=16, ge=1)
    """Torch threads of all workers together, at most; never more than there are cores."""
    statistical_samples: int = Field(default=10_000, ge=1)
    """Parameters of each tensor that are followed one by one (in the sketch)."""
    accuracy_targets: AccuracyTargets = AccuracyTargets()

    @field_validator("analysis_cache_size", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        found = _SIZE.fullmatch(value)
        if found is None:
            raise ValueError(
                f"a size is a number with KB, MB, GB or TB, such as 1GB; got {value!r}"
            )
        return int(float(found[1]) * 1024 ** _POWERS[found[2].upper()])


class RunConfig(Section):
    """What the Elesh design leaves open."""

    mode: Mode = "observe"
    shape: Literal["linear", "polynomial", "exponential"] = "polynomial"
    """Of the sparsity schedule."""
    target_sparsity: float = Field(default=0.15, ge=0, lt=1)
    """Share of the original parameters that may be gone in the end, before the margin."""
    safety_margin: float = Field(default=0.1, ge=0, lt=1)
    every: int = Field(default=1, ge=1)
    """Every how many epochs a checkpoint is analysed."""
    decide_every: int = Field(default=5, ge=1)
    """Every how many epochs something may be cut."""
    memory_gigabytes: float = Field(default=4.0, gt=0)
    """Resident memory of a worker."""
    checkpoint_window: float = Field(default=300.0, gt=0)
    """Seconds in which a checkpoint should be analysed."""
    retries: int = Field(default=1, ge=0)
    """How often a task is tried again whose worker died."""
    expire_after: int = Field(default=3, ge=1)
    """Epochs after which a decision is too old to be carried out."""
    ablate_every: int = Field(default=10, ge=0)
    """Every how many epochs the ranking is checked by exact ablation; 0: never."""
    ablate_units: int = Field(default=24, ge=2)
    priority: Literal["idle", "normal"] = "idle"
    """Of the processes that analyse: `idle` takes only processor time that nothing else wants, so
    on a machine that is always busy an analysis may take long. With `lockstep`, where training
    waits for it, it is `normal` in any case."""
    keep_snapshots: int = Field(default=2, ge=1)
    """Copies of weights kept in the run's folder."""

    @property
    def schedule(self) -> Schedule:
        """The curve of sparsity."""
        return Schedule(shape=self.shape, target=self.target_sparsity, margin=self.safety_margin)


class CheckpointConfig(Section):
    """A whole configuration."""

    elesh: EleshConfig = EleshConfig()
    run: RunConfig = RunConfig()

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, given: Any) -> Any:
        # `elesh:` alone in a YAML file is an empty section.
        if isinstance(given, Mapping):
            return {name: {} if value is None else value for name, value in given.items()}
        return given
