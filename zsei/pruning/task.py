"""What is searched and on which samples; a cut carried out and measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from zsei.errors import SurgeryRefused
from zsei.gate.cost import Cost, measure_cost, parameter_targets
from zsei.gate.quality import Reference
from zsei.pruning.cut import FIRST_REPAIR, Cut, make_cut
from zsei.pruning.measure import merit_of
from zsei.pruning.records import Point, PruneKind, taken_of
from zsei.pruning.spared import spared_components
from zsei.settings import Settings
from zsei.subject.program import Program
from zsei.subject.types import Batch, Subject
from zsei.surgery.edits import Edit


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is searched, and on which samples."""

    subject: Subject
    fit: tuple[Batch, ...]
    """Score and repair."""
    choose: Reference
    """Decide between cuts; no part of `fit`, and not what the gate judges on."""
    kinds: tuple[PruneKind, ...]
    settings: Settings
    keep: tuple[str, ...] = ()
    """Components, as the user names them, at which nothing goes."""
    only: tuple[str, ...] = ()
    """Components, as the user names them, outside of which nothing goes; empty: anywhere."""

    @cached_property
    def spared(self) -> frozenset[str]:
        """Ids of the components at which nothing goes."""
        return spared_components(self.subject.anatomy, self.keep, self.only)

    @cached_property
    def cost(self) -> Cost:
        """What the original costs."""
        return measure_cost(self.original)

    @property
    def original(self) -> Program:
        """The program before any cut."""
        assert self.subject.program is not None
        return self.subject.program


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A measured cut."""

    point: Point
    cut: Cut | None
    """None for the original itself."""

    @property
    def edits(self) -> tuple[Edit, ...]:
        """All edits since the original."""
        return () if self.cut is None else self.cut.edits


def measured(
    task: Task, edits: Sequence[Edit], *, number: int, variant: str, predicted: float,
    repair: str = FIRST_REPAIR,
) -> Found | None:  # fmt: skip
    """Carry out a cut and measure it; None when it is refused or gives no numbers."""
    try:
        cut = make_cut(task.original, edits, task.fit, repair)
    except SurgeryRefused:
        return None
    merit = merit_of(cut.program, task.subject, task.choose)
    if not merit.measured:
        return None
    before = task.cost
    after = measure_cost(cut.program, parameter_targets(task.original))
    point = Point(
        number=number,
        variant=variant,
        repair=repair,
        taken=taken_of(edits),
        parameters=after.parameters / max(before.parameters, 1),
        flops=after.flops / max(before.flops, 1),
        predicted=predicted,
        loss=merit.loss,
        drop=merit.drop,
        measured=merit.measured,
    )
    return Found(point=point, cut=cut)
