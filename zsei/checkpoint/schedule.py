"""How much should be cut by when: schedules of sparsity, and the phases of a training run.

Letters: s share of the parameters cut, p progress from 0 to 1, m safety margin.
"""

import math
from dataclasses import dataclass
from typing import Literal

from zsei.errors import UsageError
from zsei.gate.phases import CAPS, PHASES, Phase

Shape = Literal["linear", "polynomial", "exponential"]
SHAPES: tuple[Shape, ...] = ("linear", "polynomial", "exponential")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Where a run starts, where it wants to end, and the curve between.

    The margin is a share of the target that is never asked for: with a target of 0.20 and a margin
    of 0.10 the curve ends at 0.18. It is room for what a cut takes along with it (whole groups of
    tensors go, not single weights), so that an overshoot still stays inside the target.

    Raises:
        UsageError: When a number lies outside of its range.
    """

    shape: Shape = "polynomial"
    initial: float = 0.0
    """Share that is gone already; what is cut does not come back, so the curve never goes below."""
    target: float = 0.15
    """Largest share that may go."""
    power: float = 3.0
    """Exponent of the polynomial."""
    margin: float = 0.1

    def __post_init__(self) -> None:
        ranges = (
            ("initial", 0.0 <= self.initial < 1, "at least 0 and below 1", self.initial),
            ("target", 0.0 <= self.target < 1, "at least 0 and below 1", self.target),
            ("margin", 0.0 <= self.margin < 1, "at least 0 and below 1", self.margin),
            ("power", 0.0 < self.power < math.inf, "above 0", self.power),
        )
        for name, fits, rule, value in ranges:
            if not fits:
                raise UsageError(
                    f"A schedule's {name} must be {rule}, and it is {value:g}; shares are given as "
                    "0.15, not as 15."
                )
        if self.shape not in SHAPES:
            raise UsageError(
                f"A schedule is one of {', '.join(SHAPES)}, and {self.shape!r} is none of them."
            )

    @property
    def end(self) -> float:
        """The share the curve ends at: (1 - m) · target, never below what is gone already."""
        return max(self.initial, (1 - self.margin) * self.target)


def sparsity_at(schedule: Schedule, progress: float) -> float:
    """Share of the parameters that should be gone at a progress p.

    With s₀ the initial share and e the end, (1 - m) · target:

    - linear: s₀ + (e - s₀) · p
    - polynomial: s₀ + (e - s₀) · p^power. With power 3 an eighth of the way is cut in the first
      half of the time: careful at first, and the last cuts are the largest.
    - exponential: 1 - (1 - s₀) · ((1 - e) / (1 - s₀))^p: each step removes the same share of
      what is left.

    All start at s₀, end at e and never fall.

    Args:
        schedule: The curve.
        progress: Share of the pruning time that is over; beyond 0 and 1 it is held there.

    Raises:
        UsageError: When the progress is not a number.

    Misleads when: compared with the cubic schedule of Zhu and Gupta (2017), which is fast at first
    and slow at the end; there p is 1 - (1 - p)³.
    References: the Elesh analysis algorithms, 1.2; its exponential forgets s₀, this one does not.
    """
    if math.isnan(progress):
        raise UsageError("A schedule needs the progress as a number from 0 to 1, and it is NaN.")
    p = min(1.0, max(0.0, progress))
    start, end = schedule.initial, schedule.end
    if schedule.shape == "linear":
        found = start + (end - start) * p
    elif schedule.shape == "polynomial":
        found = start + (end - start) * p**schedule.power
    else:
        found = 1 - (1 - start) * ((1 - end) / (1 - start)) ** p
    return min(end, max(start, found))  # the last digit of a power must not pass the end


def sparsity_at_step(schedule: Schedule, step: int, steps: int) -> float:
    """Share that should be gone after `step` of `steps` steps; step 0 is the start.

    Raises:
        UsageError: When there is no step.
    """
    if steps < 1:
        raise UsageError(f"A schedule needs at least one step, and got {steps}.")
    return sparsity_at(schedule, step / steps)


@dataclass(frozen=True, kw_only=True)
class Epochs:
    """How many epochs each phase of a training run lasts; all later ones are *validation*."""

    preparation: int = 30
    conservative: int = 30
    moderate: int = 30
    aggressive: int = 30

    def __post_init__(self) -> None:
        if min(self.lengths) < 0 or sum(self.lengths[1:]) < 1:
            raise UsageError(
                "Phases last 0 epochs or more and at least one of them must cut; they are "
                f"{self.lengths}. Give the number of epochs of each."
            )

    @property
    def lengths(self) -> tuple[int, int, int, int]:
        """Epochs of the four phases, in order."""
        return self.preparation, self.conservative, self.moderate, self.aggressive

    def last(self, phase: Phase) -> int:
        """The last epoch of a phase but *validation*, which has none."""
        return sum(self.lengths[: PHASES.index(phase) + 1])


def phase_of(epoch: int, epochs: Epochs | None = None) -> Phase:
    """The phase an epoch belongs to; epochs count from 1.

    With the defaults: preparation 1-30, conservative 31-60, moderate 61-90, aggressive 91-120, and
    validation from 121 on.

    Raises:
        UsageError: When the epoch is below 1.
    """
    if epoch < 1:
        raise UsageError(f"Epochs count from 1, and this one is {epoch}; add 1 to a count from 0.")
    epochs = epochs or Epochs()
    for phase in PHASES[:-1]:
        if epoch <= epochs.last(phase):
            return phase
    return "validation"


def sparsity_of_epoch(schedule: Schedule, epoch: int, epochs: Epochs | None = None) -> float:
    """Share that should be gone at the end of an epoch, inside what its phase allows.

    The curve runs from the end of *preparation* to the end of *aggressive* and is cut off at the
    phase's own cap, less the margin: (1 - m) · cap. *Validation* holds what *aggressive* ended at.

    Raises:
        UsageError: When the epoch is below 1.
    """
    epochs = epochs or Epochs()
    phase = phase_of(epoch, epochs)
    if phase == "preparation":
        return schedule.initial
    begin, end = epochs.last("preparation"), epochs.last("aggressive")
    wanted = sparsity_at(schedule, (epoch - begin) / (end - begin))
    cap = CAPS["aggressive" if phase == "validation" else phase]
    return max(schedule.initial, min(wanted, (1 - schedule.margin) * cap))
