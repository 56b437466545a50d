"""An edited copy and how each stage's evidence is measured on it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from zsei.errors import SurgeryRefused
from zsei.gate.artefact import RoundTrip, artefact_difference
from zsei.gate.baseline import Baseline, run_of
from zsei.gate.cost import measure_cost
from zsei.gate.evidence import Evidence, Reach
from zsei.gate.latency import measure_latency
from zsei.gate.quality import measure_quality
from zsei.gate.reach import compare_reach, gradient_norms
from zsei.gate.structure import edited_components, lost_calls, same_output
from zsei.settings import Settings
from zsei.subject.program import Program
from zsei.subject.types import Subject
from zsei.surgery.edits import Edit, same_sites

EditProgram = Callable[[Program, Sequence[Edit]], Program]


@dataclass(frozen=True, kw_only=True, eq=False)
class Copy:
    """An edited copy of a subject's program, with all that is needed to measure it."""

    subject: Subject
    original: Program
    edits: tuple[Edit, ...]
    baseline: Baseline
    settings: Settings
    edit: EditProgram
    round_trip: RoundTrip

    @cached_property
    def edited(self) -> Program:
        """The edited copy, made when it is first asked for."""
        return self.edit(self.original, self.edits)


_PAIRS = 15
"""Timed pairs where the user's limit in time decides: the interval leaves out three at each end."""

Measure = Callable[[Copy, Evidence], tuple[Evidence, str]]
"""The evidence with one more measurement, and words about it for people ("" for none)."""


def _shape(copy: Copy, evidence: Evidence) -> tuple[Evidence, str]:
    # What it costs is read off the same shapes, so it is known even of an edit that fails later.
    same = same_output(copy.original, copy.edited)
    cost = measure_cost(copy.edited, copy.baseline.parameters)
    return replace(evidence, same_output=same, after=cost), ""


def _architecture(copy: Copy, evidence: Evidence) -> tuple[Evidence, str]:
    anatomy = copy.subject.anatomy
    excused = edited_components(copy.edits, anatomy)
    lost = lost_calls(copy.original, copy.edited, anatomy, excused)
    return replace(evidence, calls_lost=len(lost)), _named("lost", lost)


def _held_out(copy: Copy, evidence: Evidence) -> tuple[Evidence, str]:
    reference = copy.baseline.reference
    quality = measure_quality(run_of(copy.edited), copy.subject, copy.subject.held_out, reference)
    return replace(evidence, quality=quality), ""


def _gradients(copy: Copy, evidence: Evidence) -> tuple[Evidence, str]:
    if not copy.baseline.gradients:
        return replace(evidence, reach=Reach(demanded=0, lost=0, nonfinite=0)), ""
    subject = copy.subject
    after = gradient_norms(
        copy.edited, subject.objective, subject.calibration[0], copy.settings.seed,
        copy.baseline.parameters,
    )  # fmt: skip
    reach, lost = compare_reach(copy.baseline.gradients, after)
    return replace(evidence, reach=reach), _named("lost", lost)


def _lengths(copy: Copy, evidence: Evidence) -> tuple[Evidence, str]:
    shorter = copy.baseline.shorter
    assert shorter is not None  # the stage is skipped where there is none
    try:
        edits = same_sites(copy.edits, shorter.anatomy)
        edited = copy.edit(shorter.program, edits)
    except SurgeryRefused as error:
        return evidence, f"the edit cannot be made at {shorter.length} tokens: {error}"
    quality = measure_quality(run_of(edited), copy.subject, shorter.batches, shorter.reference)
    return replace(evidence, shorter=quality), ""


def _artefact(copy: Copy, evidence: Evidence) -> tuple[Evidence, str]:
    inputs = copy.subject.held_out[0].inputs
    difference = artefact_difference(copy.edited, inputs, copy.round_trip)
    return replace(evidence, artefact=difference), ""


def _latency(copy: Copy, evidence: Evidence) -> tuple[Evidence, str]:
    inputs = copy.subject.held_out[0].inputs
    ratio = measure_latency(copy.original, copy.edited, inputs, pairs=_PAIRS)
    return replace(evidence, latency=ratio), ""


MEASURES: Mapping[str, Measure] = {
    "shape": _shape,
    "architecture": _architecture,
    "forward": _held_out,
    "gradients": _gradients,
    "lengths": _lengths,
    "artefact": _artefact,
    "latency": _latency,
}
"""Stage -> how the evidence it waits for is measured. The other stages look at what these brought:
cost and phase at the shapes', quality and groups at the forward stage's."""


def _named(what: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
    return f"{what}: {shown}" if names else ""
