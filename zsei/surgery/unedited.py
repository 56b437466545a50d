"""A subject's model as it is, in the form in which edited ones are saved."""

import torch

from zsei.errors import ExportError, SurgeryRefused
from zsei.subject.program import Program, export
from zsei.subject.types import Subject
from zsei.surgery.apply import EditedModel, config_of, example_inputs
from zsei.surgery.module_edit import ModuleEdit
from zsei.surgery.module_form import run


def unedited(subject: Subject) -> EditedModel:
    """The model with no edit: what a history begins with. It shares the subject's weights.

    Raises:
        SurgeryRefused: The subject has no program.
    """
    if subject.program is None:
        raise SurgeryRefused(
            "Surgery works on the exported program, and this model could not be exported; see the "
            "analysis' notes for the reason."
        )
    inputs = example_inputs(subject)
    config = config_of(subject.model)
    with torch.no_grad():
        output = run(subject.model, subject.input_names, inputs)
    return EditedModel(
        model=subject.model,
        form="module",
        program=subject.program if config is not None else _open(subject, inputs, output),
        edits=(),
        module_edit=ModuleEdit(),
        original_config=config,
        source=subject.source,
        input_names=subject.input_names,
        inputs=inputs,
        output=output,
        tokenizer=subject.tokenizer,
    )


def _open(subject: Subject, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> Program:
    """The program with symbolic sizes where the model allows them."""
    assert subject.program is not None
    try:
        program = export(subject.model, subject.input_names, inputs, dynamic=True)
    except ExportError:
        return subject.program
    with torch.no_grad():
        return program if torch.equal(program(*inputs), output) else subject.program
