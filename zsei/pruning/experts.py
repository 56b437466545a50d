"""Whole experts of a mixture: what each is worth is measured, one left out at a time.

An expert serves few tokens, and leaving it out sends those to others: no first-order score sees
that, and there are few enough of them to try each.
"""

from collections.abc import Callable, Sequence

from zsei.errors import SurgeryRefused
from zsei.pruning.allocate import joined
from zsei.pruning.cut import make_cut
from zsei.pruning.measure import merit_of
from zsei.pruning.order import Curve
from zsei.pruning.places import Left, Place
from zsei.pruning.task import Task
from zsei.subject.types import Site
from zsei.surgery.edits import Edit, RemoveUnits
from zsei.surgery.program_form import Plan, plan_edits


def expert_curves(task: Task, edits: Sequence[Edit]) -> tuple[list[Curve], dict[str, str]]:
    """Experts of every block in the order in which they should go, and why others cannot.

    Args:
        task: What is searched.
        edits: What has gone so far.
    """
    curves: list[Curve] = []
    refused: dict[str, str] = {}
    units = [edit for edit in edits if isinstance(edit, RemoveUnits)]
    others = tuple(edit for edit in edits if not isinstance(edit, RemoveUnits))
    for site in task.subject.anatomy.untapped:
        if site.kind != "expert" or site.component in task.spared:
            continue
        gone = {u for e in units if e.site == site for u in e.units}
        left = tuple(unit for unit in range(site.units) if unit not in gone)

        def without(*experts: int, site: Site = site) -> tuple[Edit, ...]:
            return (*joined(units, [RemoveUnits(site=site, units=experts)]), *others)

        try:
            first = plan_edits(task.original, without(left[0]))
            before = plan_edits(task.original, edits) if edits else None
            losses = [
                merit_of(
                    make_cut(task.original, without(expert), (), "none").program,
                    task.subject, task.choose,
                ).loss
                for expert in left
            ]  # fmt: skip
        except SurgeryRefused as error:
            refused[site.component] = str(error)
            continue
        order = sorted(range(len(left)), key=lambda i: (losses[i], i))
        most = _most(task, left, without)
        curves.append(
            Curve(
                place=_place(site, left, first, before),
                groups=tuple(order[:most]),
                costs=tuple(max(losses[i], 0.0) for i in order[:most]),
            )
        )
    return curves, refused


def _most(task: Task, left: Sequence[int], without: Callable[..., tuple[Edit, ...]]) -> int:
    """How many experts may go: as many stay as each token is sent to."""
    for count in range(len(left) - 1, 0, -1):
        try:
            plan_edits(task.original, without(*left[:count]))
        except SurgeryRefused:
            continue
        return count
    return 0


def _place(site: Site, left: tuple[int, ...], plan: Plan, before: Plan | None) -> Place:
    return Place(
        left=Left(site=site, whole=site, numbers=left),
        together=1,
        readers=(),
        inputs=(),
        parameters=plan.parameters_removed - (before.parameters_removed if before else 0),
        flops=max(
            plan.flops_removed_share - (before.flops_removed_share if before else 0.0), 1e-12
        ),
        least=1,
    )
