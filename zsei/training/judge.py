"""Whether what was done last has to be put back, by what training measured since.

Letters: L loss.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from zsei.checkpoint.config import RollbackTriggers
from zsei.checkpoint.contracts import StructuralPruningDecision
from zsei.gate.rollback import Rollback, rollback
from zsei.settings import EditKind

LOSS_RISES: Mapping[EditKind, float] = {"channels": 0.05, "heads": 0.08, "layers": 0.12}
"""Relative rise of the loss that puts a change back, where no accuracy is measured."""
_LEAST = 1e-12
"""A loss below counts as this much, so that a share of it can be taken."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What training measured on its own validation data."""

    accuracy: float | None = None
    loss: float | None = None

    @property
    def finite_accuracy(self) -> float | None:
        """The accuracy as a message carries it: None when it is no number."""
        return _finite(self.accuracy)

    @property
    def finite_loss(self) -> float | None:
        """The loss as a message carries it: None when it is no number."""
        return _finite(self.loss)


def kinds_of(decision: StructuralPruningDecision) -> tuple[EditKind, ...]:
    """Kinds of change of a decision; "channels", the strictest, when it names no targets."""
    found: list[EditKind] = []
    if decision.channels:
        found.append("channels")
    if decision.attention_heads:
        found.append("heads")
    if decision.layers:
        found.append("layers")
    return tuple(found) or ("channels",)


def judge(
    decision: StructuralPruningDecision,
    before: Measured,
    after: Measured,
    triggers: RollbackTriggers,
) -> Rollback | None:
    """Whether a change stays; None when nothing was measured on both sides of it.

    Accuracy decides where both have it (`zsei.gate.rollback.rollback`, with the configuration's
    triggers). Else the loss: (L after - L before) / |L before| at or above `LOSS_RISES` of the
    kind puts it back, as does a loss that is no number.

    Misleads when: training itself moves the two by as much between two checkpoints; the first
    figure after the change decides, and later ones are training's own.
    """
    kinds = kinds_of(decision)
    if before.accuracy is not None and after.accuracy is not None:
        if not math.isfinite(before.accuracy):
            return None
        drops: Mapping[EditKind, float] = {
            "channels": triggers.channel_accuracy_drop,
            "heads": triggers.head_accuracy_drop,
            "layers": triggers.layer_accuracy_drop,
        }
        return rollback(kinds, before.accuracy, after.accuracy, drops)
    if before.loss is None or after.loss is None or not math.isfinite(before.loss):
        return None
    kind = max(kinds, key=list(LOSS_RISES).index)
    limit = LOSS_RISES[kind]
    if not math.isfinite(after.loss):
        reason = f"the loss after the edit is {after.loss}, which is no number"
        return Rollback(roll_back=True, drop=None, limit=limit, reason=reason)
    rise = (after.loss - before.loss) / max(abs(before.loss), _LEAST)
    numbers = f"the loss went from {before.loss:.4g} to {after.loss:.4g} ({rise:+.2%})"
    if rise >= limit - 1e-9:
        reason = f"{numbers}; {kind} roll back at +{limit:.0%}"
        return Rollback(roll_back=True, drop=rise, limit=limit, reason=reason)
    reason = f"{numbers}, below the +{limit:.0%} at which {kind} roll back"
    return Rollback(roll_back=False, drop=rise, limit=limit, reason=reason)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
