"""The lines between the boxes of the flow graph: straight along a spine, else with right angles.

A line that goes to a branch leaves its spine just above the branch's row; lines that leave together
run together, like wires on a bus. No line crosses a box that it does not end in.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from zsei.records import GraphEdge
from zsei.report.flow_layout import LINE_GAP, Box, Layout

Point = tuple[float, float]
RADIUS = 4.0
CLEARANCE = 8.0
CROSSED = 22.0
"""Height of the bus from another lane above its row."""


def polyline(points: Sequence[Point]) -> str:
    """SVG path data of a line through the points with rounded corners, in relative steps."""
    kept = [points[0]]
    for point in points[1:]:
        if abs(point[0] - kept[-1][0]) + abs(point[1] - kept[-1][1]) > 0.01:
            kept.append(point)
    here = _rounded(kept[0])
    parts = [f"M{_pair(here)}"]
    for before, corner, after in zip(kept, kept[1:], kept[2:], strict=False):
        entry, leave = _rounded(_toward(corner, before)), _rounded(_toward(corner, after))
        bend, end = _step(entry, _rounded(corner)), _step(entry, leave)
        parts.append(_line(_step(here, entry)) + f"q{_pair(bend)} {_pair(end)}")
        here = leave
    parts.append(_line(_step(here, _rounded(kept[-1]))))
    return "".join(parts)


def _rounded(point: Point) -> Point:
    return round(point[0], 1), round(point[1], 1)


def _step(start: Point, end: Point) -> Point:
    return round(end[0] - start[0], 1), round(end[1] - start[1], 1)


def _pair(point: Point) -> str:
    return f"{point[0]:g} {point[1]:g}"


def _line(step: Point) -> str:
    """The shortest way to say a straight step."""
    if step[0] == 0:
        return f"v{step[1]:g}"
    return f"h{step[0]:g}" if step[1] == 0 else f"l{_pair(step)}"


def _toward(corner: Point, other: Point) -> Point:
    """The point where the rounding of a corner begins, on the way to `other`."""
    dx, dy = other[0] - corner[0], other[1] - corner[1]
    length = abs(dx) + abs(dy)
    step = min(RADIUS, length / 2) / length
    return corner[0] + dx * step, corner[1] + dy * step


def router(layout: Layout) -> Callable[[GraphEdge], str]:
    """A function from an edge of the layout to its path data."""
    rows: dict[tuple[int, int], list[Box]] = defaultdict(list)
    for box in layout.boxes.values():
        rows[box.lane, box.row].append(box)

    def blocking(lane: int, x: float, first: int, last: int) -> list[Box]:
        """Boxes in the rows first..last of a lane through which a vertical line at x would run."""
        return [
            box
            for row in range(first, last + 1)
            for box in rows.get((lane, row), ())
            if abs(box.x - x) <= box.width / 2 + 2
        ]

    def route(edge: GraphEdge) -> str:
        source, target = layout.boxes[edge.source], layout.boxes[edge.target]
        if source.row > target.row:
            return polyline(_backward(layout, source, target))
        if source.row == target.row:
            beside = [
                box
                for box in rows[source.lane, source.row]
                if box not in (source, target) and min(source.x, target.x) < box.x < source.x
            ]
            return polyline(_across(source, target, bool(beside)))
        on_spine = source.spine and target.spine and source.lane == target.lane
        between = blocking(source.lane, source.x, source.row + 1, target.row - 1)
        if on_spine:
            return _along(source, target, between)
        aside = None
        while between:
            aside = max(box.x + box.width / 2 for box in between) + CLEARANCE
            between = blocking(source.lane, aside, source.row + 1, target.row - 1)
        return polyline(_down(layout, source, target, aside))

    return route


def _bottom(box: Box) -> float:
    return box.y + box.height / 2


def _top(box: Box) -> float:
    return box.y - box.height / 2


def _along(source: Box, target: Box, between: Sequence[Box]) -> str:
    """Down a spine; around the boxes that stand between."""
    if not between:
        return polyline([(source.x, _bottom(source)), (target.x, _top(target))])
    widest = max(box.width for box in (source, target, *between))
    x = source.x + widest / 2 + CLEARANCE + 2 * min(len(between), 6)
    out, back = source.x + source.width / 2, target.x + target.width / 2
    return polyline([(out, source.y), (x, source.y), (x, target.y), (back, target.y)])


def _across(source: Box, target: Box, blocked: bool) -> list[Point]:
    """From a branch to the join in its own row."""
    side = 1 if source.x >= target.x else -1
    end = (target.x + side * target.width / 2, target.y)
    if not blocked:
        return [(source.x - side * source.width / 2, source.y), end]
    low = max(_bottom(source), _bottom(target)) + 5
    near = target.x + side * (target.width / 2 + 12)
    return [(source.x, _bottom(source)), (source.x, low), (near, low), (near, target.y), end]


def _down(layout: Layout, source: Box, target: Box, aside: float | None) -> list[Point]:
    """Down, along the bus above the target's row, and into the target from above.

    `aside` is the x of the way down where boxes stand straight below the source.
    """
    bus = layout.tops[target.row] - (CLEARANCE if source.lane == target.lane else CROSSED)
    if source.wrapped:
        gap = source.x + source.width / 2 + 2
        points = [(gap - 2, source.y), (gap, source.y), (gap, bus)]
    elif aside is not None and source.spine:
        points = [(source.x + source.width / 2, source.y), (aside, source.y), (aside, bus)]
    elif aside is not None:
        low = layout.tops[source.row + 1] - CLEARANCE - 3  # below the source's name
        points = [(source.x, _bottom(source)), (source.x, low), (aside, low), (aside, bus)]
    else:
        points = [(source.x, _bottom(source)), (source.x, bus)]
    if target.wrapped and _top(target) > layout.tops[target.row] + LINE_GAP:
        gap = target.x - target.width / 2 - 2
        return [*points, (gap, bus), (gap, target.y), (gap + 2, target.y)]
    return [*points, (target.x, bus), (target.x, _top(target))]


def _backward(layout: Layout, source: Box, target: Box) -> list[Point]:
    """Up along the right edge of the lane: an edge that closes a cycle."""
    x = layout.lanes[source.lane][1] - CLEARANCE
    return [
        (source.x + source.width / 2, source.y), (x, source.y),
        (x, target.y), (target.x + target.width / 2, target.y),
    ]  # fmt: skip
