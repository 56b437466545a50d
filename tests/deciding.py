"""Questions about a checkpoint for tests: a subject, what was measured of it, a decision on it."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import (
    LEVELS,
    Level,
    Mode,
    SafetyValidation,
    StructuralPruningDecision,
)  # fmt: skip
from zsei.checkpoint.decide.decide import decide
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.combine import combine
from zsei.checkpoint.measure.measure import measure
from zsei.checkpoint.tasks import DecideTask, MeasureTask, Snapshot
from zsei.gate.phases import Phase, TrainingRun
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.types import Subject

Importance = dict[str, tuple[float | None, ...]]
CONFIG = CheckpointConfig.model_validate(
    {"elesh": {"structured_pruning": {"layer_analysis": {"max_layer_removal_ratio": 0.4}}}}
)
"""The default, but that of the three layers of small models one may go."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """A model with its data, and the importance of its units."""

    subject: Subject
    job: Job
    importance: Importance
    pairs: dict[str, tuple[tuple[int, int, float], ...]]
    parts: dict[str, dict[str, tuple[float | None, ...]]]

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.subject.model.parameters())

    def decide(
        self,
        target: float,
        phase: Phase = "aggressive",
        mode: Mode = "remove",
        importance: Importance | None = None,
        levels: tuple[Level, ...] = LEVELS,
        **changed: Any,
    ) -> StructuralPruningDecision:
        """The decision at epoch 100; `changed` are other fields of the task."""
        task = DecideTask(
            id="decide",
            snapshot=Snapshot(epoch=100),
            importance=self.importance if importance is None else importance,
            pairs=self.pairs,
            parts=self.parts,
            target=target,
            training=TrainingRun(phase=phase, parameters=self.parameters),
            levels=levels,
            decision=StructuralPruningDecision(
                decision_id="none", idempotency_key="none", request_id="r", run="run", epoch=100,
                mode=mode, safety=SafetyValidation(phase=phase),
            ),
        )  # fmt: skip
        return decide(self.subject, replace(task, **changed), self.job)


def measured(
    model: nn.Module, data: Any, objective: str = "auto", settings: Settings | None = None
) -> Measured:
    """The model as a checkpoint's analysis sees it."""
    settings = settings or Settings()
    subject = prepare(model, data, objective, settings)
    job = Job(
        run="run", model=model, data=data, objective=objective, settings=settings, config=CONFIG
    )
    layers = tuple(dict.fromkeys(component.layer for component in subject.anatomy.components))
    task = MeasureTask(id="measure", snapshot=Snapshot(epoch=100), layers=layers, levels=LEVELS)
    found = combine([measure(subject, task, job)], job.config)
    return Measured(
        subject=subject,
        job=job,
        importance=found.importance,
        pairs=found.pairs,
        parts={site.key: site.parts for site in found.sites},
    )
