"""How much each phase of a training run may cut, and of which kind.

Only where a training run says which phase it is in. In a one-off analysis or prune the safety level
sets the limits on quality and the user's budget the size of the cut.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from zsei.errors import UsageError
from zsei.settings import EditKind

Phase = Literal["preparation", "conservative", "moderate", "aggressive", "validation"]
PHASES: tuple[Phase, ...] = (
    "preparation", "conservative", "moderate", "aggressive", "validation",
)  # fmt: skip

CAPS: Mapping[Phase, float] = {
    "preparation": 0.0,
    "conservative": 0.05,
    "moderate": 0.10,
    "aggressive": 0.20,
    "validation": 0.0,
}
"""Largest share of the run's original parameters that may be gone by the end of a phase:
cumulative, so what earlier phases cut is part of it."""

ALLOWED: Mapping[Phase, tuple[EditKind, ...]] = {
    "preparation": (),
    "conservative": ("channels",),
    "moderate": ("channels", "heads"),
    "aggressive": ("channels", "heads", "layers"),
    "validation": (),
}
"""Kinds of change a phase may make."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Where a training run stands when the gate is asked."""

    phase: Phase
    parameters: int
    """Parameters of the model the run began with, before anything was cut."""

    def __post_init__(self) -> None:
        if self.phase not in PHASES:
            raise UsageError(
                f"A training run is in one of the phases {', '.join(PHASES)}; {self.phase!r} is "
                "none of them."
            )
        if self.parameters < 1:
            raise UsageError(
                "Shares are counted of the parameters the run began with, which must be at least "
                f"1 and are {self.parameters}; count them before the first cut."
            )

    def share(self, parameters: int) -> float:
        """Share of the original parameters that is gone when `parameters` are left."""
        return 1 - parameters / self.parameters


def refused_by_phase(
    run: TrainingRun, kinds: Collection[EditKind], before: int, after: int | None
) -> str | None:
    """Why a phase does not allow a cut; None when it does.

    A pure function of what was cut already and of what is asked:

    - every kind of change must be one the phase allows (`ALLOWED`),
    - cut = 1 - after / original must not exceed the phase's cap (`CAPS`). It is cumulative:
      after counts what is left of everything that was ever there.

    Args:
        run: The phase and the parameters the run began with.
        kinds: Kinds of change that are asked for.
        before: Parameters of the model as it is now.
        after: Parameters that would be left; None while they are not known, and then only the
            kinds are looked at.

    Misleads when: parameters are few in what is dear. A cap on parameters says nothing of how much
    the answers move; the gate's other stages do.
    """
    allowed = ALLOWED[run.phase]
    if not allowed:
        return f"in the phase {run.phase!r} nothing is cut"
    forbidden = sorted(set(kinds) - set(allowed))
    if forbidden:
        return (
            f"in the phase {run.phase!r} only {' and '.join(allowed)} may be cut, "
            f"and this cuts {' and '.join(forbidden)}"
        )
    if after is None:
        return None
    gone, asked, cap = run.share(before), run.share(after), CAPS[run.phase]
    # Compared in whole parameters: a share such as 0.05 of 1000 must not be lost to rounding.
    if run.parameters - after > cap * run.parameters + 1e-6:
        return (
            f"in the phase {run.phase!r} at most {cap:.0%} of the original parameters may be gone; "
            f"{gone:.2%} are already and {asked:.2%} would be"
        )
    return None
