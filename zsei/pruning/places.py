"""Where a program can be cut: sites, the units that only go together, and what one cut saves."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from math import prod

from zsei.errors import SurgeryRefused
from zsei.settings import Settings
from zsei.subject.program import Program
from zsei.subject.reading import shape
from zsei.subject.types import Anatomy, Site
from zsei.surgery.edits import RemoveUnits
from zsei.surgery.program_form import Plan, plan_edits
from zsei.surgery.readers import Reader, find_readers


@dataclass(frozen=True, kw_only=True)
class Left:
    """What is left of a site of the original."""

    site: Site
    """With the units that are left, as the edited program has it."""
    whole: Site
    """As the original has it."""
    numbers: tuple[int, ...]
    """Number in the original of each unit that is left."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A site whose units can be removed, in one program."""

    left: Left
    together: int
    """Units that only go together: neighbours, as query heads that share their keys."""
    readers: tuple[Reader, ...]
    """What reads the units and could make up for those that go; none when something else does."""
    inputs: tuple[tuple[int, int], ...]
    """Per reader where its inputs from the first group start and how many there are to a group, as
    columns of its weight [outputs, inputs]: group g has [start + g * count, start + (g + 1) *
    count). A convolution's inputs are channel and kernel position, the channel outermost."""
    parameters: int
    """Parameters that go with one group."""
    flops: float
    """Share of the original's operations that goes with one group."""
    least: int
    """Units that must stay."""

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return self.left.site.units // self.together

    def units(self, group: int) -> tuple[int, ...]:
        """The original's numbers of a group's units."""
        return self.left.numbers[group * self.together : (group + 1) * self.together]


def sites_left(anatomy: Anatomy, removed: Iterable[RemoveUnits]) -> list[Left]:
    """The sites of an edited program that hold heads, neurons or channels."""
    gone = {(edit.site.component, edit.site.kind): set(edit.units) for edit in removed}
    found = []
    for whole in anatomy.sites:
        if whole.kind not in ("head", "neuron", "channel"):
            continue
        lost = gone.get((whole.component, whole.kind), set())
        numbers = tuple(unit for unit in range(whole.units) if unit not in lost)
        own = len(whole.unit_ids) == whole.units
        ids = tuple(whole.unit_ids[unit] for unit in numbers) if own else whole.unit_ids
        site = replace(whole, units=len(numbers), unit_ids=ids)
        found.append(Left(site=site, whole=whole, numbers=numbers))
    return found


def find_places(
    program: Program,
    sites: Iterable[Left],
    settings: Settings,
    spared: Collection[str] = (),
) -> tuple[list[Place], dict[str, str]]:
    """All places of a program that can be cut, and why others cannot (component -> reason).

    Args:
        program: A program, edited or not.
        sites: Its sites (`sites_left`).
        settings: Minima that stay.
        spared: Components at which nothing goes, nor what is tied to their units.
    """
    found: list[Place] = []
    refused: dict[str, str] = {}
    names = {node.name for node in program.graph_module.graph.nodes}
    taken: set[frozenset[str]] = set()
    # Those that are spared first, so that they speak for all that is tied to them.
    for left in sorted(sites, key=lambda left: left.site.component not in spared):
        site = left.site
        least = settings.min_heads if site.kind == "head" else settings.min_channels
        kept = site.component in spared
        if site.node not in names or (site.units <= least and not kept):
            continue
        try:
            together, plan = _first_group(program, site)
        except SurgeryRefused as error:
            if not kept:
                refused[site.component] = str(error)
            continue
        cut = frozenset(
            f"{name}:{axis}" for name, axes in plan.group.parameters.items() for axis in axes
        )
        if cut in taken:
            # Channels tied through a residual stream are one place, whoever names them.
            continue
        taken.add(cut)
        if kept:
            continue
        readers, missed = find_readers(program, plan.group.parameters)
        inputs = [_columns(plan, reader) for reader in readers]
        kernels = [prod(shape(program.node(r.weight_node))[2:]) for r in readers]
        whole = not missed and all(
            columns == tuple(range(columns[0], columns[0] + len(columns))) for columns in inputs
        )
        found.append(
            Place(
                left=left,
                together=together,
                readers=tuple(readers) if whole else (),
                inputs=tuple(
                    (own[0] * size, len(own) * size)
                    for own, size in zip(inputs, kernels, strict=True)
                )
                if whole
                else (),
                parameters=plan.parameters_removed,
                flops=plan.flops_removed_share,
                least=least,
            )
        )
    return found, refused


def _first_group(program: Program, site: Site) -> tuple[int, Plan]:
    """The smallest number of neighbours that can go together, and the plan of removing them."""
    sizes = [g for g in range(1, site.units) if site.units % g == 0]
    reason: SurgeryRefused | None = None
    for size in sizes if site.kind == "head" else sizes[:1]:
        try:
            edit = RemoveUnits(site=site, units=tuple(range(size)))
            return size, plan_edits(program, [edit])
        except SurgeryRefused as error:
            reason = reason or error
    raise reason or SurgeryRefused(f"`{site.component}` has one unit, which must stay.")


def _columns(plan: Plan, reader: Reader) -> tuple[int, ...]:
    axis = 0 if reader.transposed else 1
    return tuple(plan.group.parameters[reader.weight][axis])
