"""What is asked for, found on a shelf of speed-ups."""

from collections.abc import Sequence
from typing import TypeVar

from zsei.errors import UsageError
from zsei.speedups.speedup import Shelved

Kind = TypeVar("Kind", bound=Shelved)


def find(shelf: Sequence[Kind], name: str, *, called: str = "speed-up") -> Kind:
    """What goes by this name.

    Raises:
        UsageError: Nothing does; the message lists what there is.
    """
    for speedup in shelf:
        if speedup.name == name:
            return speedup
    raise _none(shelf, name, called)


def chosen(
    shelf: Sequence[Kind],
    only: Sequence[str] | None,
    without: Sequence[str] | None,
    *,
    called: str = "speed-up",
) -> tuple[Kind, ...]:
    """What is asked for, in the shelf's order.

    Raises:
        UsageError: A name stands for none, or none is left.
    """
    known = [speedup.name for speedup in shelf]
    unknown = [name for name in (*(only or ()), *(without or ())) if name not in known]
    if unknown:
        raise _none(shelf, ", ".join(unknown), called)
    left = (s for s in shelf if (not only or s.name in only) and s.name not in (without or ()))
    if not (found := tuple(left)):
        raise UsageError(
            "At least one speed-up must be left to measure; --only and --without leave none. "
            "Take one of them back."
        )
    return found


def _none(shelf: Sequence[Kind], names: str, called: str) -> UsageError:
    known = ", ".join(speedup.name for speedup in shelf)
    return UsageError(f"A {called} must be one of {known}; {names!r} is none of them.")
