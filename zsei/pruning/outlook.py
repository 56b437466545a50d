"""What a prune would take, before anything is cut: the original scored once, and the prediction."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field
from torch import nn

from zsei.clock import Clock, Progress
from zsei.pruning.allocate import Saving
from zsei.pruning.prune import prune_settings, task_of
from zsei.pruning.records import ALL_KINDS, Budget, PruneKind, Taken, taken_of
from zsei.pruning.search import foreseen, scored
from zsei.pruning.walk import FINER, MOST, STEPS, kept_by
from zsei.records import Record
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.program import parameter_count
from zsei.subject.seeded import seeded
from zsei.surgery.program_form import plan_edits

SHARES = {"prepare": 0.3, "score": 0.6, "plan": 0.1}


class Foreseen(Record):
    """One size, and what it would take."""

    parameters: float
    """Share of the parameters that would be left."""
    flops: float
    """Share of the operations that would be left."""
    predicted: float
    """Sum of the predicted divergences of the units that would go."""
    taken: tuple[Taken, ...]


class Outlook(Record):
    """A prune that was only thought through: no weight moved, nothing was judged."""

    model: str
    model_class: str
    parameters: int
    """Of the original."""
    budget: Budget
    metric: str
    kinds: tuple[PruneKind, ...]
    keep: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    points: tuple[Foreseen, ...] = ()
    """Largest first; the last is what the budget asks for, or as far as it can go."""
    reached: bool
    """Whether the last is as small as the budget asks."""
    refusal: str = ""
    """Why the budget is out of reach, and which settings say so."""
    refused: dict[str, str] = Field(default_factory=dict)
    """Component -> why surgery cannot cut it."""
    notes: tuple[str, ...] = ()


def look_ahead(
    model: str | nn.Module | None = None,
    data: Any = None,
    *,
    budget: Budget,
    objective: str = "auto",
    kinds: Sequence[PruneKind] = ALL_KINDS,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Outlook:
    """What `prune` would take away, layer by layer, and the loss that is predicted for it.

    Args: as for `prune`.

    Raises:
        ZseiError: With the rule, what arrived and the likely fix.

    Misleads when: the cut is large. Units are scored once, on the whole model, while the search
    scores them again after every step; whole layers, which only measuring can choose, are left out;
    and of a budget in time only its operations are foreseen.
    """
    settings = settings or prune_settings()
    clock = Clock(progress, settings.budget, SHARES)
    with seeded(settings):
        with clock.stage("prepare"):
            subject = prepare(model, data, objective=objective, settings=settings)
            task = task_of(subject, kinds, settings, keep=keep, only=only)
        with clock.stage("score") as report:
            curves, refused = scored(task, (), task.original, report)
        points: list[Foreseen] = []
        saving: Saving = "parameters" if budget.parameters or budget.size is None else "flops"
        reached = budget.size is None
        with clock.stage("plan"):
            for share in _shares(budget):
                edits, predicted, saved = foreseen(task, curves, 1 - share, saving)
                if not edits or (points and taken_of(edits) == points[-1].taken):
                    break
                plan = plan_edits(task.original, edits)
                found = Foreseen(
                    parameters=1 - plan.parameters_removed / parameter_count(task.subject.model),
                    flops=1 - plan.flops_removed_share,
                    predicted=predicted,
                    taken=taken_of(edits),
                )
                if budget.size is None and predicted > (budget.max_drop or 0.0):
                    break
                points.append(found)
                reached = budget.size is None or saved >= 1 - budget.size - 1e-9
    notes, refusal = list(subject.notes), ""
    if not reached:
        left = 1.0 if not points else getattr(points[-1], saving)
        refusal = (
            f"Only {1 - left:.1%} of the {'parameters' if saving == 'parameters' else 'operations'}"
            f" can go: the rest {kept_by(task)}."
        )
    if "layers" in task.kinds:
        notes.append("Whole layers are left out here: which may go is measured, not predicted.")
    if budget.latency is not None:
        notes.append("Time is measured, not predicted: the same share of operations stands for it.")
    return Outlook(
        model=subject.source.name,
        model_class=type(subject.model).__name__,
        parameters=parameter_count(subject.model),
        budget=budget,
        metric=subject.objective.metric,
        kinds=task.kinds,
        keep=task.keep,
        only=task.only,
        points=tuple(points),
        reached=reached,
        refusal=refusal,
        refused=dict(sorted(refused.items())),
        notes=tuple(notes),
    )


def _shares(budget: Budget) -> list[float]:
    """Sizes to look at, largest first."""
    if budget.size is None:
        return [FINER**number for number in range(1, MOST)]
    return [budget.size ** (number / STEPS) for number in range(1, STEPS + 1)]
