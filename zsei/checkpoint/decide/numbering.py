"""Numbers of units and layers as a run began with them, whatever was cut since.

A cut renumbers: without neuron 3, neuron 4 is number 3, and without layer 1, layer 2 is layer 1.
Histories are kept in the numbers from before the first cut, so that a row never moves and undoing a
cut needs nothing but to forget it.

Letters: u unit as it is numbered now. A place is named by its key, "component|kind"
(`SiteMeasure.key`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.checkpoint.history.history import History, tendency
from zsei.errors import DataError
from zsei.records import Component

Numbers = NDArray[np.int64]
PerUnit = tuple[float | None, ...]


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What one decision took away, in the numbers of the model it was made for."""

    units: Mapping[str, tuple[int, ...]]
    """Key -> units."""
    layers: tuple[str, ...] = ()
    """Module paths of whole layers, such as `transformer.h.3`."""
    held: bool = False
    """Whether they are still there, held at zero; then nothing is renumbered."""


def cut_of(decision: StructuralPruningDecision, *, held: bool) -> Cut:
    """What a decision takes away."""
    units = {f"{t.layer_name}|{t.kind}": t.channel_indices for t in decision.channels}
    units |= {f"{t.layer_name}|head": t.head_indices for t in decision.attention_heads}
    named = tuple(target.layer_name for target in decision.layers)
    # A layer may also become a small map that stays in its place: then it is not dropped.
    layers = named if held or decision.edit is None else decision.edit.dropped
    return Cut(units=units, layers=layers, held=held)


def original_key(key: str, cuts: Sequence[Cut]) -> str:
    """How a place was called before the cuts, oldest first."""
    for cut in reversed(cuts):
        if not cut.held:
            key = _before(key, cut.layers)
    return key


@dataclass(frozen=True, kw_only=True, eq=False)
class Place:
    """The units of one place, as they are numbered now, each [u]."""

    key: str
    """As the place was called before the first cut."""
    numbers: Numbers
    """Original number of each unit."""
    held: NDArray[np.bool_]
    """True where a unit is held at zero: gone for every purpose but its place."""
    units: int
    """How many there were before the first cut, U."""


def original_place(key: str, units: int, cuts: Sequence[Cut]) -> Place:
    """How the units of a place were numbered before the cuts, oldest first.

    Raises:
        DataError: The cuts do not fit a place with that many units.
    """
    names = [key]
    for cut in reversed(cuts):
        names.append(names[-1] if cut.held else _before(names[-1], cut.layers))
    names.reverse()  # names[i]: before cuts[i]
    gone = [np.unique(cut.units.get(name, ())) for cut, name in zip(cuts, names[:-1], strict=True)]
    first = units + sum(len(g) for g, cut in zip(gone, cuts, strict=True) if not cut.held)
    numbers = np.arange(first, dtype=np.int64)
    held: set[int] = set()
    for cut, name, some in zip(cuts, names[:-1], gone, strict=True):
        if len(some) and not 0 <= some[0] <= some[-1] < len(numbers):
            raise DataError(
                f"A cut names units of the model it was made for; `{name}` had {len(numbers)} of "
                f"them and a cut names {some[-1]}. Is this the run that was cut?"
            )
        some = some.astype(np.int64)
        if cut.held:
            inside = any(_is_in(name, path) for path in cut.layers)
            held.update(numbers.tolist() if inside else numbers[some].tolist())
        else:
            numbers = np.delete(numbers, some)
    return Place(key=names[0], numbers=numbers, held=np.isin(numbers, sorted(held)), units=first)


def original_names(
    components: Iterable[Component], places: Mapping[str, Place], cuts: Sequence[Cut]
) -> dict[str, str]:
    """Id of a component -> the id it had when the run began, for those that a cut renamed.

    Args:
        components: Of the model as it is now.
        places: Key -> its units; heads are components, so they take their original number.
        cuts: Oldest first.
    """
    found = {}
    for component in components:
        name = original_key(f"{component.id}|", cuts)[:-1]
        place = places.get(f"{component.parent}|head")
        if component.kind == "head" and component.index is not None and place is not None:
            name = re.sub(r"\d+$", str(place.numbers[component.index]), name)
        if name != component.id:
            found[component.id] = name
    return found


def original_row(place: Place, values: PerUnit) -> NDArray[np.float32]:
    """A value per unit by its original number [U]; NaN for what was not measured or is gone."""
    row = np.full(place.units, np.nan, dtype=np.float32)
    there = ~place.held
    row[place.numbers[there]] = np.array(values, dtype=np.float32)[there]  # None becomes NaN
    return row


def smoothed(history: History, place: Place) -> PerUnit:
    """Moving average over the checkpoints (`tendency`), per unit as it is numbered now.

    None where a unit was never measured, or is held at zero.
    """
    if place.key not in history.values:
        return (None,) * len(place.numbers)
    mean = tendency(history, place.key).mean[place.numbers]
    told = np.isfinite(mean) & ~place.held
    return tuple(float(x) if ok else None for x, ok in zip(mean, told, strict=True))


def _is_in(key: str, path: str) -> bool:
    component = key.rpartition("|")[0]
    return component == path or component.startswith((f"{path}.", f"{path}/"))


def _before(key: str, dropped: Sequence[str]) -> str:
    """How a place was called before layers were dropped."""
    lists: dict[str, list[int]] = {}
    for path in dropped:
        parent, _, number = path.rpartition(".")
        lists.setdefault(parent, []).append(int(number))
    for parent, gone in lists.items():
        found = re.match(rf"{re.escape(parent)}\.(\d+)(?=[./|])", key)
        if found:
            number = int(found[1])
            for each in sorted(gone):
                number += each <= number
            key = f"{parent}.{number}{key[found.end() :]}"
    return key
