"""What workers are asked for and what they bring back: plain data, so that it crosses processes.

Letters: u unit of a place.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from zsei.checkpoint.contracts import Level, StructuralPruningDecision, UnitKind
from zsei.gate.phases import TrainingRun
from zsei.records import Component, Conditions, Measurement, Provenance, Record
from zsei.surgery.module_edit import ModuleEdit


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The weights of one checkpoint, and how the model they belong to came to its shape."""

    epoch: int
    step: int | None = None
    path: Path | None = None
    """A file or folder that the worker can read; None when `data` is given."""
    data: bytes | None = None
    """A safetensors file as bytes, for workers that share no disk."""
    sha256: str = ""
    prefix: str = ""
    """What stands before each name in the file and is none of the model's own, such as `module.`;
    entries without it are left out."""
    edits: tuple[ModuleEdit, ...] = ()
    """Removals that were carried out since the job's own model, oldest first."""
    masks: tuple[ModuleEdit, ...] = ()
    """Cuts that are held at zero."""


@dataclass(frozen=True, kw_only=True)
class OutlineTask:
    """Say which layers the model has at one checkpoint."""

    id: str
    snapshot: Snapshot


@dataclass(frozen=True, kw_only=True)
class MeasureTask:
    """Measure the units of some layers at one checkpoint."""

    id: str
    snapshot: Snapshot
    layers: tuple[int | None, ...]
    """Running numbers of the layers (`Component.layer`); None: what stands outside of layers."""
    levels: tuple[Level, ...]
    basic: bool = False
    """Only what the weights themselves say; no pass over data."""
    ablate: int = 0
    """Units whose effect is also measured exactly, to check the ranking; 0: none."""


@dataclass(frozen=True, kw_only=True)
class DecideTask:
    """Choose what goes and put it before the gate."""

    id: str
    snapshot: Snapshot
    importance: dict[str, tuple[float | None, ...]]
    """"component|kind" -> smoothed importance over the checkpoints so far, [u]."""
    pairs: dict[str, tuple[tuple[int, int, float], ...]]
    """"component|kind" -> units that are alike."""
    target: float
    """Share of the original parameters that should be gone."""
    training: TrainingRun
    levels: tuple[Level, ...]
    conservative: bool = False
    """After a fallback: half the cut, and channels only."""
    decision: StructuralPruningDecision
    """Filled in but for targets, statistics, safety, edit and approval."""
    parts: dict[str, dict[str, tuple[float | None, ...]]] = field(default_factory=dict)
    """"component|kind" -> criterion -> its value per unit at this checkpoint, [u]: layers go by
    their "similarity" and "skip potential", and of heads the "attention focus" is told."""


Task = OutlineTask | MeasureTask | DecideTask


class Outline(Record):
    """What a model is made of."""

    layers: tuple[int, ...]
    """Running numbers of its layers (`Component.layer`), rising."""


class Unreadable(Record):
    """The checkpoint is damaged, or is none of this model: no worker could do anything with it."""

    why: str
    """What the error said."""


class SiteMeasure(Record):
    """What was measured of the units of one place, each [u]."""

    component: str
    kind: UnitKind
    layer: int | None
    parts: dict[str, tuple[float | None, ...]]
    """Criterion -> value per unit; None where it could not be told."""
    pairs: tuple[tuple[int, int, float], ...] = ()
    """(unit, unit, similarity) of units that are alike, most alike first."""
    parameters: int = 0
    """Parameters of the place."""

    @property
    def key(self) -> str:
        """Name in histories: "component|kind"."""
        return f"{self.component}|{self.kind}"


class GroupMeasure(Record):
    """What a worker found in its layers."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, ser_json_bytes="base64",
        val_json_bytes="base64",
    )  # fmt: skip

    layers: tuple[int | None, ...]
    depth: Literal["full", "channels", "basic"]
    sites: tuple[SiteMeasure, ...]
    measurements: dict[str, tuple[Measurement, ...]]
    """Component -> gradients, flow, learning efficiency and the like, for series over epochs."""
    exact: tuple[tuple[str, int, float, float], ...] = ()
    """(key, unit, cheap score, exact effect) of units that were ablated."""
    confidence: float = 1.0
    notes: tuple[str, ...] = ()
    """What went wrong and what stood in: gradients that were no numbers, samples left out."""
    cached: int = 0
    """Places whose measures came from the cache."""
    followed: dict[str, bytes] = Field(default_factory=dict)
    """Parameter with its shape (`follow_parameters.followed_name`) -> importance |w g| of the
    entries that are followed one by one, float32 [p]."""
    components: tuple[Component, ...] = ()
    """Of these layers."""
    provenance: Provenance | None = None
    """Of the model at this checkpoint."""
    conditions: Conditions | None = None


TaskResult = Outline | GroupMeasure | StructuralPruningDecision | Unreadable
