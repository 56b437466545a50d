"""Values and gradients that are NaN or infinite: where they first appear, and on which samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from zsei.errors import NumericalError
from zsei.subject.screen import finite_samples, whole, without
from zsei.subject.types import Anatomy, Batch, Subject
from zsei.trace.engine import Engine
from zsei.trace.kept import Evidence
from zsei.trace.taps import Taps

MOST = 0.5
"""Share of the samples above which a value, not the samples, is left out."""


@dataclass(frozen=True, kw_only=True)
class Undefined:
    """A component whose value, or gradient, is no number on some samples."""

    component: str
    what: Literal["value", "gradient"]
    groups: Mapping[str, tuple[int, int]]
    """Data group -> (samples on which it first goes wrong here, samples in all)."""
    reaches_output: bool
    """Whether the model's output is undefined too."""
    left_out: Literal["samples", "component"]
    """What the other numbers do without: these samples, or this component."""


@dataclass
class Cleaned:
    """One pass over samples and values that are numbers throughout."""

    subject: Subject
    taps: Taps
    evidence: Evidence
    undefined: list[Undefined] = field(default_factory=list)
    left_out: set[int] = field(default_factory=set)
    """Numbers of the calibration samples left out."""


def clean_pass(
    subject: Subject, taps: Taps, engine: Engine, run: Callable[[Subject, Taps], Evidence]
) -> Cleaned:
    """Run the pass; should anything be undefined, leave it out and run again.

    A value that is undefined on more than half of the samples is left out itself, and so is such a
    gradient; otherwise the samples go, everywhere, so that all numbers rest on the same ones.

    Args:
        subject: With its calibration data.
        taps: What is watched.
        engine: Runs the model.
        run: The pass.

    Raises:
        NumericalError: Nothing is left to measure.
    """
    found = _at_the_output(subject, taps, engine) if subject.left_out else []
    evidence = run(subject, taps)
    if not evidence.undefined:
        return Cleaned(subject=subject, taps=taps, evidence=evidence, undefined=found)
    samples = sum(batch.size for batch in subject.calibration)
    always = {k: bad for k, bad in evidence.undefined.items() if len(bad) > MOST * samples}
    at_times = {k: bad for k, bad in evidence.undefined.items() if k not in always}
    # What is undefined because of a component left out is no fault of its own.
    excused = set().union(*always.values()) if always else set()
    left_out = set().union(*at_times.values()) - excused if at_times else set()
    fewer = {k: bad - excused for k, bad in at_times.items() if bad - excused}
    gone = always | {k: bad for k, bad in at_times.items() if k not in fewer}
    found += _first(subject, engine, gone, "component")
    found += _first(subject, engine, fewer, "samples")
    taps = _without(taps, gone)
    step = 2 if subject.objective.name == "similarity" else 1
    left_out = _rows_together(left_out, samples, step)
    clean = replace(subject, calibration=without(subject.calibration, left_out, step))
    if not clean.calibration or not taps.values:
        names = ", ".join(dict.fromkeys(u.component for u in found))
        raise NumericalError(
            f"Values and gradients must be finite on some samples; they are NaN or infinite on all "
            f"{samples}, first at {names}. Check the inputs' scale and the weights."
        )
    evidence = run(clean, taps)
    if evidence.undefined:
        again = _first(clean, engine, evidence.undefined, "component")
        found += [u for u in again if u.component not in {f.component for f in found}]
        taps = _without(taps, evidence.undefined)
        evidence = run(clean, taps)
    return Cleaned(subject=clean, taps=taps, evidence=evidence, undefined=found, left_out=left_out)


def note_of(cleaned: Cleaned, samples: int) -> tuple[str, ...]:
    """What a reader should know of what was left out of the pass."""
    if not cleaned.left_out:
        return ()
    used = sum(batch.size for batch in cleaned.subject.calibration)
    rest = samples - len(cleaned.left_out) - used
    more = f" {rest} more did not fill a batch of the program's fixed size." if rest > 0 else ""
    if rest < 0:
        more = f" The {samples - len(cleaned.left_out)} others were repeated to fill one batch."
    return (
        f"{len(cleaned.left_out)} of {samples} calibration samples were left out of all numbers: a "
        f"value or a gradient inside the model is NaN or infinite there.{more}",
    )


def _rows_together(left_out: set[int], samples: int, step: int) -> set[int]:
    keep = torch.ones(samples, dtype=torch.bool)
    keep[sorted(left_out)] = False
    return set((~whole(keep, step)).nonzero().flatten().tolist())


def _without(taps: Taps, gone: Mapping[tuple[str, str], object]) -> Taps:
    """The taps without values that are undefined, and without gradients that are."""
    values = {node for what, node in gone if what == "value"}
    return replace(
        taps,
        values={node: axis for node, axis in taps.values.items() if node not in values},
        sites=tuple(s for s in taps.sites if s.node not in values and s.source not in values),
        joins=tuple(j for j in taps.joins if not {j.node, j.skip, j.branch} & values),
        attentions=tuple(a for a in taps.attentions if a.core not in values),
        no_gradient=taps.no_gradient | {node for what, node in gone if what == "gradient"},
    )


def _first(
    subject: Subject, engine: Engine, bad: Mapping[tuple[str, str], set[int]],
    left_out: Literal["samples", "component"],
) -> list[Undefined]:  # fmt: skip
    """Per sample the first value that is undefined, or the last one whose gradient is."""
    order = _order(subject, engine)
    at: dict[tuple[str, str], list[int]] = {}
    for sample in sorted(set().union(*bad.values())) if bad else ():
        here = [key for key, which in bad.items() if sample in which]
        values = [node for what, node in here if what == "value"]
        if values:
            key = ("value", min(values, key=lambda n: order.get(n, 0)))
        else:
            key = ("gradient", max((n for _, n in here), key=lambda n: order.get(n, 0)))
        at.setdefault(key, []).append(sample)
    groups = _groups(subject.calibration)
    owners = _owners(subject.anatomy)
    return [
        Undefined(
            component=owners.get(node, node),
            what="value" if what == "value" else "gradient",
            groups=_counted(groups, [groups[sample] for sample in samples]),
            reaches_output=False,
            left_out=left_out,
        )
        for (what, node), samples in at.items()
    ]


def _at_the_output(subject: Subject, taps: Taps, engine: Engine) -> list[Undefined]:
    """Where the samples go wrong that were left out because their output is undefined."""
    at: dict[str, list[str]] = {}
    for batch in subject.left_out:
        finite: dict[str, Tensor] = {}
        watch = {name: _watching(name, finite, batch.size) for name in taps.values}
        with torch.no_grad():
            output = engine.run(batch, watch)
        names = batch.groups or ("all",) * batch.size
        for i in (~finite_samples(output, batch.size)).nonzero().flatten().tolist():
            first = next((node for node, flags in finite.items() if not flags[i]), "the output")
            at.setdefault(first, []).append(names[i])
    owners = _owners(subject.anatomy)
    every = _groups((*subject.calibration, *subject.held_out))
    every += [name for names in at.values() for name in names]
    return [
        Undefined(
            component=owners.get(node, node),
            what="value",
            groups=_counted(every, names),
            reaches_output=True,
            left_out="samples",
        )
        for node, names in at.items()
    ]


def _watching(name: str, finite: dict[str, Tensor], samples: int) -> Callable[[Tensor], None]:
    def see(value: Tensor) -> None:
        finite[name] = finite_samples(value, samples)

    return see


def _groups(batches: Sequence[Batch]) -> list[str]:
    return [group for b in batches for group in (b.groups or ("all",) * b.size)]


def _counted(every: list[str], bad: list[str]) -> dict[str, tuple[int, int]]:
    return {group: (bad.count(group), every.count(group)) for group in sorted(set(every))}


def _order(subject: Subject, engine: Engine) -> Mapping[str, int]:
    position = getattr(engine, "position", None)
    if position is not None:
        return position
    return {component.id: i for i, component in enumerate(subject.anatomy.components)}


def _owners(anatomy: Anatomy) -> dict[str, str]:
    """Node -> the smallest component that owns it; what writes it goes before what contains it."""
    found: dict[str, str] = {}
    for component, nodes in sorted(anatomy.nodes.items(), key=lambda item: -len(item[1])):
        found |= dict.fromkeys(nodes, component)
    kinds = {c.id: c.kind for c in anatomy.components}
    writers = {n: c for c, n in anatomy.outputs.items() if kinds.get(c) not in ("head", "layer")}
    return found | writers
