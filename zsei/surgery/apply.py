"""Edits carried out on a subject: in the model's own class where proven, else as a program."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from zsei.errors import ExportError, ModelError, SurgeryRefused
from zsei.subject.program import Program, export
from zsei.subject.types import ModelSource, Subject
from zsei.surgery.edits import Edit, same_sites
from zsei.surgery.fold import Means, Shifts, bias_shifts, shift_module, shift_program
from zsei.surgery.module_edit import ModuleEdit
from zsei.surgery.module_form import edit_module, equal, run
from zsei.surgery.program_form import edit_program
from zsei.surgery.structure import new_parameters
from zsei.surgery.symbolic import static_anatomy
from zsei.surgery.weights import Weights, put_in_module, put_in_program, under_read_names


class ProgramModel(nn.Module):
    """A program as an ordinary module: takes its inputs by position or by name.

    Args:
        program: Takes the inputs by position and gives the main output.
        input_names: Their names, in order.
        sizes: For each input its sizes, None where any goes; it is checked before running.
    """

    def __init__(
        self,
        program: nn.Module,
        input_names: Sequence[str],
        sizes: Sequence[Sequence[int | None]],
    ):
        super().__init__()
        self.program = program
        self.input_names = tuple(input_names)
        self.sizes = tuple(tuple(own) for own in sizes)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """The main output.

        Args:
            inputs: The first inputs, in order.
            named: The remaining ones by name.
        """
        rest = self.input_names[len(inputs) :]
        if set(named) != set(rest) or len(inputs) > len(self.input_names):
            raise TypeError(
                f"This model takes {', '.join(self.input_names)}; it got {len(inputs)} inputs by "
                f"position and {sorted(named)} by name."
            )
        given = (*inputs, *(named[name] for name in rest))
        for name, tensor, sizes in zip(self.input_names, given, self.sizes, strict=True):
            if not _fits(tensor.shape, sizes):
                raise ModelError(
                    f"This program takes `{name}` as {['any' if s is None else s for s in sizes]}; "
                    f"it got {list(tensor.shape)}. Its model cannot be exported for other sizes."
                )
        return self.program(*given)


def bare(program: Program) -> fx.GraphModule:
    """A program's module for running alone: no shapes on its nodes, tensors in, a tensor out.

    What torch keeps beside the graph (symbols, trees of inputs) cannot be copied by `deepcopy`.
    """
    graph, known = fx.Graph(), {}
    graph.graph_copy(program.graph_module.graph, known)
    graph.output(known[program.graph_module.graph.output_node().all_input_nodes[0]])
    for node in graph.nodes:
        node.meta.clear()
    return fx.GraphModule(program.graph_module, graph)


def _fits(shape: Sequence[int], sizes: Sequence[int | None]) -> bool:
    return len(shape) == len(sizes) and all(
        size is None or size == own for own, size in zip(shape, sizes, strict=True)
    )


def input_sizes(program: Program) -> tuple[tuple[int | None, ...], ...]:
    """The sizes of each input of a program; None where it takes any."""
    return tuple(
        tuple(_fixed(size) for size in node.meta["val"].shape)
        for node in program.graph_module.graph.nodes
        if node.op == "placeholder"
    )


def _fixed(size: int | torch.SymInt) -> int | None:
    """A size that the export settled, though it was left open, is a symbol with a known value."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


@dataclass(frozen=True, kw_only=True)
class EditedModel:
    """A smaller model, and all that is needed to save it."""

    model: nn.Module
    """What to run: the user's own class, or a `ProgramModel`."""
    form: Literal["module", "program"]
    program: Program
    """The edited program; with symbolic sizes where it is what is saved and they are possible."""
    edits: tuple[Edit, ...]
    module_edit: ModuleEdit | None
    original_config: Any
    """Config of the unedited model where it is a transformers model, else None."""
    source: ModelSource
    input_names: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    """Example inputs, on which both forms were compared."""
    output: Tensor
    """The edited program's output for them."""
    tokenizer: Any = None
    note: str = ""
    """Why it is no model of the user's own class, when it is none."""


def apply_edits(
    subject: Subject,
    edits: Iterable[Edit],
    means: Means | None = None,
    weights: Weights | None = None,
) -> EditedModel:
    """Carry out edits on a copy of a subject's model.

    Args:
        subject: The model, its program and anatomy; nothing of it is changed.
        edits: Edits whose sites are those of `subject.anatomy`.
        means: Mean values of the sites, folded into the biases behind removed units.
        weights: New values of parameters, put in place after the edits and the means.

    Raises:
        SurgeryRefused: When an edit cannot be proven, or the subject has no program.
    """
    if subject.program is None:
        raise SurgeryRefused(
            "Surgery works on the exported program, and this model could not be exported; see the "
            "analysis' notes for the reason."
        )
    edits = tuple(edits)
    inputs = example_inputs(subject)
    shifts = bias_shifts(subject.program, edits, means or {})
    values = under_read_names(weights or {}, subject.model, subject.program)
    if missing := [n for n in new_parameters(subject.program, edits) if n not in values]:
        raise SurgeryRefused(
            f"The edits bring new parameters, whose values must come with them; there is none for "
            f"{', '.join(missing[:5])}."
        )
    static = put_in_program(shift_program(edit_program(subject.program, edits), shifts), values)
    with torch.no_grad():
        output = static(*inputs)
    module, module_edit, note = None, None, ""
    try:
        found, made = edit_module(
            subject.model, subject.program, edits, subject.anatomy, inputs, values
        )
        found = put_in_module(shift_module(found, shifts), values)
        if not equal(run(found, subject.input_names, inputs), output):
            raise SurgeryRefused(
                f"{type(found).__name__} does not compute the same with the new values of its "
                f"parameters; the edited program does."
            )
        module, module_edit = found, made
    except SurgeryRefused as error:
        note = str(error)
    config = config_of(subject.model)
    program = static
    if module is None or config is None:
        # Only then is the program what is saved; exporting it again takes seconds.
        program = _open_sizes(subject, edits, shifts, values, inputs, output) or static
    model = module or ProgramModel(bare(program), subject.input_names, input_sizes(program))
    for parameter in model.parameters():
        # The subject's own copy cannot be trained; what the user gets can.
        parameter.requires_grad_(parameter.is_floating_point())
    return EditedModel(
        model=model,
        form="program" if module is None else "module",
        program=program,
        edits=edits,
        module_edit=module_edit,
        original_config=config,
        source=subject.source,
        input_names=subject.input_names,
        inputs=inputs,
        output=output,
        tokenizer=subject.tokenizer,
        note=note,
    )


def example_inputs(subject: Subject) -> tuple[Tensor, ...]:
    """Inputs of the shapes the subject's program was exported with."""
    assert subject.program is not None
    nodes = subject.program.graph_module.graph.nodes
    wanted = [tuple(node.meta["val"].shape) for node in nodes if node.op == "placeholder"]
    for batch in (*subject.calibration, *subject.held_out):
        if [tuple(tensor.shape) for tensor in batch.inputs] == wanted:
            return batch.inputs
    raise SurgeryRefused(
        f"No batch of the subject has the shapes {wanted} its program was exported with."
    )


def _open_sizes(
    subject: Subject, edits: tuple[Edit, ...], shifts: Shifts, weights: Weights,
    inputs: tuple[Tensor, ...], output: Tensor,
) -> Program | None:  # fmt: skip
    """The edited program with symbolic sizes where the model allows them; None on failure."""
    try:
        program = export(subject.model, subject.input_names, inputs, dynamic=True)
        anatomy = static_anatomy(program, subject.anatomy.family)
        edited = shift_program(edit_program(program, same_sites(edits, anatomy)), shifts)
        edited = put_in_program(edited, weights)
    except (ExportError, SurgeryRefused):
        return None
    with torch.no_grad():
        found = edited(*inputs)
    return edited if equal(found, output) else None


def config_of(model: nn.Module) -> Any:
    """The config of a model that transformers itself defines; None for any other."""
    known = type(model).__module__.startswith("transformers.")
    return getattr(model, "config", None) if known else None
