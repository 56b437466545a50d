"""How large the weights of units are: what can be said of them without any data.

Letters: u unit of a place, k entries along an axis that are one unit's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.errors import SurgeryRefused
from zsei.subject.program import Program
from zsei.subject.types import Site, Subject
from zsei.surgery.dependency import Cut, dependency_group

Entries = Mapping[str, Mapping[int, tuple[int, ...]]]
"""Parameter -> axis -> entries that are one unit's."""


@dataclass(frozen=True, kw_only=True)
class Slices:
    """What of one parameter belongs to each unit of a place."""

    parameter: str
    axes: Mapping[int, Tensor]
    """Axis -> entries of each unit [u, k]."""


def find_slices(subject: Subject, site: Site) -> tuple[Slices, ...]:
    """The parameters that go with each unit of a place; empty where none can be told.

    They are those of its dependency group, so what writes the unit and what reads it. Four of the
    units are followed through the program and the others lie evenly between them; where those four
    do not, each is followed. Units that only go together (query heads that share their keys) have
    the same entries. Without a program they are the rows of the module's own weight.
    """
    if site.kind == "layer":
        return _of_layer(subject, site)
    if subject.program is None:
        return _of_module(subject, site)
    for together in (g for g in range(1, site.units) if site.units % g == 0):
        found = _by_group(subject.program, site, together)
        if found is not None:
            # Neither buffers nor the second names of tied parameters.
            known = {name for name, _ in subject.model.named_parameters()}
            return tuple(s for s in _joined(found, together) if s.parameter in known)
        if site.kind != "head":
            return ()
    return ()


def magnitudes(subject: Subject, site: Site, slices: Sequence[Slices]) -> Tensor | None:
    """L2 norm of the parameters of each unit, [u]; None where they cannot be told.

    Formula: √Σ w² over the entries of all parameters that go with the unit, each once.
    Misleads when: a norm follows, which makes the scale of the weights before it meaningless; or
    units of unlike places are compared, which read and write unlike many entries.
    References: Li et al., "Pruning filters for efficient convnets", 2017; Fang et al., "DepGraph:
    towards any structural pruning", 2023, for the norm of a whole group.
    """
    if not slices:
        return None
    known = dict(subject.model.named_parameters(remove_duplicate=False))
    total = torch.zeros(site.units, dtype=torch.float64)
    for part in slices:
        total += _squares(known[part.parameter].detach(), part.axes)
    return total.sqrt()


def _squares(weight: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """Σ w² of the entries of each unit, [u]; entries that lie on two axes count once."""
    square = weight.square()
    if not axes:
        return square.sum(dtype=torch.float64)[None]
    total = torch.zeros(len(next(iter(axes.values()))), dtype=torch.float64)
    for axis, entries in axes.items():
        others = tuple(a for a in range(weight.ndim) if a != axis)
        along = square.sum(others, dtype=torch.float64) if others else square.double()
        total += along[entries].sum(1)
    if len(axes) == 2:
        (a, first), (b, second) = axes.items()
        others = tuple(x for x in range(weight.ndim) if x not in (a, b))
        plane = square.sum(others, dtype=torch.float64) if others else square.double()
        plane = plane if a < b else plane.T
        total -= torch.stack([plane[i][:, j].sum() for i, j in zip(first, second, strict=True)])
    return total


def _by_group(program: Program, site: Site, together: int) -> list[Entries] | None:
    """Entries of every group of units that go together; None where the program refuses to."""
    count = site.units // together
    try:
        seen = {g: _entries(program, site, together, g) for g in {0, 1, count // 2, count - 1}}
        return _between(seen, count) or [_entries(program, site, together, g) for g in range(count)]
    except SurgeryRefused:
        return None


def _entries(program: Program, site: Site, together: int, group: int) -> Entries:
    size = together * site.unit_size
    removed = tuple(range(group * size, (group + 1) * size))
    cut = Cut(node=site.node, axis=site.axis or 0, removed=removed, kind=site.kind)
    return dependency_group(program, [cut]).parameters


def _between(seen: Mapping[int, Entries], count: int) -> list[Entries] | None:
    """Entries of all groups, when those that were seen lie at even steps."""
    found: list[dict[str, dict[int, tuple[int, ...]]]] = [{} for _ in range(count)]
    for name, axes in seen[0].items():
        for axis, start in axes.items():
            beside = seen[1].get(name, {}).get(axis, ())
            if len(beside) != len(start):
                return None
            steps = [b - a for a, b in zip(start, beside, strict=True)]
            for group in range(count):
                moved = zip(start, steps, strict=True)
                found[group].setdefault(name, {})[axis] = tuple(a + s * group for a, s in moved)
    if any(found[group] != {n: dict(a) for n, a in seen[group].items()} for group in seen):
        return None
    return list(found)


def _joined(groups: Sequence[Entries], together: int) -> list[Slices]:
    """Entries [u, k] per parameter; all units of a group have the group's."""
    return [
        Slices(
            parameter=name,
            axes={
                axis: torch.tensor([group[name][axis] for group in groups]).repeat_interleave(
                    together, 0
                )
                for axis in axes
            },
        )
        for name, axes in groups[0].items()
    ]


def _of_layer(subject: Subject, site: Site) -> tuple[Slices, ...]:
    """All parameters below the layer's path."""
    path = subject.anatomy.component(site.component).path
    names = [n for n, _ in subject.model.named_parameters() if n.startswith(f"{path}.")]
    return tuple(Slices(parameter=name, axes={}) for name in names) if path else ()


def _of_module(subject: Subject, site: Site) -> tuple[Slices, ...]:
    """The rows of the weight of the module that is the site."""
    name = f"{site.node}.weight"
    weight = dict(subject.model.named_parameters(remove_duplicate=False)).get(name)
    if weight is None or site.axis is None or weight.shape[0] != site.units * site.unit_size:
        return ()
    rows = torch.arange(weight.shape[0]).view(site.units, site.unit_size)
    return (Slices(parameter=name, axes={0: rows}),)
