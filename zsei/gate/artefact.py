"""Whether an edited model, saved and loaded back, still gives the same outputs."""

import io
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zsei.subject.program import Program

RoundTrip = Callable[[Program, Sequence[Tensor]], Callable[..., Tensor]]
"""Saves a program (given inputs of its shape) and returns what was loaded back."""


def pt2_round_trip(program: Program, inputs: Sequence[Tensor]) -> Callable[..., Tensor]:
    """Through `torch.export.save` and `load`, in memory."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        exported = torch.export.export(program.graph_module, tuple(inputs), strict=False)
        file = io.BytesIO()
        torch.export.save(exported, file)
        file.seek(0)
        return torch.export.load(file).module(check_guards=False)


@torch.no_grad()
def artefact_difference(program: Program, inputs: Sequence[Tensor], round_trip: RoundTrip) -> float:
    """Largest output difference after saving and loading, over the largest output.

    Infinite when the loaded model returns another shape, or something that is no number.
    """
    expected = program(*inputs)
    found = round_trip(program, inputs)(*inputs)
    if not isinstance(found, Tensor):
        found = found[0]
    if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
        return float("inf")
    scale = float(expected.abs().max()) or 1.0
    return float((found.double() - expected.double()).abs().max()) / scale
