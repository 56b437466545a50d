"""Changes to objects that others hold: all of them are made, or none.

A model in training is held by optimizers, trainers and wrappers, so it cannot be replaced by a
better copy: its own dictionaries and lists get new contents. Those are prepared in full before the
first one is put in place, and putting them in place can be taken back.
"""

from collections.abc import Iterable, Mapping, MutableMapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any

_ABSENT: Any = object()
"""In the place of a value: there is no such key."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Entries:
    """New values of some keys of a dictionary; its other keys are let be."""

    place: MutableMapping[Any, Any]
    values: Mapping[Any, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contents:
    """The whole new content, in order, of a dictionary or list that stays the same object."""

    place: MutableMapping[Any, Any] | MutableSequence[Any]
    content: Mapping[Any, Any] | Sequence[Any]


Change = Entries | Contents


def as_it_is(change: Change) -> Change:
    """The change that takes another one back, before that one is made."""
    place = change.place
    if isinstance(change, Entries):
        assert isinstance(place, MutableMapping)
        values = {key: place.get(key, _ABSENT) for key in change.values}
        return Entries(place=place, values=values)
    return Contents(
        place=place, content=dict(place) if isinstance(place, MutableMapping) else list(place)
    )


def carry_out(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Make all changes and return those that take them back.

    When one fails, or the process is interrupted between two, all places hold what they held.
    """
    changes = tuple(changes)
    # Taken before any of them is made, so their order does not matter.
    back = tuple(as_it_is(change) for change in changes)
    try:
        for change in changes:
            _make(change)
    except BaseException:
        for change in back:
            _make(change)
        raise
    return back


def _make(change: Change) -> None:
    if isinstance(change, Entries):
        for key, value in change.values.items():
            if value is _ABSENT:
                change.place.pop(key, None)
            else:
                change.place[key] = value
    elif isinstance(change.place, MutableMapping):
        assert isinstance(change.content, Mapping)
        change.place.clear()
        change.place.update(change.content)
    else:
        change.place[:] = change.content
