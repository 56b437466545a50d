"""Edits done to the user's own model class.

A copy of the model gets its parameters cut by name and its integers mended. Whether its code
understood them is not argued but measured: it must run on one sample, and its outputs on the
example inputs must equal those of the edited program. Otherwise the program form stands alone.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.subject.program import MainOutput, Program
from zsei.subject.types import Anatomy
from zsei.surgery.edits import Edit
from zsei.surgery.mend import module_edits
from zsei.surgery.module_edit import ModuleEdit, apply_module_edit
from zsei.surgery.program_form import apply_plan, plan_edits

TOLERANCE = 1e-5
"""Largest difference between two forms of one edit, relative to the outputs' largest entry."""


def edit_module(
    model: nn.Module,
    program: Program,
    edits: Iterable[Edit],
    anatomy: Anatomy,
    inputs: Sequence[Tensor],
) -> tuple[nn.Module, ModuleEdit]:
    """The user's model with the edits done, proven equal to the edited program.

    Args:
        model: The user's model; it is not touched.
        program: Its program with plain shapes, before the edits.
        edits: Edits whose sites name values of `program`.
        anatomy: The anatomy of `program`.
        inputs: Inputs of the exported shapes, in the order of the program's inputs.

    Returns:
        The edited copy, in eval mode, and the edit as data (to be saved and replayed).

    Raises:
        SurgeryRefused: When the edit itself is refused, or when the class's own code cannot be
            brought to compute what the edited program computes.
    """
    edits = tuple(edits)
    plan = plan_edits(program, edits)
    edited = apply_plan(program, plan)
    with torch.no_grad():
        wanted = edited(*inputs)
    reason = "it was not tried"
    for edit in module_edits(model, program, edited, plan, edits, anatomy):
        try:
            candidate = apply_module_edit(model, edit).eval()
            found = run(candidate, program.input_names, inputs)
        except Exception as error:  # the user's code may raise anything on shapes it did not expect
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
            continue
        if equal(found, wanted):
            return candidate, edit
        reason = "its outputs differ from those of the edited program"
    raise SurgeryRefused(
        f"{type(model).__name__} cannot be edited in its own class ({reason}); the edited program "
        f"computes the same and can be run, saved and loaded instead."
    )


def run(model: nn.Module, input_names: Sequence[str], inputs: Sequence[Tensor]) -> Tensor:
    """The model's main output without gradients."""
    with torch.no_grad():
        return MainOutput(model, input_names)(*inputs)


def equal(found: Tensor, wanted: Tensor) -> bool:
    """Whether two outputs are the same up to the order of summation."""
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    limit = max(TOLERANCE, 8 * torch.finfo(wanted.dtype).eps)
    finite = wanted.isfinite()
    if not torch.equal(found[~finite], wanted[~finite]):
        return False
    found, wanted = found[finite], wanted[finite]
    if not wanted.numel():
        return True
    return bool((found - wanted).abs().max() <= limit * max(1.0, float(wanted.abs().max())))
