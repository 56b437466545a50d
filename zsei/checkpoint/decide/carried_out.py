"""A cut as it will be carried out in training: the run's own class, smaller, by parameter name."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from safetensors.torch import load, save
from torch import Tensor, nn

from zsei.checkpoint.decide.running_statistics import put_statistics, renewed_statistics
from zsei.checkpoint.measure.subjects import put_weights
from zsei.errors import SurgeryRefused
from zsei.gate.artefact import pt2_round_trip
from zsei.subject.program import Program
from zsei.subject.types import Subject
from zsei.surgery.edits import Edit
from zsei.surgery.module_edit import ModuleEdit, apply_module_edit
from zsei.surgery.module_form import edit_module, run
from zsei.surgery.program_form import edit_program, plan_edits


@dataclass(frozen=True, kw_only=True, eq=False)
class CarriedOut:
    """Edits on a copy of a subject's model, made when they are first asked for."""

    subject: Subject
    edits: tuple[Edit, ...]
    inputs: tuple[Tensor, ...]
    """Of the shapes the program was exported with."""
    renews: bool = True
    """Whether the running statistics of batch norms follow the cut; not where units stay and are
    held at zero."""

    @property
    def edit(self) -> ModuleEdit | None:
        """The cut as data; None when the class cannot be edited."""
        return None if isinstance(self._made, str) else self._made[1]

    @property
    def refusal(self) -> str:
        """Why the class cannot be edited; empty when it can."""
        return self._made if isinstance(self._made, str) else ""

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """Running statistics behind the cut, those that change (`renewed_statistics`)."""
        original = self.subject.program
        if not self.renews or original is None:
            return {}
        edited = edit_program(original, self.edits)
        return renewed_statistics(original, edited, self.edits, self.subject.calibration)

    def program(self, program: Program, edits: Sequence[Edit]) -> Program:
        """A program of this model with the cut as it will be. (`zsei.gate.trial.EditProgram`)"""
        return put_statistics(edit_program(program, edits), self.buffers)

    @cached_property
    def parameters(self) -> int:
        """Parameters that are left."""
        if not isinstance(self._made, str):
            return parameter_count(self._made[0])
        assert self.subject.program is not None
        removed = plan_edits(self.subject.program, self.edits).parameters_removed
        return parameter_count(self.subject.model) - removed

    def round_trip(self, program: Program, inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
        """What training and whoever resumes it will have: the cut as JSON, done to the model, with
        the weights from a safetensors file. (`zsei.gate.artefact.RoundTrip`)

        A class that cannot be edited goes through torch's own file of the program.
        """
        if isinstance(self._made, str):
            return pt2_round_trip(program, inputs)
        smaller, edit = self._made
        again = apply_module_edit(
            self.subject.model, ModuleEdit.model_validate_json(edit.model_dump_json())
        ).eval()
        put_weights(again, load(save(_unshared(smaller) | self.buffers)))
        return lambda *given: run(again, self.subject.input_names, given)

    @cached_property
    def _made(self) -> tuple[nn.Module, ModuleEdit] | str:
        subject = self.subject
        assert subject.program is not None
        try:
            return edit_module(
                subject.model, subject.program, self.edits, subject.anatomy, self.inputs
            )
        except SurgeryRefused as error:
            return str(error)


def parameter_count(model: nn.Module) -> int:
    """Elements of all parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _unshared(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model, weights that share their storage once: safetensors holds no ties."""
    found: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in model.state_dict().items():
        found.setdefault(tensor.data_ptr() if tensor.numel() else id(tensor), (name, tensor))
    return {name: tensor.clone().contiguous() for name, tensor in found.values()}
