"""What a measure sees, and what it gives back."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from zsei.records import AttributedEdge, Matrix, Measurement
from zsei.settings import Settings
from zsei.subject.types import Subject
from zsei.trace.edge_values import Whole
from zsei.trace.engine import Engine
from zsei.trace.evidence import Evidence, joined
from zsei.trace.taps import Taps


@dataclass(frozen=True, kw_only=True)
class View:
    """What one pass over the calibration data kept, and the engine for the few runs more.

    Rows: every tapped value is kept as a fixed sample of rows [r, c], r a sample and position, c
    its channels. Values with the same leading axes keep the same rows, so that they can be compared
    row by row.
    """

    subject: Subject
    engine: Engine
    taps: Taps
    evidence: Evidence
    measurements: Mapping[str, Mapping[str, Measurement]]
    """What is known already: component id -> name -> measurement."""
    settings: Settings

    @cached_property
    def rows(self) -> Mapping[str, Tensor]:
        """Node -> its rows [r, c]."""
        return {name: joined(kept.rows) for name, kept in self.evidence.values.items()}

    @cached_property
    def gradient_rows(self) -> Mapping[str, Tensor]:
        """Node -> gradient at the same rows [r, c]: of the loss, without labels of one probe."""
        return {
            name: joined(kept.gradient_rows)
            for name, kept in self.evidence.values.items()
            if kept.gradient_rows
        }

    @cached_property
    def row_samples(self) -> Mapping[str, Tensor]:
        """Node -> number of the sample each row belongs to, [r], counted over all batches."""
        return {name: torch.cat(kept.row_samples) for name, kept in self.evidence.values.items()}

    @cached_property
    def sample_groups(self) -> tuple[str, ...]:
        """Data group of each sample, in the order of the calibration data."""
        return tuple(
            group
            for batch in self.subject.calibration
            for group in (batch.groups or ("all",) * batch.size)
        )

    @property
    def whole(self) -> Whole:
        """Whole values, and gradients, of some samples: what edges are worked out from."""
        return self.evidence.whole[0] if self.evidence.whole else Whole()

    def written(self, component: str) -> Tensor | None:
        """Rows of what a component writes; None where it was not watched."""
        node = self.taps.writers.get(component)
        return self.rows.get(node) if node is not None else None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a measure found."""

    measurements: Mapping[str, tuple[Measurement, ...]] = field(default_factory=dict)
    """Component id -> measurements."""
    groups: Mapping[str, Mapping[str, tuple[Measurement, ...]]] = field(default_factory=dict)
    """Data group -> component id -> measurements on that group alone."""
    matrices: tuple[Matrix, ...] = ()
    edges: tuple[AttributedEdge, ...] = ()
    notes: tuple[str, ...] = ()


class Measure(Protocol):
    """One way to look at what was kept: frozen dataclass, limits as fields, one method."""

    name: ClassVar[str]

    def measure(self, view: View) -> Measured:
        """Numbers about components, in a fixed order."""
        ...
