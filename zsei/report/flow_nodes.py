"""The boxes and marks of the flow graph, with their labels, colours and tooltips."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from zsei.records import Component, GraphEdge, GraphNode
from zsei.report.flow_labels import escaped, mark_name, node_title, tail
from zsei.report.flow_layout import Box, Layout
from zsei.report.flow_order import SMALL
from zsei.report.scale import HARM, HUE, OPACITY, WHITE_FROM, level
from zsei.report.select import CriticalPath

CRITICAL = "#7c3aed"
MARK = "#69717c"
UNTOLD = "#7d8590"
IMPORTANCE = ("ablation_effect", "sensitivity")
DOTTED = ' stroke-dasharray="0.1 4" stroke-linecap="round"'


def told(item: GraphNode | GraphEdge, name: str) -> float | None:
    """A numeric attribute; None when it is absent or no number."""
    value = item.attributes.get(name)
    return float(value) if isinstance(value, int | float) else None


@dataclass(frozen=True, kw_only=True)
class Heat:
    """The importance scale of one kind of node."""

    name: str | None
    largest: float

    @staticmethod
    def of(nodes: Sequence[GraphNode]) -> "Heat":
        """The attribute that most of the nodes carry, exact ablation first, and its largest."""
        best, values = None, dict[str, float]()
        for name in IMPORTANCE:
            found = {n.id: v for n in nodes if (v := told(n, name)) is not None}
            if len(found) > len(values):
                best, values = name, found
        return Heat(name=best, largest=max(values.values(), default=0.0))

    def fill(self, node: GraphNode) -> tuple[str, float, bool]:
        """Colour, opacity, and whether text on it is white."""
        value = None if self.name is None else told(node, self.name)
        if value is None:
            return UNTOLD, 0.1, False
        step = level(value, self.largest)
        return HARM if value < 0 else HUE, OPACITY[step], step >= WHITE_FROM


def draw_nodes(
    layout: Layout,
    components: Sequence[Component],
    critical: Sequence[CriticalPath],
    removed: Collection[str],
    titles: bool,
) -> str:
    """All nodes; what many share stands on the group around them, which halves a large drawing."""
    known = {c.id: c for c in components}
    paths = _path_kinds(critical)
    boxes = list(layout.boxes.items())
    nodes = [box.node for _, box in boxes]
    heats = {
        True: Heat.of([n for n in nodes if n.kind == "head"]),
        False: Heat.of([n for n in nodes if n.kind != "head" and n.kind not in SMALL]),
    }

    def title(name: str, box: Box) -> str:
        if not titles:
            return ""
        return f"<title>{node_title(box.node, known.get(name), name in removed)}</title>"

    marks = [(n, b) for n, b in boxes if b.node.kind in SMALL]
    solid = [(n, b, heats[b.node.kind == "head"].fill(b.node)) for n, b in boxes
             if b.node.kind not in SMALL]  # fmt: skip
    return (
        f'<g class="marks" fill="{MARK}">{"".join(_mark(b, title(n, b)) for n, b in marks)}</g>'
        f'<g class="minor" font-size="10" opacity=".72" pointer-events="none" text-anchor="end">'
        f"{''.join(_mark_label(b) for _, b in marks)}</g>"
        f'<g class="boxes" fill="{HUE}" stroke="{HUE}">'
        f"{''.join(_box(b, fill, paths.get(n), title(n, b)) for n, b, fill in solid)}</g>"
        f'<g text-anchor="middle" pointer-events="none">'
        f"{''.join(_label(b, fill[2]) for _, b, fill in solid)}</g>"
        f'<g class="gone" stroke="{HARM}" stroke-width="2">'
        f"{''.join(_strike(b) for n, b in boxes if n in removed)}</g>"
    )


def _path_kinds(critical: Sequence[CriticalPath]) -> Mapping[str, str]:
    """Which kind of critical path runs through a node; information before latency."""
    kinds: dict[str, str] = {}
    for path in sorted(critical, key=lambda p: p.kind != "information"):
        for name in path.nodes:
            kinds.setdefault(name, path.kind)
    return kinds


def _corner(box: Box) -> str:
    return (
        f'x="{box.x - box.width / 2:g}" y="{box.y - box.height / 2:g}" '
        f'width="{box.width:g}" height="{box.height:g}"'
    )


def _mark(box: Box, title: str) -> str:
    """A residual join as a plus in a circle; another small node as a bar."""
    if box.node.kind != "residual":
        return f'<rect {_corner(box)} rx="4">{title}</rect>'
    return (
        f'<circle cx="{box.x:g}" cy="{box.y:g}" r="6">{title}</circle>'
        f'<path d="M{box.x - 3:g} {box.y:g}h6m-3 -3v6" stroke="#fff" stroke-width="1.4" '
        f'pointer-events="none"/>'
    )


def _mark_label(box: Box) -> str:
    """The name of a small node: left of the spine, right of a branch."""
    label = escaped(mark_name(box.node))
    side = f'x="{box.x - box.width / 2 - 6:g}"'
    if not box.spine:
        side = f'x="{box.x + box.width / 2 + 4:g}" text-anchor="start"'
    return f'<text {side} y="{box.y + 3.5:.0f}">{label}</text>'


def _box(box: Box, fill: tuple[str, float, bool], path: str | None, title: str) -> str:
    """A computing node: filled by importance, outlined when a critical path runs through it."""
    color, opacity, _ = fill
    paint = "" if color == HUE else f' fill="{color}" stroke="{color}"'
    if path:
        fill_only = "" if color == HUE else f' fill="{color}"'
        dots = DOTTED if path == "latency" else ""
        paint = f'{fill_only} stroke="{CRITICAL}" stroke-width="2"{dots}'
    return f'<rect {_corner(box)} rx="3" fill-opacity="{opacity:g}"{paint}>{title}</rect>'


def _label(box: Box, white: bool) -> str:
    head = box.node.kind == "head"
    last = box.node.id.rpartition(".")[2]
    short = last if head and last.isdigit() else tail(box.node.id, 5 if head else 16)
    ink = ' fill="#fff"' if white else ""
    size = ' font-size="10"' if head else ""
    return f'<text x="{box.x:g}" y="{box.y + 4:g}"{size}{ink}>{escaped(short)}</text>'


def _strike(box: Box) -> str:
    """A line through a node that an accepted proposal removes."""
    left, top = box.x - box.width / 2 - 2, box.y - box.height / 2 - 2
    return f'<path d="M{left:g} {top:g}l{box.width + 4:g} {box.height + 4:g}"/>'
