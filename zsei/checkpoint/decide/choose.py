"""Which units go: the least important for what they save, up to a size. A pure function.

Letters: u unit of a part, g group of neighbouring units that only go together.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from zsei.checkpoint.config import LayerAnalysis
from zsei.settings import EditKind
from zsei.surgery.edits import stands_inside

Shapes = Mapping[str, tuple[int, ...]]
"""Parameter -> shape; of parameters that share their weights, one."""
Chosen = Mapping[str, tuple[int, ...]]
"""Key of a part -> its groups that go, ascending."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A place whose units may go, or a whole layer, which is one unit."""

    key: str
    """"component|kind", as in histories."""
    kind: EditKind
    importance: tuple[float | None, ...]
    """Per unit, [u]; None where it was not measured."""
    takes: Mapping[str, Mapping[int, int]]
    """Parameter -> axis -> entries that go with one group; every group takes as many."""
    together: int = 1
    """Units of a group."""
    least: int = 0
    """Units that must stay."""
    alike: tuple[tuple[int, int, float], ...] = ()
    """(unit, unit, similarity) of units that are alike."""
    held: frozenset[int] = frozenset()
    """Groups that are gone already in all but shape: they are held at zero."""

    @property
    def component(self) -> str:
        """Id of the component."""
        return self.key.rpartition("|")[0]

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return len(self.importance) // self.together

    def most(self) -> int:
        """How many groups may go so that enough units stay, those held at zero among them."""
        return max((len(self.importance) - self.least) // self.together, 0)


def choose(
    parts: Sequence[Part],
    shapes: Shapes,
    *,
    kinds: Collection[EditKind],
    room: int,
    layers: int = 0,
    alike: bool = True,
) -> dict[str, tuple[int, ...]]:
    """The groups that go.

    All measured groups of a kind are put in the order of their density

        d(g) = (Σ_{u in g} I_u / Σ_kind I) / (p(g) / Σ_kind p)

    with I the importance (a negative one counts as 0), p(g) the parameters that go with the group
    alone, and both sums over all measured groups of the kind: 1 is a group as important for its
    size as the average of its kind, which makes neurons, heads and layers comparable though their
    importance is measured on different scales. The least dense goes first, equal ones by key and
    number. Of two units that are alike the less important one (of equals the later) counts with
    I · (1 - |r|) only: what it does, the other one does too.

    Each group is taken unless too few units of its part would stay, one of its units was not
    measured, it stands inside a layer that goes, or nothing would be saved. The first of a kind
    that does not fit into what room is left ends the turn of its kind: a small step waits for the
    least dense rather than taking what is small.

    Args:
        parts: Where something may go; the order does not matter.
        shapes: All parameters of the model.
        kinds: Kinds of change that are allowed; parts of others are left alone.
        room: Parameters that may go at most, counted exactly: a weight between two places that
            both lose units is counted once.
        layers: Layers that may be gone at most, those held at zero among them.
        alike: Whether being alike counts.

    Returns:
        Key -> groups, without those that are held at zero already; empty when nothing fits.

    Misleads when: importance of a kind is large everywhere. Density compares within a kind, so the
    least important head goes about as early as the least important neuron; whether either may go
    at all is for the gate to say.
    """
    own = [part for part in sorted(parts, key=lambda part: part.key) if part.kind in kinds]
    state = _State(shapes=shapes, gone={}, room=room)
    for part in own:
        for _ in part.held:
            state.take(part, count=False)
    taken: dict[str, set[int]] = {part.key: set(part.held) for part in own}
    whole = {part.component for part in own if part.kind == "layers" and part.held}
    over: set[EditKind] = set()
    for _, _, group, part in _order(own, shapes, alike):
        gone = taken[part.key]
        if part.kind in over or group in gone or len(gone) >= part.most():
            continue
        if part.kind == "layers" and len(whole) >= layers:
            continue
        if any(stands_inside(part.component, layer) for layer in whole):
            continue
        saving = state.saving(part)
        if saving > state.room:
            over.add(part.kind)
        elif saving:
            state.take(part)
            gone.add(group)
            if part.kind == "layers":
                whole.add(part.component)
    return {
        part.key: tuple(sorted(taken[part.key] - part.held))
        for part in own
        if taken[part.key] - part.held
        and (part.kind == "layers" or not any(stands_inside(part.component, w) for w in whole))
    }


def parameters_left(parts: Sequence[Part], shapes: Shapes, chosen: Chosen) -> int:
    """Parameters that are left without the groups chosen and those held at zero.

    Σ over parameters of the product of what is left along each axis.
    """
    state = _State(shapes=shapes, gone={}, room=0)
    for part in parts:
        for _ in {*chosen.get(part.key, ()), *part.held}:
            state.take(part, count=False)
    return sum(_left(shape, state.gone.get(name, {})) for name, shape in shapes.items())


def layer_may_go(
    *, share: float | None, similarity: float | None, skip: float | None, limits: LayerAnalysis
) -> bool:
    """Whether the rules let a layer go: (share < T or similarity > S) and skip potential ≥ K.

    A number that was not measured speaks for staying.

    Args:
        share: Of the Taylor importance of all layers.
        similarity: cos of what enters and leaves the layer.
        skip: How well it can be led around, 0 to 1.
        limits: T, S and K.
    """
    idle = share is not None and share < limits.taylor_threshold
    alike = similarity is not None and similarity > limits.similarity_threshold
    return (idle or alike) and skip is not None and skip >= limits.skip_potential_threshold


def _order(
    parts: Sequence[Part], shapes: Shapes, alike: bool
) -> list[tuple[float, str, int, Part]]:
    """(density, key, group, part), the least dense first."""
    found: list[tuple[float, str, int, Part]] = []
    for kind in sorted({part.kind for part in parts}):
        measured: list[tuple[Part, int, float, float, int]] = []
        for part in (part for part in parts if part.kind == kind):
            size = sum(
                math.prod(shapes[name]) - _left(shapes[name], axes)
                for name, axes in part.takes.items()
            )
            plain, counted = _plain(part), _counted(part) if alike else _plain(part)
            for group in range(part.groups):
                units = slice(group * part.together, (group + 1) * part.together)
                values = [value for value in plain[units] if value is not None]
                if size and len(values) == part.together:
                    less = sum(value or 0.0 for value in counted[units])
                    measured.append((part, group, sum(values), less, size))
        importance = math.fsum(value for _, _, value, _, _ in measured)
        sizes = sum(size for *_, size in measured)
        for part, group, _, value, size in measured:
            share = value / importance if importance else 0.0
            found.append((share * sizes / size, part.key, group, part))
    return sorted(found, key=lambda one: one[:3])


def _plain(part: Part) -> list[float | None]:
    return [
        None if value is None or math.isnan(value) else max(value, 0.0) for value in part.importance
    ]


def _counted(part: Part) -> list[float | None]:
    """Importance, of the less important of two that are alike only what it does alone."""
    plain = _plain(part)
    counted = list(plain)
    for first, second, similarity in part.alike:
        one, other = plain[first], plain[second]
        if one is None or other is None or first == second:
            continue
        less = max((first, second), key=lambda unit: (-(plain[unit] or 0.0), unit))
        now = counted[less]
        assert now is not None
        counted[less] = min(now, (plain[less] or 0.0) * max(1 - abs(similarity), 0.0))
    return counted


def _left(shape: Sequence[int], gone: Mapping[int, int]) -> int:
    return math.prod(max(size - gone.get(axis, 0), 0) for axis, size in enumerate(shape))


@dataclass(kw_only=True)
class _State:
    """What is gone so far, and how much more may go."""

    shapes: Shapes
    gone: dict[str, dict[int, int]]
    """Parameter -> axis -> entries."""
    room: int

    def saving(self, part: Part) -> int:
        """Parameters that would go with one more group."""
        return sum(self._difference(name, axes) for name, axes in part.takes.items())

    def take(self, part: Part, *, count: bool = True) -> None:
        if count:
            self.room -= self.saving(part)
        for name, axes in part.takes.items():
            known = self.gone.setdefault(name, {})
            for axis, entries in axes.items():
                known[axis] = known.get(axis, 0) + entries

    def _difference(self, name: str, axes: Mapping[int, int]) -> int:
        known, shape = self.gone.get(name, {}), self.shapes[name]
        after = {axis: known.get(axis, 0) + axes.get(axis, 0) for axis in {*known, *axes}}
        return _left(shape, known) - _left(shape, after)
