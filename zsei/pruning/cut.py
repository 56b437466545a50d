"""One cut carried out on a copy of the program: edits, and the weights that make up for them."""

from collections.abc import Sequence
from dataclasses import dataclass

from zsei.subject.program import Program
from zsei.subject.types import Batch
from zsei.surgery.compensate import RIDGE, compensate
from zsei.surgery.edits import Edit, ReplaceLayer
from zsei.surgery.program_form import apply_plan, edit_program, plan_edits
from zsei.surgery.weights import Weights, put_in_program

REPAIRS: dict[str, tuple[float, float] | None] = {
    "least squares": (RIDGE, 1.0),
    "least squares, each reader for itself": (RIDGE, 0.0),
    "biases only": (1e9, 1.0),
    "none": None,
}
"""(ridge, share of the drift made up for). With so much ridge nothing but a bias can move. All are
tried in the end and the one that measures best is kept: repair can hurt."""
UNCHANGED = 1e12, 0.0
"""For a cut with maps and no repair: the maps are fitted and no weight moves."""
FIRST_REPAIR = "least squares"


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A smaller program, and how it came to be."""

    edits: tuple[Edit, ...]
    weights: Weights
    program: Program

    def edit(self, program: Program, edits: Sequence[Edit]) -> Program:
        """The same cut on another export of the model, for the gate."""
        return put_in_program(edit_program(program, edits), self.weights)


def make_cut(
    original: Program,
    edits: Sequence[Edit],
    batches: Sequence[Batch],
    repair: str = FIRST_REPAIR,
) -> Cut:
    """Carry out edits on a copy and repair it on calibration data.

    Raises:
        SurgeryRefused: Naming the call that stands in the way.
    """
    plan = plan_edits(original, edits)
    program = apply_plan(original, plan)
    how = REPAIRS[repair]
    maps = [edit for edit in edits if isinstance(edit, ReplaceLayer)]
    weights: Weights = {}
    if how is not None or maps:
        ridge, drift = how or UNCHANGED
        weights = compensate(original, program, plan, batches, ridge=ridge, drift=drift, maps=maps)
    return Cut(edits=tuple(edits), weights=weights, program=program)
