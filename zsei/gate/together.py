"""Several proposals as one set of edits, and the surgery that carries such a set out."""

from collections.abc import Callable, Mapping, Sequence

from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.strategies import find_strategy
from zsei.strategies.fitted import together
from zsei.subject.program import Program
from zsei.subject.types import Subject
from zsei.surgery.edits import (
    BypassLayer,
    Edit,
    FactoriseLinear,
    RemoveUnits,
    ReplaceLayer,
    stands_inside,
)
from zsei.surgery.fold import Means, bias_shifts, shift_program
from zsei.surgery.program_form import edit_program
from zsei.surgery.weights import Weights, put_in_program

Scores = Mapping[tuple[str, str], tuple[float, ...]]


def edits_of(
    subject: Subject, proposals: Sequence[Proposal], scores: Scores, settings: Settings
) -> tuple[tuple[Edit, ...], EditKind]:
    """The edits of several proposals as one set, and the widest kind among them."""
    order: tuple[EditKind, ...] = ("channels", "heads", "layers")
    edits: list[Edit] = []
    kind: EditKind = "channels"
    for proposal in proposals:
        strategy = find_strategy(proposal.strategy)
        edits += strategy.edits(subject.anatomy, scores, proposal, settings)
        if order.index(strategy.edit_kind) > order.index(kind):
            kind = strategy.edit_kind
    return merge(edits), kind


def merge(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """One edit per site: units named by several proposals go once; what is inside a layer that goes
    needs no edit any more.
    """  # fmt: skip
    whole = [edit for edit in edits if isinstance(edit, BypassLayer | ReplaceLayer)]
    # A layer that one would remove and another replace is replaced.
    whole.sort(key=lambda edit: isinstance(edit, ReplaceLayer))
    layers = {edit.site.component: edit for edit in whole}
    units: dict[tuple[str, str, bool], set[int]] = {}
    sites = {}
    for edit in edits:
        if isinstance(edit, RemoveUnits):
            key = (edit.site.component, edit.site.kind, edit.merged)
            sites[key] = edit.site
            units.setdefault(key, set()).update(edit.units)
    for component, kind, merged in units:
        if merged:  # what another unit takes over needs no mean in its place
            units.get((component, kind, False), set()).difference_update(
                units[component, kind, True]
            )

    def inside(component: str) -> bool:
        return any(stands_inside(component, layer) for layer in layers)

    kept = [key for key in units if units[key] and not inside(key[0])]
    thin = [e for e in edits if isinstance(e, FactoriseLinear) and not inside(e.site.component)]
    return (
        *(
            RemoveUnits(site=sites[key], units=tuple(sorted(units[key])), merged=key[2])
            for key in kept
        ),
        *dict.fromkeys(thin),
        *layers.values(),
    )


def folding(
    subject: Subject, edits: Sequence[Edit], means: Means, parts: Sequence[Weights]
) -> Callable[[Program, Sequence[Edit]], Program]:
    """Surgery that folds means into biases and puts in the values that proposals bring, for any
    export of the subject's model.
    """
    shifts = {} if subject.program is None else bias_shifts(subject.program, edits, means)
    values = {} if subject.program is None else together(subject.program, edits, parts, means)

    def edit(program: Program, here: Sequence[Edit]) -> Program:
        return put_in_program(shift_program(edit_program(program, here), shifts), values)

    return edit
