"""Findings over time: what rises, falls, dies, wakes, doubles or stalls in the course of a run."""

from collections.abc import Iterable, Mapping, Sequence

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.history.find_forming import forming
from zsei.checkpoint.history.find_moving import moving
from zsei.checkpoint.history.find_training import stalled, unstable
from zsei.checkpoint.history.find_turning import turning
from zsei.checkpoint.history.history import History
from zsei.checkpoint.history.series import Series
from zsei.checkpoint.history.trend_limits import TrendLimits
from zsei.records import Component, Finding

CODES = (
    "importance-rising", "importance-falling", "component-dying", "component-waking",
    "redundancy-forming", "gradient-unstable", "learning-stalled",
)  # fmt: skip
"""Codes of findings that take a run to be seen; each has a card of knowledge."""


def trends(
    history: History,
    series: Series,
    config: CheckpointConfig | None = None,
    *,
    limits: TrendLimits | None = None,
    components: Sequence[Component] = (),
) -> tuple[Finding, ...]:
    """What the checkpoints so far show that one of them cannot.

    Every finding carries what it was measured by. Their words name no number that moves with each
    checkpoint, so one thing that lasts is said in the same words all along.

    Args:
        history: Combined importance of units over the checkpoints, by "component|kind".
        series: What else was followed (`zsei.checkpoint.history.series.follow`).
        config: Thresholds of similarity and of death.
        limits: From when on something is said.
        components: Of the model; heads are then named by their own ids.

    Misleads when: the data, the learning rate or the phase of training changed: all of them move
    what is measured. Importance is compared as a share of the whole, which takes out what moves all
    places alike, and nothing else.
    """
    limits = limits or TrendLimits()
    config = config or CheckpointConfig()
    if not series.epochs and not history.steps:
        return ()
    names = _names(components)
    return (
        *moving(history, limits, names),
        *turning(series, limits, names, config.elesh.marking_threshold),
        *forming(series, config, limits, names),
        *unstable(series, limits),
        *stalled(series, limits),
    )


def _names(components: Iterable[Component]) -> Mapping[tuple[str, int], str]:
    """(component that holds the heads, number) -> id of the head."""
    return {
        (c.parent, c.index): c.id
        for c in components
        if c.kind == "head" and c.parent is not None and c.index is not None
    }
