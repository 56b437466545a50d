"""Where each node of the flow graph is drawn: layers from top to bottom, branches to the right.

The spine of a lane is a straight line on its left; what computes a branch stands to the right of
it, heads side by side. All lengths are CSS pixels.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from zsei.records import FlowData, GraphEdge, GraphNode
from zsei.report.flow_labels import mark_name
from zsei.report.flow_order import SMALL, Order, order_flow

SPINE = 180
"""From the left edge of a lane to its spine: room for the names of layers and small nodes."""
BRANCH = 80
"""From the spine to the first branch."""
PER_LINE = 32
"""Heads on one line."""
MAX_WIDTH = 900
"""Widest line of branch nodes before it is broken."""
LETTER = 6.5
"""Widest a letter of a small node's name gets, on average."""
CROSSED_GAP = 34
"""Above a row that reads from another lane: room for a second bus."""
LINE_GAP = 6
"""Between the lines of a broken row."""


@dataclass(frozen=True, kw_only=True)
class Box:
    """A node and its rectangle; x and y are the centre."""

    node: GraphNode
    lane: int
    row: int
    spine: bool
    x: float
    y: float
    width: float
    height: float
    wrapped: bool = False
    """Whether it stands in a line of branch nodes that had to be broken."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """The rows of one layer in one lane."""

    layer: int
    lane: int
    top: float
    bottom: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The whole drawing."""

    boxes: Mapping[str, Box]
    edges: tuple[GraphEdge, ...]
    bands: tuple[Band, ...]
    lanes: tuple[tuple[float, float], ...]
    """(left, right) of each lane."""
    tops: tuple[float, ...]
    """Top of each row."""
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class _Spot:
    """A box within its lane and row."""

    x: float
    y: float
    width: float
    height: float
    wrapped: bool = False


def node_size(kind: str, heads_beside: int = 1) -> tuple[float, float]:
    """Width and height of a node's box."""
    if kind == "residual":
        return 12, 12
    if kind in SMALL:
        return 22, 9
    if kind == "head":
        return (54 if heads_beside <= 12 else 42 if heads_beside <= 16 else 22), 18
    return 116, 22


def lay_out(flow: FlowData) -> Layout:
    """Place every node of the graph; edges with an unknown end are left out."""
    if not flow.nodes:
        return Layout(boxes={}, edges=(), bands=(), lanes=(), tops=(), width=0, height=0)
    order = order_flow(flow)
    rows: dict[tuple[int, int], list[GraphNode]] = {}
    for name, node in order.nodes.items():
        rows.setdefault((order.lane[name], order.row[name]), []).append(node)
    lanes: list[dict[str, _Spot]] = [{} for _ in range(max(order.lane.values()) + 1)]
    heights = [0.0] * (max(order.row.values()) + 1)
    for (lane, row), nodes in rows.items():
        spots, height = _place_row(nodes, order.spine)
        lanes[lane].update(spots)
        heights[row] = max(heights[row], height)
    return _assemble(order, lanes, heights)


def _slot(node: GraphNode, heads: int) -> tuple[float, float]:
    """Width of a branch node's place in its row, and where in it the node's middle stands.

    A small mark takes at least a box's place, so that chains of both kinds stay in one column, and
    more where its name, which stands to its right, needs it.
    """
    width, _ = node_size(node.kind, heads)
    if node.kind not in SMALL:
        return width, width / 2
    box, _ = node_size("module")
    name = mark_name(node)
    return max(box, box / 2 + width / 2 + 4 + LETTER * len(name)), box / 2


def _place_row(nodes: Sequence[GraphNode], spine: frozenset[str]) -> tuple[dict[str, _Spot], float]:
    """Spots of one row of one lane, y from the row's top, and the row's height."""
    branch = [n for n in nodes if n.id not in spine]
    heads = sum(n.kind == "head" for n in branch)
    lines: list[list[tuple[GraphNode, float]]] = [[]]
    x = 0.0
    for node in branch:
        width, middle = _slot(node, heads)
        if lines[-1] and (x + width > MAX_WIDTH or len(lines[-1]) >= PER_LINE):
            lines.append([])
            x = 0.0
        lines[-1].append((node, x + middle))
        x += width + (14 if node.kind != "head" else 4 if heads <= 16 else 3)
    stream = [n for n in nodes if n.id in spine]
    tallest = [max((node_size(n.kind)[1] for n, _ in line), default=0.0) for line in lines]
    inner = sum(tallest) + LINE_GAP * (len(lines) - 1)
    height = max(inner, max((max(node_size(n.kind)[1], 13) for n in stream), default=0))
    spots: dict[str, _Spot] = {}
    top = (height - inner) / 2
    for line, line_height in zip(lines, tallest, strict=True):
        for node, centre in line:
            width, tall = node_size(node.kind, heads)
            spots[node.id] = _Spot(
                x=SPINE + BRANCH + centre, y=top + line_height / 2, width=width, height=tall,
                wrapped=len(lines) > 1,
            )  # fmt: skip
        top += line_height + LINE_GAP
    for node in stream:
        width, tall = node_size(node.kind)
        spots[node.id] = _Spot(x=SPINE, y=height / 2, width=width, height=tall)
    return spots, height


def _assemble(
    order: Order, lanes: Sequence[Mapping[str, _Spot]], heights: Sequence[float]
) -> Layout:
    """Turn rows and lanes into coordinates of one drawing."""
    branched = {order.row[n] for n in order.nodes if n not in order.spine}
    crossed = {order.row[e.target] for e in order.edges
               if order.lane[e.source] != order.lane[e.target]}  # fmt: skip
    tops: list[float] = []
    y = 12.0
    for row, height in enumerate(heights):
        tops.append(y + (CROSSED_GAP if row in crossed else 16 if row in branched else 6))
        y = tops[-1] + height
    edges_of_lanes: list[tuple[float, float]] = []
    left = 0.0
    for spots in lanes:
        width = max((s.x + s.width / 2 for s in spots.values()), default=0.0) + 30
        edges_of_lanes.append((left, left + width))
        left += width + 10
    boxes = {
        name: Box(
            node=order.nodes[name], lane=number, row=order.row[name], spine=name in order.spine,
            x=edges_of_lanes[number][0] + spot.x, y=tops[order.row[name]] + spot.y,
            width=spot.width, height=spot.height, wrapped=spot.wrapped,
        )
        for number, spots in enumerate(lanes)
        for name, spot in spots.items()
    }  # fmt: skip
    return Layout(
        boxes=boxes, edges=order.edges, bands=_bands(boxes.values()), lanes=tuple(edges_of_lanes),
        tops=tuple(tops), width=left - 10, height=y + 16,
    )  # fmt: skip


def _bands(boxes: Iterable[Box]) -> tuple[Band, ...]:
    """The extent of each layer; where two would overlap, the lower one begins later."""
    extent: dict[tuple[int, int], tuple[float, float]] = {}
    for box in boxes:
        layer = box.node.attributes.get("layer")
        if isinstance(layer, int):
            key = (box.lane, layer)
            top, bottom = box.y - box.height / 2 - 9, box.y + box.height / 2 + 5
            old = extent.get(key, (top, bottom))
            extent[key] = (min(old[0], top), max(old[1], bottom))
    made: list[Band] = []
    for (lane, layer), (top, bottom) in sorted(extent.items(), key=lambda e: (e[0][0], e[1])):
        if made and made[-1].lane == lane and made[-1].bottom > top:
            top = min(made[-1].bottom, bottom)
        made.append(Band(layer=layer, lane=lane, top=top, bottom=bottom))
    return tuple(made)
