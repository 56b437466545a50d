"""What goes, by deleting real rows and columns of real arrays one group at a time."""

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np

from zsei.checkpoint.decide.choose import Part

Groups = Mapping[str, Collection[int]]
"""Key -> groups that go."""


def slow_left(parts: Sequence[Part], shapes: Mapping[str, tuple[int, ...]], gone: Groups) -> int:
    """Entries that are left of all arrays. Each part has rows of its own along an axis."""
    arrays = {name: np.ones(shape) for name, shape in shapes.items()}
    for name in arrays:
        for axis in range(arrays[name].ndim):
            start, deleted = 0, []
            for part in sorted(parts, key=lambda p: p.kind == "layers"):
                step = part.takes.get(name, {}).get(axis, 0)
                if part.kind == "layers":
                    rows = range(shapes[name][axis]) if step and 0 in gone.get(part.key, ()) else ()
                    deleted += list(rows)
                    continue
                for group in gone.get(part.key, ()):
                    deleted += range(start + group * step, start + (group + 1) * step)
                start += step * part.groups
            arrays[name] = np.delete(arrays[name], sorted(set(deleted)), axis=axis)
    return sum(array.size for array in arrays.values())


def slow_density(parts: Sequence[Part], shapes: Mapping[str, tuple[int, ...]], alike: bool):
    """(key, group) -> density, for all groups that were measured."""
    whole = slow_left(parts, shapes, {})
    found = {}
    for kind in {part.kind for part in parts}:
        values, counted, sizes = {}, {}, {}
        for part in (part for part in parts if part.kind == kind):
            for group in range(part.groups):
                size = whole - slow_left(parts, shapes, {part.key: [group]})
                units = range(group * part.together, (group + 1) * part.together)
                if any(part.importance[u] is None for u in units) or not size:
                    continue
                values[part.key, group] = sum(_value(part, u) for u in units)
                counted[part.key, group] = sum(
                    _value(part, u) * (_alone(part, u) if alike else 1.0) for u in units
                )
                sizes[part.key, group] = size
        for name in values:
            total = sum(values.values())
            share = counted[name] / total if total else 0.0
            found[name] = share / (sizes[name] / sum(sizes.values()))
    return found


def _value(part: Part, unit: int) -> float:
    value = part.importance[unit]
    assert value is not None
    return max(value, 0.0)


def _alone(part: Part, unit: int) -> float:
    """1 - the likeness to a unit that is more important, or as important and before it."""
    best = 0.0
    for first, second, similarity in part.alike:
        other = {first: second, second: first}.get(unit)
        if other is None or other == unit or part.importance[other] is None:
            continue
        mine, its = _value(part, unit), _value(part, other)
        if its > mine or (its == mine and other < unit):
            best = max(best, abs(similarity))
    return 1 - best


def best_of_part(part: Part, count: int) -> float:
    """The least importance that so many groups of one part can add up to, over all subsets."""
    units = {g: range(g * part.together, (g + 1) * part.together) for g in range(part.groups)}
    known = [g for g in units if all(part.importance[u] is not None for u in units[g])]
    return min(
        sum(_value(part, unit) for group in chosen for unit in units[group])
        for chosen in combinations(known, count)
    )
