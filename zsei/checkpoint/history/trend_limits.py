"""From when on something that happens over time is said."""

from dataclasses import dataclass, field

from zsei.checkpoint.history.turning import TurnLimits
from zsei.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class TrendLimits:
    """From when on something is said."""

    window: int = 60
    """Checkpoints looked back on for a slope."""
    false_alarms: float = 0.05
    """Chance that a whole run in which nothing moves gets a finding of a slope: divided by the
    series looked at and by `looks`. It holds while checkpoints an epoch apart correlate by up
    to 0.8; at 0.9 it is about twice as much."""
    looks: int = 20
    """Independent looks that the windows of a run amount to: 500 checkpoints are 8 windows of 60
    that share nothing, and those between them add a little."""
    change: float = 0.25
    """Least change over the window, as a share of the mean, that is worth a finding."""
    turn: TurnLimits = field(default_factory=TurnLimits)
    """When something has stopped or begun."""
    close: float = 0.05
    """So far under the threshold of similarity a rising one is called forming."""
    instability: float = 0.5
    """Standard deviation of the log of a gradient from one checkpoint to the next: 0.5 is a factor
    of 1.6 up or down."""
    stalled: float = 0.05
    """Share of its former learning efficiency below which a component has stopped to learn."""
    whole: float = 0.8
    """Share of the components that must stall for it to be said of the model instead."""

    def __post_init__(self) -> None:
        inside = (self.false_alarms, self.change, self.close, self.stalled, self.whole)
        if self.window < 5 or not all(0 < x <= 1 for x in inside) or not self.instability > 0:
            raise UsageError(
                "A window holds at least 5 checkpoints, shares lie between 0 and 1, and the limit "
                f"of instability is above 0; these are {self}."
            )

    def chance(self, series: int) -> float:
        """The probability below which one of so many series is taken to have a slope."""
        return self.false_alarms / (max(1, series) * self.looks)
