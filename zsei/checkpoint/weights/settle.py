"""Waits until a checkpoint has been written to its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from zsei.checkpoint.weights.find import Found
from zsei.checkpoint.weights.whole import why_not_whole

State = Literal["ready", "waiting", "damaged", "gone"]
CALM = 10.0
"""Seconds after which a file that nobody has touched is taken for written, at the first look."""


@dataclass(eq=False, kw_only=True)
class Settling:
    """What was seen of each checkpoint at the look before.

    Ready is what is whole and has not changed between two looks: some writers set the size of a
    file first and fill it later. What stays half is called damaged once it has not changed for
    `patience` seconds; when it changes after all, it is looked at again.
    """

    patience: float = 60.0
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, tuple[object, float]] = field(default_factory=dict, init=False)
    """Name -> (stamp, when it was seen first)."""
    _why: dict[str, tuple[object, str]] = field(default_factory=dict, init=False)
    """Name -> (stamp, what is missing)."""

    def look(self, found: Found) -> State:
        """How far a checkpoint is; to be asked once in each look at the folder."""
        at = self.clock()
        stamp, since = self._seen.get(found.name, (None, at))
        if stamp != found.stamp:
            self._seen[found.name] = found.stamp, at
            since = at
            if stamp is not None or time.time() - found.changed / 1e9 < CALM:
                return "waiting"
        try:
            why = self._missing(found)
        except OSError:
            self._seen.pop(found.name, None)
            return "gone"
        if not why:
            return "ready"
        return "damaged" if at - since >= self.patience else "waiting"

    def why(self, found: Found) -> str:
        """What is missing in one that is not whole."""
        return self._why.get(found.name, (None, ""))[1]

    def _missing(self, found: Found) -> str:
        stamp, why = self._why.get(found.name, (None, ""))
        if stamp != found.stamp:
            why = why_not_whole(found.path)
            self._why[found.name] = found.stamp, why
        return why
