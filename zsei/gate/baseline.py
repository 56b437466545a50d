"""What the gate knows of the original before it tries anything: measured once, used every time."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from zsei.errors import DataError
from zsei.gate.cost import Cost, measure_cost, parameter_targets
from zsei.gate.lengths import Shorter, measure_shorter
from zsei.gate.quality import Reference, RunBatch, group_names, measure_reference
from zsei.gate.reach import gradient_norms
from zsei.settings import Settings
from zsei.subject.program import Program
from zsei.subject.types import Batch, Subject


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """The original, measured."""

    cost: Cost
    parameters: frozenset[str]
    """Targets of its parameters in the program."""
    reference: Reference
    """Its answers on the held-out batches."""
    gradients: Mapping[str, float]
    """Norm of the gradient by parameter; empty when the model has no backward pass."""
    shorter: Shorter | None
    """The same at half the input length, where that exists."""
    groups: tuple[str, ...]
    """Names of the data groups, in the order of their numbers."""
    notes: Mapping[str, str]
    """Stage -> what a reader should know about it: group names, why something was left out."""


def run_of(program: Program) -> RunBatch:
    """A program as a function of a batch."""

    def run(batch: Batch) -> torch.Tensor:
        return program(*batch.inputs)

    return run


def measure_baseline(subject: Subject, settings: Settings) -> Baseline:
    """Measure the original: cost, answers on held-out data, gradients, half the length.

    Raises:
        DataError: When the subject has no program, no held-out or no calibration data.
    """
    program = subject.program
    if program is None:
        raise DataError("The gate tries edits on the exported program and this model has none.")
    if not subject.calibration:
        raise DataError("The gate checks gradients on calibration data and got none.")
    reference = measure_reference(run_of(program), subject, subject.held_out)
    notes: dict[str, str] = {}
    try:
        gradients = gradient_norms(
            program, subject.objective, subject.calibration[0], settings.seed
        )
    except (RuntimeError, NotImplementedError) as error:
        gradients = {}
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        notes["gradients"] = f"the original has no backward pass: {first_line}"
    shorter, notes["lengths"] = measure_shorter(subject)
    groups = group_names(subject.held_out)
    notes["groups"] = f"groups by number: {', '.join(groups)}"
    return Baseline(
        cost=measure_cost(program),
        parameters=parameter_targets(program),
        reference=reference,
        gradients=gradients,
        shorter=shorter,
        groups=groups,
        notes=notes,
    )
