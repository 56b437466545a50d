"""The flow graph as one SVG drawing: data in, text out.

Colours are presentation attributes that read on white and on black, so the drawing stands alone in
a notebook; the classes let a page restyle it. Nothing in it runs or loads anything.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from zsei.records import Component, FlowData, GraphEdge
from zsei.report.flow_labels import edge_title, escaped
from zsei.report.flow_layout import Layout, lay_out
from zsei.report.flow_nodes import CRITICAL, DOTTED, UNTOLD, draw_nodes, told
from zsei.report.flow_order import SMALL, collapse_heads
from zsei.report.flow_routes import router
from zsei.report.select import CriticalPath

EDGE_WIDTH = 8.0
"""Width of an edge with share 1."""
THIN = 1.2
"""Width where the share says nothing: the target has no other input, or nobody measured it."""
NARROWEST = 0.5
PATHS_DRAWN = 3
"""Critical paths drawn of each kind."""
INK = {"positive": "#17807a", "negative": "#c2501c", "plain": UNTOLD}


@dataclass(frozen=True, kw_only=True)
class Detail:
    """How much of the graph is drawn; less keeps a large model's page small."""

    heads: bool = True
    edge_titles: bool = True
    node_titles: bool = True
    max_nodes: int = 6000


def flow_svg(
    flow: FlowData,
    components: Sequence[Component] = (),
    *,
    critical: Sequence[CriticalPath] = (),
    removed: Collection[str] = (),
    detail: Detail | None = None,
) -> str:
    """Draw the flow graph by layer.

    Args:
        flow: The graph.
        components: Their `path` and `units` join the tooltips; may be empty.
        critical: Paths to highlight.
        removed: Ids of nodes that accepted proposals take away; they are struck through.
        detail: How much to draw; all of it by default.

    Returns:
        An `<svg>` element, or "" for an empty graph and for one with more nodes than may be drawn.
    """
    detail = detail or Detail()
    if not detail.heads:
        flow = collapse_heads(flow)
    if not flow.nodes or len(flow.nodes) > detail.max_nodes:
        return ""
    layout = lay_out(flow)
    route = router(layout)
    parts = [
        _bands(layout, components),
        _highlights(layout, critical, route, "information"),
        _edges(layout, route, detail),
        _highlights(layout, critical, route, "latency"),
        draw_nodes(layout, components, critical, frozenset(removed), detail.node_titles),
    ]
    width, height = round(layout.width), round(layout.height)
    heads = sum(n.kind == "head" for n in flow.nodes)
    label = f"Flow graph: {len(flow.nodes)} nodes, {len(layout.edges)} edges"
    label += f", {heads} heads" if heads else ""
    return (
        f'<svg class="flow" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{label}" '
        f'font-family="system-ui,sans-serif" font-size="11" fill="currentColor">'
        f"{''.join(parts)}</svg>"
    )


def _bands(layout: Layout, components: Sequence[Component]) -> str:
    """A tinted strip behind every second layer, and each layer's number."""
    names = {c.layer: c.id for c in components if c.kind == "layer"}
    made: list[str] = []
    for index, band in enumerate(layout.bands):
        left, right = layout.lanes[band.lane]
        title = name = ""
        if band.layer in names:
            title = f"<title>{escaped(names[band.layer])}</title>"
            name = (
                f'<text x="{left + 10:g}" y="{band.top + 29:.0f}" font-size="10" opacity=".72">'
                f"{escaped(names[band.layer], 16)}</text>"
            )
        made.append(
            f'<rect class="band" x="{left:g}" y="{band.top:.0f}" width="{right - left:.0f}" '
            f'height="{max(0.0, band.bottom - band.top):.0f}" '
            f'fill-opacity="{0.045 if index % 2 == 0 else 0}">{title}</rect>'
            f'<text x="{left + 10:g}" y="{band.top + 16:.0f}" font-weight="600">'
            f"layer {band.layer}</text>{name}"
        )
    return f"<g>{''.join(made)}</g>"


def _edges(layout: Layout, route: Callable[[GraphEdge], str], detail: Detail) -> str:
    """All edges, one group per colour so that crossing wires of a colour do not darken."""
    inputs: dict[str, int] = defaultdict(int)
    readers: dict[str, list[GraphEdge]] = defaultdict(list)
    for edge in layout.edges:
        inputs[edge.target] += 1
        readers[edge.source].append(edge)
    groups: dict[str, list[str]] = {"plain": [], "negative": [], "positive": []}
    for edge in layout.edges:
        share = told(edge, "share")
        alone = inputs[edge.target] == 1
        stream = layout.boxes[edge.source].spine and layout.boxes[edge.target].spine
        width = THIN
        told_share = edge.attributes.get("share_basis") != "even split"
        if share is not None and told_share and (stream or not alone):
            width = max(NARROWEST, EDGE_WIDTH * share)
        shown = share
        if alone and len(readers[edge.target]) == 1:
            # What only passes through a node matters as much as what the node hands on.
            shown = told(readers[edge.target][0], "share")
        attribution = told(edge, "attribution") or 0.0
        kind = "positive" if attribution > 0 else "negative" if attribution < 0 else "plain"
        mark = f' data-s="{shown:.3g}"' if shown is not None else ""
        wide = "" if width == THIN else f' stroke-width="{min(width, EDGE_WIDTH):.2g}"'
        path = f'<path d="{route(edge)}"{wide}{mark}'
        groups[kind].append(
            f"{path}><title>{edge_title(edge)}</title></path>" if detail.edge_titles
            else f"{path}/>"
        )  # fmt: skip
    return "".join(
        f'<g class="edges {kind}" fill="none" stroke="{INK[kind]}" stroke-width="{THIN}" '
        f'opacity=".62">{"".join(drawn)}</g>'
        for kind, drawn in groups.items()
        if drawn
    )


def _highlights(
    layout: Layout, critical: Sequence[CriticalPath], route: Callable[[GraphEdge], str], kind: str
) -> str:
    """Critical paths of one kind: information as a halo, latency as dots."""
    edges = {(e.source, e.target): e for e in layout.edges}
    made: list[str] = []
    for path in [p for p in critical if p.kind == kind][:PATHS_DRAWN]:
        line, reached = "", ""
        for source, target in zip(path.nodes, path.nodes[1:], strict=False):
            edge = edges.get((source, target))
            if edge is not None:
                # The line runs through a small mark and stops at a box, whose outline goes on.
                through = reached == source and layout.boxes[source].node.kind in SMALL
                drawn = route(edge)
                line += drawn.replace("M", "L", 1) if through else drawn
                reached = target
        if line:
            strength = (0.95, 0.3) if not made else (0.5, 0.13)
            style = (
                f'stroke-width="2.2"{DOTTED} opacity="{strength[0]}"'
                if kind == "latency"
                else f'stroke-width="{EDGE_WIDTH + 8:g}" opacity="{strength[1]}"'
            )
            made.append(f'<path d="{line}" {style}><title>critical path, {kind}</title></path>')
    return (
        f'<g class="critical" fill="none" stroke="{CRITICAL}" stroke-linejoin="round">'
        f"{''.join(made)}</g>"
        if made
        else ""
    )
