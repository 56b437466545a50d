"""How the service stands, against the figures it is to hold."""

from typing import Literal

from pydantic import Field

from zsei.checkpoint.config import CheckpointConfig
from zsei.records import Record
from zsei.service.tally import Figures

COMPLETION = 0.95
"""Share of requests that are to end with a result."""


class Objective(Record):
    """A figure to hold."""

    name: str
    measured: float | None
    """None where nothing was measured yet."""
    target: float
    at_most: bool
    """Whether the target is an upper bound; else a lower one."""
    held: bool | None
    """None where nothing was measured yet."""


class Place(Record):
    """A checkpoint of a run."""

    run: str
    epoch: int


class Health(Record):
    """How the analysis stands."""

    worker_id: str
    """Name of this service among others."""
    status: Literal["healthy", "degraded", "stopped"]
    """"degraded": a figure to hold is not held, or the breaker is open."""
    state: Literal["idle", "busy"]
    engine: str
    """What runs the analyses: `local` or `ray`."""
    workers: int = Field(ge=0)
    waiting: int = Field(ge=0)
    """Requests without a decision."""
    answered: int = Field(ge=0)
    """Requests with one, over all runs and restarts."""
    last: Place | None
    """What was answered last."""
    completion_rate: float | None
    """Share of the last 500 that ended with a result: an analysis or one of its fallbacks."""
    duration_p95: float | None
    """Seconds of the last 500: 95 of 100 took no longer."""
    peak_memory_bytes: int | None
    """Largest resident memory of a worker in the last 500."""
    ranking_accuracy: float | None
    """Kendall's tau of the cheap ranking against exact ablation, when it was measured last."""
    breaker: str
    """State of the circuit breaker, in words."""
    objectives: tuple[Objective, ...]


def objectives(figures: Figures, config: CheckpointConfig) -> tuple[Objective, ...]:
    """What is to be held, and whether it is."""
    ranking = config.elesh.accuracy_targets.channel_importance_ranking.target
    memory = config.run.memory_gigabytes * 1e9
    return (
        _objective("completion_rate", figures.completion_rate, COMPLETION, at_most=False),
        _objective(
            "duration_p95", figures.duration_p95, config.run.checkpoint_window, at_most=True
        ),
        _objective("peak_memory_bytes", figures.peak_memory_bytes, memory, at_most=True),
        _objective("ranking_accuracy", figures.ranking_accuracy, ranking, at_most=False),
    )


def _objective(name: str, measured: float | None, target: float, *, at_most: bool) -> Objective:
    held = None
    if measured is not None:
        held = measured <= target if at_most else measured >= target
    return Objective(name=name, measured=measured, target=target, at_most=at_most, held=held)
