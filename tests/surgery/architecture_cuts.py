"""Cuts 30 % out of an architecture wherever it is proven, and says what stood in the way elsewhere.

python -m tests.surgery.architecture_cuts [names]        # prints the table
"""

import math
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from architectures import ARCHITECTURES, build
from oracles import removal
from surgery_subjects import UNITS, difference, sites

from zsei.errors import SurgeryRefused
from zsei.subject.anatomy import read_anatomy
from zsei.subject.program import export, frozen_twin
from zsei.subject.types import Batch, ModelSource, Site, Subject
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.module_form import run
from zsei.surgery.program_form import plan_edits
from zsei.surgery.repeats import key_value_classes
from zsei.surgery.save import load, save

SHARE = 0.3


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one architecture."""

    name: str
    removed: dict[str, int]
    """Kind of unit -> at how many sites units went."""
    refused: tuple[str, ...]
    """Why the other sites stayed whole."""
    parameters: float
    """Share of the parameters that went, 0 to 1."""
    mask_error: float
    """Largest difference from the same units held at zero, relative to the largest output."""
    change: float
    """Largest difference from the unedited outputs, on the same scale."""
    form: str
    """How it was saved: huggingface, module or program; "" when it was not."""
    load_error: float
    """Largest difference after loading, on the same scale."""
    note: str
    """Why the class itself could not be edited, when it could not."""


def subject_of(name: str) -> Subject:
    """An architecture with one batch of random inputs and no objective: enough for surgery."""
    model, named = build(name)
    inputs = tuple(named.values())
    twin = frozen_twin(model)
    program = export(twin, tuple(named), inputs)
    return Subject(
        source=ModelSource(name=name, kind="object"),
        model=twin,
        model_hash="",
        program=program,
        input_names=tuple(named),
        objective=cast(Any, None),
        calibration=(Batch(inputs=inputs),),
        held_out=(),
        anatomy=read_anatomy(program, name),
    )


def units_to_go(subject: Subject, site: Site) -> tuple[int, ...]:
    """30 % of a site's units, at least one; whole query groups where keys are shared."""
    generator = torch.Generator().manual_seed(site.units)
    order = torch.randperm(site.units, generator=generator).tolist()
    count = max(1, math.floor(SHARE * site.units))
    if any(site is other for other in subject.anatomy.untapped) and site.kind == "neuron":
        # The grouped product of the model's own class wants rows of 16 bytes.
        count -= count % 4
    assert subject.program is not None
    node = subject.program.node(site.node)
    if site.kind == "head" and len(node.meta["val"].shape) == 4:
        _, classes = key_value_classes(node)
        groups = len(classes.unique())
        if 1 < groups < site.units:
            gone = order[0] % groups
            return tuple(i for i, group in enumerate(classes.tolist()) if group == gone)
    return tuple(sorted(order[:count]))


def proven(subject: Subject, found: Sequence[Site]) -> tuple[list[RemoveUnits], list[str]]:
    """The cuts that can be made together, and why the others cannot."""
    program = subject.program
    assert program is not None
    edits = [RemoveUnits(site=site, units=units_to_go(subject, site)) for site in found]
    try:
        if edits:
            plan_edits(program, edits)
        return edits, []
    except SurgeryRefused:
        reasons, kept = [], []
        for edit in edits:
            try:
                plan_edits(program, [edit])
                kept.append(edit)
            except SurgeryRefused as error:
                reasons.append(f"{edit.site.component}: {error}")
        return kept, reasons


def prune(name: str, keep: bool = True) -> tuple[Outcome, EditedModel | None]:
    """Cut an architecture, compare it with the same units held at zero, save and load it."""
    subject = subject_of(name)
    program = subject.program
    assert program is not None
    inputs = subject.calibration[0].inputs
    inside = [site for site in subject.anatomy.untapped if site.kind != "width"]
    found = [*sites(subject.anatomy, *UNITS), *inside]
    edits, refused = proven(subject, found)
    if not edits:
        return _outcome(name, edits, refused, subject), None
    edited = apply_edits(subject, edits)
    wanted = removal.masked(program, inputs, [(e.site, e.units) for e in edits])
    original = program(*inputs)
    form, load_error = "", 0.0
    if keep:
        with tempfile.TemporaryDirectory() as folder:
            form = save(edited, Path(folder) / "model").form
            back = load(Path(folder) / "model")
        load_error = difference(run(back, subject.input_names, inputs), edited.output)
    return (
        _outcome(
            name, edits, refused, subject,
            mask_error=difference(edited.output, wanted), change=difference(original, wanted),
            form=form, load_error=load_error, note=edited.note,
        ),
        edited,
    )  # fmt: skip


def _outcome(
    name: str, edits: list[RemoveUnits], refused: list[str], subject: Subject, **measured: Any
) -> Outcome:
    before = sum(p.numel() for p in subject.model.parameters())
    assert subject.program is not None
    gone = plan_edits(subject.program, edits).parameters_removed if edits else 0
    blank = {"mask_error": 0.0, "change": 0.0, "form": "", "load_error": 0.0, "note": ""}
    return Outcome(
        name=name,
        removed=dict(Counter(edit.site.kind for edit in edits)),
        refused=tuple(refused),
        parameters=gone / before,
        **(blank | measured),
    )


def main(names: Sequence[str]) -> None:
    """Print the table, one architecture a line."""
    print("| architecture | removed at | parameters | saved as | difference | stays whole |")
    print("|---|---|---|---|---|---|")
    for name in names or ARCHITECTURES:
        found, _ = prune(name)
        removed = ", ".join(f"{n} x {kind}" for kind, n in found.removed.items()) or "nothing"
        print(
            f"| {name} | {removed} | {found.parameters:.1%} | {found.form or '-'} | "
            f"{found.mask_error:.0e} | {'; '.join(found.refused[:1]) or '-'} |",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
