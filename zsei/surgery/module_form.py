"""Edits done to the user's own model class.

A copy of the model gets its parameters cut by name and its integers mended. Whether its code
understood them is not argued but measured: it must run on one sample, and its outputs on the
example inputs must equal those of the edited program. Otherwise the program form stands alone.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.subject.program import MainOutput, Program, frozen_twin
from zsei.subject.types import Anatomy
from zsei.surgery.edits import Edit, ReplaceLayer
from zsei.surgery.factorise import linear_at
from zsei.surgery.mend import module_edits
from zsei.surgery.module_edit import ModuleEdit, apply_module_edit
from zsei.surgery.new_modules import Factorised, Replaced, with_new_modules
from zsei.surgery.program_form import apply_plan, plan_edits
from zsei.surgery.replace_layer import find_ends
from zsei.surgery.structure import new_parameters, restructure, structural
from zsei.surgery.weights import Weights, put_in_module, put_in_program

TOLERANCE = 1e-5
"""Largest difference between two forms of one edit, relative to the outputs' largest entry."""


def edit_module(
    model: nn.Module,
    program: Program,
    edits: Iterable[Edit],
    anatomy: Anatomy,
    inputs: Sequence[Tensor],
    weights: Weights | None = None,
) -> tuple[nn.Module, ModuleEdit]:
    """The user's model with the edits done, proven equal to the edited program.

    Args:
        model: The user's model; it is not touched.
        program: Its program with plain shapes, before the edits.
        edits: Edits whose sites name values of `program`.
        anatomy: The anatomy of `program`.
        inputs: Inputs of the exported shapes, in the order of the program's inputs.
        weights: Values of the parameters that the edits bring; both forms are compared with these.

    Returns:
        The edited copy, in eval mode, and the edit as data (to be saved and replayed).

    Raises:
        SurgeryRefused: When the edit itself is refused, or when the class's own code cannot be
            brought to compute what the edited program computes.
    """
    edits = tuple(edits)
    plan = plan_edits(program, edits)
    edited = apply_plan(program, plan)
    brought = set(new_parameters(program, edits))
    values = {name: value for name, value in (weights or {}).items() if name in brought}
    put_in_program(edited, values)
    with torch.no_grad():
        wanted = edited(*inputs)
    reason = "it was not tried"
    try:
        factorised, replaced = _new_modules(model, program, edits, inputs)
        built = with_new_modules(model, factorised, replaced)
    except (AttributeError, RuntimeError, SurgeryRefused) as error:
        raise _not_in_class(model, str(error)) from error
    changed = restructure(program, edits)
    for edit in module_edits(built, changed, edited, plan, edits, anatomy):
        edit = edit.model_copy(update={"factorised": factorised, "replaced": replaced})
        try:
            candidate = put_in_module(apply_module_edit(model, edit).eval(), values)
            found = run(candidate, program.input_names, inputs)
        except Exception as error:  # the user's code may raise anything on shapes it did not expect
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[:1]}"
            continue
        if equal(found, wanted):
            return candidate, edit
        reason = "its outputs differ from those of the edited program"
    raise _not_in_class(model, reason)


def _not_in_class(model: nn.Module, reason: str) -> SurgeryRefused:
    return SurgeryRefused(
        f"{type(model).__name__} cannot be edited in its own class ({reason}); the edited program "
        f"computes the same and can be run, saved and loaded instead."
    )


def _new_modules(
    model: nn.Module, program: Program, edits: Iterable[Edit], inputs: Sequence[Tensor]
) -> tuple[tuple[Factorised, ...], tuple[Replaced, ...]]:
    """What edits put into the user's model, as data."""
    factorised, replaced = [], []
    for edit in structural(edits):
        if isinstance(edit, ReplaceLayer):
            ends = find_ends(program, edit)
            replaced.append(
                Replaced(
                    module=edit.site.component,
                    form=edit.form,
                    inputs=ends.inputs,
                    outputs=ends.outputs,
                    stride=ends.stride,
                    returns=_returns(model, edit.site.component, program.input_names, inputs),
                )
            )
        else:
            _, linear = linear_at(program.graph_module, edit)
            factorised.append(Factorised(module=linear.path, rank=edit.rank))
    kinds = set(getattr(getattr(model, "config", None), "layer_types", None) or ())
    if replaced and len(kinds) > 1 and hasattr(model, "generate"):
        # What is left is numbered from 0 for its caches, whose kinds the config tells by number.
        raise SurgeryRefused(
            f"its layers are of several kinds ({', '.join(sorted(kinds))}), and its caches would "
            f"take one that is left for another"
        )
    return tuple(factorised), tuple(replaced)


def _returns(
    model: nn.Module, path: str, input_names: Sequence[str], inputs: Sequence[Tensor]
) -> int | None:
    """How many values a layer returns as a tuple; None when it returns one tensor.

    Raises:
        SurgeryRefused: When it returns something else.
    """
    # A twin is asked: the user's own modules get no hooks, not even for a moment.
    twin = frozen_twin(model)
    seen: list[Any] = []
    twin.get_submodule(path).register_forward_hook(lambda module, given, found: seen.append(found))
    run(twin, input_names, inputs)
    if len(seen) == 1 and isinstance(seen[0], Tensor):
        return None
    if len(seen) == 1 and type(seen[0]) is tuple and isinstance(seen[0][0], Tensor):
        return len(seen[0])
    raise SurgeryRefused(
        f"`{path}` returns {type(seen[0]).__name__ if seen else 'nothing'} in {len(seen)} calls; "
        f"what stands in for it returns a tensor or a tuple, once."
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
