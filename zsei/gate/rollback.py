"""When what was cut has to be put back: a drop of accuracy after an edit was applied.

The gate judges before an edit; this looks afterwards, when training went on or new data came.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from zsei.errors import DataError, UsageError
from zsei.settings import EditKind

DROPS: Mapping[EditKind, float] = {"channels": 0.02, "heads": 0.03, "layers": 0.05}
"""Drop of accuracy that rolls back, by kind of change.

Absolute, in accuracy itself: from 0.90 to 0.88 is a drop of 0.02, as for the gate's own limits
(`zsei.settings.LIMITS`), whose conservative column these are. A relative reading would let a model
of accuracy 0.3 lose less than one of 0.9 in the units its user counts in."""
_ROUNDING = 1e-9
"""0.95 - 0.93 is a little less than 0.02 in binary, and still a drop of 2 %."""
_ORDER: tuple[EditKind, ...] = ("channels", "heads", "layers")


@dataclass(frozen=True, kw_only=True)
class Rollback:
    """Whether to put back what was cut, and why."""

    roll_back: bool
    drop: float | None
    """before - after; None when after is not a number."""
    limit: float
    reason: str


def rollback(
    kinds: Collection[EditKind],
    before: float,
    after: float,
    drops: Mapping[EditKind, float] = DROPS,
) -> Rollback:
    """Decide from the accuracy before and after whether an applied edit stays.

    It goes when before - after ≥ the limit of its kind, and when the accuracy after is no number.
    Of several kinds applied together the largest counts (channels < heads < layers), as in the
    gate. A point value decides: here a false alarm costs one edit and a missed one the model.

    Args:
        kinds: Kinds of what was applied since `before` was measured.
        before: Accuracy (or rank correlation) before, as a share of 1.
        after: The same on the same samples afterwards.
        drops: Drop that rolls back, by kind.

    Raises:
        UsageError: When there is no kind.
        DataError: When an accuracy is not a share of 1, or `before` is not a number.

    Misleads when: the two were measured on different samples, or on few: with 100 samples an
    accuracy of 0.9 has a standard deviation of 0.03 of its own.
    """
    if not kinds:
        raise UsageError("A rollback is decided by kind of change, and none was given.")
    if not math.isfinite(before):
        raise DataError(
            f"A drop is counted from the accuracy before, which must be a number and is {before}; "
            "measure it before the edit is applied."
        )
    for name, value in (("before", before), ("after", after)):
        if math.isfinite(value) and abs(value) > 1:
            raise DataError(
                f"An accuracy is a share of 1, and the one {name} is {value:g}; divide a "
                "percentage by 100."
            )
    kind = max(kinds, key=_ORDER.index)
    limit = drops[kind]
    if not math.isfinite(after):
        reason = f"the accuracy after the edit is {after}, which is no number"
        return Rollback(roll_back=True, drop=None, limit=limit, reason=reason)
    drop = before - after
    numbers = f"accuracy went from {before:.4g} to {after:.4g}, a drop of {drop:.4g}"
    if drop >= limit - _ROUNDING:
        reason = f"{numbers}; {kind} roll back at {limit:g}"
        return Rollback(roll_back=True, drop=drop, limit=limit, reason=reason)
    reason = f"{numbers}, below the {limit:g} at which {kind} roll back"
    return Rollback(roll_back=False, drop=drop, limit=limit, reason=reason)
