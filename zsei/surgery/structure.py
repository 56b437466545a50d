"""Edits that bring new parameters: done to a program before anything is cut."""

from collections.abc import Iterable

from zsei.subject.program import Program
from zsei.surgery.edits import Edit, FactoriseLinear, ReplaceLayer
from zsei.surgery.factorise import factor_names, factorise_calls
from zsei.surgery.replace_layer import map_names, replace_calls
from zsei.surgery.shapes import run_shapes
from zsei.surgery.symbolic import copy_graph

Structural = ReplaceLayer | FactoriseLinear


def structural(edits: Iterable[Edit]) -> tuple[Structural, ...]:
    """Those of the edits that bring new parameters, replaced layers first."""
    found = [edit for edit in edits if isinstance(edit, ReplaceLayer | FactoriseLinear)]
    return tuple(sorted(found, key=lambda edit: isinstance(edit, FactoriseLinear)))


def restructure(program: Program, edits: Iterable[Edit]) -> Program:
    """The program with layers replaced and linears factorised; nothing is cut yet.

    The values keep their names: what a replaced layer or a factorised linear writes is written
    under the name it had. New parameters are zero.

    Args:
        program: With plain or symbolic sizes; it is left as it is.
        edits: All edits; the others are left for later.

    Raises:
        SurgeryRefused: Naming the call that stands in the way.
    """
    chosen = structural(edits)
    if not chosen:
        return program
    module = copy_graph(program)
    for edit in chosen:
        if isinstance(edit, ReplaceLayer):
            replace_calls(module, edit)
        else:
            factorise_calls(module, edit)
    run_shapes(module)
    return Program(graph_module=module, input_names=program.input_names)


def new_parameters(program: Program, edits: Iterable[Edit]) -> tuple[str, ...]:
    """Names of the parameters that edits bring and that values must be given for."""
    return tuple(
        name
        for edit in structural(edits)
        for name in (
            map_names(edit) if isinstance(edit, ReplaceLayer) else factor_names(program, edit)
        )
    )
