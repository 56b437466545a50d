"""What the analysis of a training run needs to know once, before its first checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from zsei.checkpoint.config import CheckpointConfig
from zsei.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run as its analysis sees it. Picklable (with cloudpickle), so a worker in another
    process or on another machine can be given one.
    """

    run: str
    """Name of the run."""
    model: str | nn.Module | Callable[[], Any]
    """As for `zsei.analyze`, or the module as training began with it: its weights are replaced by
    those of each checkpoint."""
    data: Any
    """As for `zsei.analyze`; held by every worker."""
    objective: str = "auto"
    settings: Settings = field(default_factory=Settings)
    config: CheckpointConfig = field(default_factory=CheckpointConfig)
    threads: int = 1
    """Torch threads of a worker."""
