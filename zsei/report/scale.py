"""The colour scale of importance, the same for the graph and the heat map.

One hue in nine strengths over whatever lies beneath, so that the same marks read well on white and
on black. Strength grows with the square root of the value: importance is heavy-tailed, and on a
linear scale all but a few parts would look alike. Values below zero (taking the part away helps)
have a hue of their own.
"""

from math import sqrt

HUE = "#1f5fbf"
HARM = "#b4481e"
LEVELS = 9
OPACITY = (0.05, 0.13, 0.21, 0.3, 0.41, 0.53, 0.67, 0.86, 1.0)
"""Strength of each level; from the eighth on, text on it is white."""
WHITE_FROM = 7


def level(value: float, largest: float) -> int:
    """Level 0 to 8 of a value on the scale that ends at `largest`; by its size where negative."""
    if largest <= 0 or value == 0:
        return 0
    return min(LEVELS - 1, round((LEVELS - 1) * sqrt(abs(value) / largest)))


def bounds(largest: float) -> tuple[float, ...]:
    """The value at which each level begins."""
    top = LEVELS - 1
    return tuple(largest * ((max(0.0, step - 0.5)) / top) ** 2 for step in range(LEVELS))
