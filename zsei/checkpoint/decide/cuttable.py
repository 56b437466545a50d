"""What of a subject may go, read off its program for `zsei.checkpoint.decide.choose`."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from zsei.checkpoint.config import StructuredPruning
from zsei.checkpoint.decide.choose import Chosen, Part, Shapes, layer_may_go
from zsei.checkpoint.tasks import DecideTask
from zsei.errors import SurgeryRefused
from zsei.pruning.places import Place, find_places, sites_left
from zsei.settings import EditKind, Settings
from zsei.subject.program import Program, strip_prefix
from zsei.subject.types import Site, Subject, UnitKind
from zsei.surgery.dependency import Entries
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits
from zsei.surgery.module_edit import ModuleEdit
from zsei.surgery.program_form import apply_plan, plan_edits

KINDS: Mapping[UnitKind, EditKind] = {
    "channel": "channels", "neuron": "channels", "head": "heads", "layer": "layers",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Cuttable:
    """Parts that may go, and what they are in the program."""

    parts: tuple[Part, ...]
    sites: Mapping[str, Site]
    """Key -> site."""
    shapes: Shapes
    """Of the model's parameters, those that share their weights once."""
    refused: Mapping[str, str]
    """Component -> why it cannot be cut."""

    @property
    def held(self) -> dict[str, tuple[int, ...]]:
        """Groups that are held at zero already, as something chosen."""
        return {part.key: tuple(sorted(part.held)) for part in self.parts if part.held}

    def edits(self, *several: Chosen) -> tuple[Edit, ...]:
        """What was chosen, as edits."""
        groups: dict[str, set[int]] = {}
        for chosen in several:
            for key, own in chosen.items():
                groups.setdefault(key, set()).update(own)
        together = {part.key: part.together for part in self.parts}
        return tuple(
            BypassLayer(site=self.sites[key])
            if self.sites[key].kind == "layer"
            else RemoveUnits(site=self.sites[key], units=units_of(own, together[key]))
            for key, own in sorted(groups.items())
        )


def units_of(groups: Collection[int], together: int) -> tuple[int, ...]:
    """The units of groups, ascending."""
    return tuple(g * together + i for g in sorted(groups) for i in range(together))


def cuttable(
    subject: Subject,
    task: DecideTask,
    limits: StructuredPruning,
    settings: Settings,
    kinds: Collection[EditKind],
) -> Cuttable:
    """Read what may go.

    Only what was measured is part of it: a key of `task.importance` with as many units as the site
    has. Layers that the rules do not let go (`layer_may_go`) must stay.
    """
    program = subject.program
    assert program is not None  # asked before
    shapes, names = _parameters(subject.model)
    sites = [
        left
        for left in sites_left(subject.anatomy, ())
        if KINDS[left.site.kind] in kinds and _measured(task, left.site)
    ]
    places, refused = find_places(program, sites, settings)
    parts: list[Part] = []
    found: dict[str, Site] = {}
    for place in places:
        part = _part(program, place, task, limits, names)
        parts.append(part)
        found[part.key] = place.left.site
    if "layers" in kinds:
        for part, site in _layers(subject, task, limits, shapes, names, refused):
            parts.append(part)
            found[part.key] = site
    return Cuttable(parts=tuple(parts), sites=found, shapes=shapes, refused=refused)


def key_of(site: Site) -> str:
    """A site's name in histories."""
    return f"{site.component}|{site.kind}"


def _masks(task: DecideTask) -> tuple[ModuleEdit, ...]:
    """Cuts that are held at zero and stay so; a removal takes them out like all else."""
    return task.snapshot.masks if task.decision.mode == "mask" else ()


def _dropped(task: DecideTask) -> set[str]:
    """Layers that are held at zero."""
    return {path for edit in _masks(task) for path in edit.dropped}


def _measured(task: DecideTask, site: Site) -> bool:
    return len(task.importance.get(key_of(site), ())) == site.units


def _parameters(model: nn.Module) -> tuple[Shapes, Mapping[str, str]]:
    """Shapes, and for every name of a parameter the one it is counted by."""
    first: dict[int, str] = {}
    names = {}
    shapes = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[name] = first.setdefault(id(parameter), name)
        shapes[names[name]] = tuple(parameter.shape)
    return shapes, names


def _read(program: Program, names: Mapping[str, str]) -> set[str]:
    """Parameters that a program reads."""
    found = (
        strip_prefix(str(node.target))
        for node in program.graph_module.graph.nodes
        if node.op == "get_attr"
    )
    return {names[name] for name in found if name in names}


def _part(
    program: Program,
    place: Place,
    task: DecideTask,
    limits: StructuredPruning,
    names: Mapping[str, str],
) -> Part:
    site, key = place.left.site, key_of(place.left.site)
    heads = site.kind == "head"
    threshold = (
        limits.attention_analysis.similarity_threshold
        if heads
        else limits.channel_analysis.redundancy_threshold
    )
    first = _taken(program, site, 0, place.together)
    takes: dict[str, dict[int, int]] = {}
    for name, entries in first.items():
        if name in names:
            takes[names[name]] = {axis: len(removed) for axis, removed in entries.items()}
    return Part(
        key=key,
        kind=KINDS[site.kind],
        importance=task.importance[key],
        takes=takes,
        together=place.together,
        least=place.least,
        alike=tuple(
            pair
            for pair in task.pairs.get(key, ())
            if abs(pair[2]) >= threshold and max(pair[:2]) < site.units
        ),
        held=_held(program, place, first, _masks(task)),
    )


def _taken(program: Program, site: Site, group: int, together: int) -> Mapping[str, Entries]:
    units = units_of((group,), together)
    return plan_edits(program, [RemoveUnits(site=site, units=units)]).group.parameters


def _held(
    program: Program,
    place: Place,
    first: Mapping[str, Entries],
    masks: Sequence[ModuleEdit],
) -> frozenset[int]:
    """Groups all of whose entries are named by cuts that are held at zero."""
    gone: dict[tuple[str, int], set[int]] = {}
    for cut in (cut for edit in masks for cut in edit.cuts):
        gone.setdefault((cut.name, cut.axis), set()).update(cut.removed)
    axes = [(n, axis) for n, entries in first.items() for axis in entries if (n, axis) in gone]
    if not axes:
        return frozenset()
    # Groups lie evenly spaced, so what the first and the last take says what all others do.
    last = _taken(program, place.left.site, place.groups - 1, place.together)
    steps = max(place.groups - 1, 1)
    name, axis = axes[0]
    ends = list(zip(first[name][axis], last[name][axis], strict=True))
    return frozenset(
        group
        for group in range(place.groups)
        if gone[name, axis].issuperset(low + group * (high - low) // steps for low, high in ends)
    )


def _layers(
    subject: Subject,
    task: DecideTask,
    limits: StructuredPruning,
    shapes: Shapes,
    names: Mapping[str, str],
    refused: dict[str, str],
) -> Iterator[tuple[Part, Site]]:
    """All layers that were measured; those that may not go stand there to be compared with."""
    program = subject.program
    assert program is not None
    sites = [site for site in subject.anatomy.sites if site.kind == "layer" and site.source]
    sites = [site for site in sites if _measured(task, site)]
    importance = {key_of(site): task.importance[key_of(site)][0] for site in sites}
    total = sum(value for value in importance.values() if value is not None)
    read, held = _read(program, names), _dropped(task)
    for site in sites:
        key, path = key_of(site), subject.anatomy.component(site.component).path
        told, own = task.parts.get(key, {}), importance[key]
        goes = site.component in held or layer_may_go(
            share=None if own is None or total <= 0 else own / total,
            similarity=_only(told.get("similarity", ())),
            skip=_only(told.get("skip potential", ())),
            limits=limits.layer_analysis,
        )
        gone = {name for name in read if name.startswith(f"{path}.")}
        if goes:
            try:
                edited = apply_plan(program, plan_edits(program, [BypassLayer(site=site)]))
                gone = read - _read(edited, names)
            except SurgeryRefused as error:
                refused[site.component] = str(error)
                goes = False
        part = Part(
            key=key,
            kind="layers",
            importance=(own,),
            takes={name: {0: shapes[name][0]} for name in sorted(gone) if shapes[name]},
            least=0 if goes else 1,
            held=frozenset({0}) if site.component in held else frozenset(),
        )
        yield part, site


def _only(values: Sequence[float | None]) -> float | None:
    return values[0] if values else None
