"""Slow, obvious geometry: what a reader's eye would check in a drawing."""

import re
from itertools import combinations

Rectangle = tuple[float, float, float, float]
"""(left, top, right, bottom)"""
Segment = tuple[tuple[float, float], tuple[float, float]]

_TOKEN = re.compile(r"([MLhvlq])|(-?\d+(?:\.\d+)?)")


def segments(path: str) -> list[Segment]:
    """The straight lines of a path with commands M, L, h, v, l, q; a curve counts as its chord."""
    tokens = [(c, float(n) if n else 0.0) for c, n in _TOKEN.findall(path)]
    found: list[Segment] = []
    x = y = 0.0
    index = 0

    def numbers(count: int) -> list[float]:
        nonlocal index
        taken = [value for _, value in tokens[index : index + count]]
        index += count
        return taken

    while index < len(tokens):
        command = tokens[index][0]
        index += 1
        start = (x, y)
        if command in "ML":
            x, y = numbers(2)
        elif command == "h":
            x += numbers(1)[0]
        elif command == "v":
            y += numbers(1)[0]
        elif command == "l":
            dx, dy = numbers(2)
            x, y = x + dx, y + dy
        else:
            _, _, dx, dy = numbers(4)
            x, y = x + dx, y + dy
        if command != "M":
            found.append((start, (x, y)))
    return found


def crosses(segment: Segment, box: Rectangle, margin: float = 0.5) -> bool:
    """Whether a segment enters the inside of a rectangle, tried at 60 points along it."""
    (x0, y0), (x1, y1) = segment
    left, top, right, bottom = box
    for step in range(61):
        t = step / 60
        x, y = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
        if left + margin < x < right - margin and top + margin < y < bottom - margin:
            return True
    return False


def overlapping(boxes: dict[str, Rectangle]) -> list[tuple[str, str]]:
    """All pairs of rectangles that share more than an edge."""
    return [
        (a, b)
        for (a, p), (b, q) in combinations(boxes.items(), 2)
        if p[0] < q[2] and q[0] < p[2] and p[1] < q[3] and q[1] < p[3]
    ]
