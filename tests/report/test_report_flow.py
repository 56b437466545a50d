"""The drawing of the flow graph: everything is there, in order, and nothing lies over another."""

import random
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import report_records as records
from oracles import drawing

from zsei.records import FlowData, GraphEdge, GraphNode
from zsei.report.flow_layout import Layout, lay_out
from zsei.report.flow_order import collapse_heads, order_flow
from zsei.report.flow_routes import polyline, router
from zsei.report.flow_svg import Detail, flow_svg
from zsei.report.select import CriticalPath, critical_paths
from zsei.report.verdicts import removed


def _graph(kinds: dict[str, str], edges: str) -> FlowData:
    """A graph from edges written `a>b a>c`; kinds not named are `linear`."""
    pairs = [tuple(edge.split(">")) for edge in edges.split()]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    return FlowData(
        nodes=tuple(GraphNode(id=n, kind=kinds.get(n, "linear")) for n in names),
        edges=tuple(GraphEdge(source=a, target=b, attributes={"share": 0.5}) for a, b in pairs),
    )


ENDS = {"in": "input", "out": "output"}
BUILT = {
    # Attention and MLP side by side, both added to the stream in one join.
    "parallel": lambda: _graph(
        ENDS | {"n": "norm", "h0": "head", "h1": "head", "+": "residual"},
        "in>n n>h0 n>h1 h0>attention h1>attention n>mlp in>+ attention>+ mlp>+ +>out",
    ),
    # Two embeddings read by the first norm and by the first join.
    "embeddings": lambda: _graph(
        ENDS
        | {"n": "norm", "+": "residual", "++": "residual", "n2": "norm"}
        | {f"h{i}": "head" for i in range(12)},
        "in>wte wte>n wpe>n wte>+ wpe>+ "
        + " ".join(f"n>h{i} h{i}>attention" for i in range(12))
        + " attention>+ +>n2 n2>mlp mlp>++ +>++ ++>out",
    ),
    # Experts read what the gate reads, and the gate.
    "experts": lambda: _graph(
        ENDS | {"model.layers.0.post_attention_layernorm": "norm", "+": "residual"},
        "in>model.layers.0.post_attention_layernorm in>+ experts>+ gate>experts "
        "model.layers.0.post_attention_layernorm>gate bias>gate "
        "model.layers.0.post_attention_layernorm>experts +>out",
    ),
    # A shortcut of two calls beside a branch of four.
    "shortcut": lambda: _graph(
        ENDS | {"+": "residual", "s2": "norm", "b2": "norm", "b4": "norm"},
        "in>b1 b1>b2 b2>b3 b3>b4 b4>+ in>s1 s1>s2 s2>+ +>out",
    ),
    # Every convolution reads all before it.
    "dense": lambda: _graph(ENDS, "in>a in>b in>c a>b a>c b>c a>d b>d c>d d>out"),
    # Long skips from the way down to the way up.
    "u-net": lambda: _graph(ENDS, "in>a a>b b>c c>d d>e e>out b>d a>e in>out"),
    # Branches of unequal length that read one another.
    "branches": lambda: _graph(
        ENDS | {"+": "residual"},
        "in>a a>b b>c c>d in>e e>f f>+ d>+ in>+ a>d b>f e>d +>out",
    ),
    "encoder": lambda: records.encoder().flow,
    "pre-norm": lambda: records.encoder(3, 8, post=False).flow,
    "wide": lambda: records.encoder(2, 70, post=False).flow,
    "cnn": lambda: records.cnn().flow,
    "chain": lambda: records.chain().flow,
    "encoder-decoder": lambda: records.encoder_decoder().flow,
    "hostile": lambda: records.hostile().flow,
}


@pytest.fixture(scope="module", params=BUILT)
def flow(request) -> FlowData:
    return BUILT[request.param]()


def _rectangles(layout: Layout) -> dict[str, drawing.Rectangle]:
    return {
        name: (b.x - b.width / 2, b.y - b.height / 2, b.x + b.width / 2, b.y + b.height / 2)
        for name, b in layout.boxes.items()
    }


def test_every_node_has_a_place_of_its_own_inside_the_drawing(flow):
    layout = lay_out(flow)
    boxes = _rectangles(layout)
    assert set(boxes) == {n.id for n in flow.nodes}
    assert drawing.overlapping(boxes) == []
    for left, top, right, bottom in boxes.values():
        assert left >= 0
        assert top >= 0
        assert right <= layout.width
        assert bottom <= layout.height


def test_data_runs_downwards(flow):
    layout = lay_out(flow)
    upward = [
        (e.source, e.target)
        for e in layout.edges
        if layout.boxes[e.source].row > layout.boxes[e.target].row
    ]
    assert len(upward) <= 1  # the hostile graph has one cycle; the others have none


def test_no_line_runs_through_a_box(flow):
    layout = lay_out(flow)
    boxes = _rectangles(layout)
    route = router(layout)
    wrong = [
        (edge.source, edge.target, name)
        for edge in layout.edges
        for segment in drawing.segments(route(edge))
        for name, box in boxes.items()
        if name not in (edge.source, edge.target) and drawing.crosses(segment, box)
    ]
    assert wrong == []


def test_lines_begin_and_end_at_their_boxes(flow):
    layout = lay_out(flow)
    boxes = _rectangles(layout)
    route = router(layout)
    for edge in layout.edges:
        path = drawing.segments(route(edge))
        for name, (x, y) in ((edge.source, path[0][0]), (edge.target, path[-1][1])):
            left, top, right, bottom = boxes[name]
            assert left - 1 <= x <= right + 1
            assert top - 1 <= y <= bottom + 1


@pytest.mark.parametrize("seed", range(25))
def test_any_graph_is_laid_out_without_overlaps(seed):
    generator = random.Random(seed)
    kinds = ["linear", "residual", "norm", "head", "attention", "conv"]
    names = [f"n{i}" for i in range(generator.randint(1, 40))]
    nodes = tuple(GraphNode(id=n, kind=generator.choice(kinds)) for n in names)
    edges = tuple(
        GraphEdge(source=generator.choice(names), target=generator.choice(names))
        for _ in range(generator.randint(0, 90))
    )
    flow = FlowData(nodes=nodes, edges=edges)
    layout = lay_out(flow)
    assert set(layout.boxes) == set(names)
    assert drawing.overlapping(_rectangles(layout)) == []
    ElementTree.fromstring(flow_svg(flow))


def test_heads_stand_side_by_side_and_the_stream_is_straight():
    layout = lay_out(records.encoder().flow)
    for layer in range(6):
        heads = [layout.boxes[f"encoder.layer.{layer}/head.{h}"] for h in range(12)]
        assert len({h.y for h in heads}) == 1
        assert [h.x for h in heads] == sorted(h.x for h in heads)
    joins = [b for b in layout.boxes.values() if b.node.kind in ("residual", "norm")]
    assert len({b.x for b in joins}) == 1
    assert [band.layer for band in layout.bands] == list(range(6))
    tops = [(band.top, band.bottom) for band in layout.bands]
    assert all(a[1] <= b[0] for a, b in pairwise(tops))


def test_many_heads_are_broken_into_lines():
    layout = lay_out(BUILT["wide"]())
    heads = [b for b in layout.boxes.values() if b.node.kind == "head" and b.node.id[14] == "0"]
    lines = [sum(b.y == y for b in heads) for y in sorted({b.y for b in heads})]
    assert lines == [32, 32, 6]


def test_the_stream_takes_the_short_way():
    order = order_flow(BUILT["shortcut"]())
    assert order.spine == {"in", "s1", "s2", "+", "out"}


def test_a_position_embedding_is_not_the_stream():
    order = order_flow(BUILT["embeddings"]())
    assert order.spine == {"in", "wte", "+", "++", "out"}


def test_names_beside_small_marks_are_not_drawn_over(flow):
    boxes = _rectangles(lay_out(flow))
    drawn = ElementTree.fromstring(flow_svg(flow))
    group = next(g for g in drawn.iter() if g.get("class") == "minor")
    for text in group:
        width = 5.0 * len(text.text or "")
        x, y = float(text.get("x")), float(text.get("y"))
        left = x if text.get("text-anchor") == "start" else x - width
        name = {"name": (left, y - 7, left + width, y)}
        assert drawing.overlapping(boxes | name) == [], text.text


def test_encoder_and_decoder_have_a_lane_each():
    order = order_flow(records.encoder_decoder().flow)
    lanes = {name: order.lane[name] for name in order.nodes}
    assert {lane for name, lane in lanes.items() if name.startswith("encoder")} == {0}
    assert {lane for name, lane in lanes.items() if name.startswith("decoder")} == {1}


def test_a_side_input_stands_where_it_is_used():
    nodes = ["input", "a", "b", "c", "output", "mask"]
    edges = [("input", "a"), ("a", "b"), ("b", "c"), ("c", "output"), ("mask", "c")]
    flow = FlowData(
        nodes=tuple(GraphNode(id=n, kind="linear") for n in nodes),
        edges=tuple(GraphEdge(source=s, target=t) for s, t in edges),
    )
    order = order_flow(flow)
    assert order.row["mask"] == order.row["b"]
    assert set(order.lane.values()) == {0}
    assert "mask" not in order.spine


def test_odd_graphs_are_drawn():
    loop = FlowData(
        nodes=(GraphNode(id="a", kind="mlp"), GraphNode(id="b", kind="mlp"),
               GraphNode(id="alone", kind="mlp")),
        edges=(GraphEdge(source="a", target="b"), GraphEdge(source="b", target="a"),
               GraphEdge(source="a", target="a"), GraphEdge(source="a", target="missing")),
    )  # fmt: skip
    drawn = ElementTree.fromstring(flow_svg(loop))
    assert len(drawn.findall(".//{*}g[@class='boxes']/{*}rect")) == 3
    assert len(drawn.findall(".//{*}path[@stroke-width]")) <= 2
    assert flow_svg(FlowData()) == ""
    assert flow_svg(loop, detail=Detail(max_nodes=2)) == ""


def test_the_drawing_is_well_formed_and_complete(flow):
    drawn = ElementTree.fromstring(flow_svg(flow))
    shapes = drawn.findall(".//{*}g[@class='boxes']/{*}rect")
    marks = [*drawn.findall(".//{*}g[@class='marks']/{*}rect"),
             *drawn.findall(".//{*}g[@class='marks']/{*}circle")]  # fmt: skip
    assert len(shapes) + len(marks) == len(flow.nodes)
    assert all(shape.find("{*}title") is not None for shape in (*shapes, *marks))
    edges = [p for g in drawn.findall("./{*}g") if "edges" in g.get("class", "")
             for p in g.findall("{*}path")]  # fmt: skip
    assert len(edges) == len(lay_out(flow).edges)
    assert all(edge.find("{*}title") is not None for edge in edges)
    known = {"svg", "g", "path", "rect", "circle", "text", "title"}
    assert {element.tag.rpartition("}")[2] for element in drawn.iter()} <= known
    for element in drawn.iter():
        assert not any(
            name.startswith("on") or name in ("href", "style") for name in element.attrib
        )


def test_tooltips_hold_every_number():
    record = records.encoder(2, 4)
    drawn = ElementTree.fromstring(flow_svg(record.flow, record.components))
    titles = [t.text or "" for t in drawn.iter("{http://www.w3.org/2000/svg}title")]
    head = next(t for t in titles if t.startswith("encoder.layer.1/head.2\n"))
    node = next(n for n in record.flow.nodes if n.id == "encoder.layer.1/head.2")
    assert all(f"{name}: " in head for name in node.attributes)
    edge = next(t for t in titles if t.startswith("encoder.layer.1/head.2 → "))
    assert all(f"{name}: " in edge for name in ("bytes", "share", "attribution", "capacity"))


def _edge_paths(flow: FlowData, **options) -> dict[str, ElementTree.Element]:
    drawn = ElementTree.fromstring(flow_svg(flow, **options))
    return {
        (path.find("{*}title").text or "").split("\n")[0]: path
        for path in drawn.iter("{http://www.w3.org/2000/svg}path")
        if path.find("{*}title") is not None and "→" in (path.find("{*}title").text or "")
    }


def test_width_is_the_share_and_colour_the_sign():
    record = records.encoder(2, 4)
    paths = _edge_paths(record.flow)
    edge = next(e for e in record.flow.edges if e.target == "encoder.layer.1/residual.2")
    path = paths[f"{edge.source} → {edge.target}"]
    assert float(path.get("stroke-width")) == pytest.approx(8 * edge.attributes["share"], rel=0.06)
    assert float(path.get("data-s")) == pytest.approx(edge.attributes["share"], rel=0.01)
    drawn = ElementTree.fromstring(flow_svg(record.flow))
    for kind, wanted in (("positive", lambda a: a > 0), ("negative", lambda a: a < 0)):
        group = next(g for g in drawn.iter() if g.get("class") == f"edges {kind}")
        count = sum(wanted(e.attributes["attribution"]) for e in record.flow.edges)
        assert len(group.findall("{*}path")) == count


def test_an_even_split_is_not_drawn_as_a_measured_share():
    nodes = tuple(GraphNode(id=n, kind="mlp") for n in "abc")
    edges = tuple(
        GraphEdge(source=s, target="c", attributes={"share": 0.5, "share_basis": "even split"})
        for s in "ab"
    )
    for path in _edge_paths(FlowData(nodes=nodes, edges=edges)).values():
        assert path.get("stroke-width") is None  # the hairline of its group


def test_an_edge_into_a_head_is_hidden_with_the_head():
    record = records.encoder(2, 4)
    paths = _edge_paths(record.flow)
    into = next(p for name, p in paths.items() if name.endswith("→ encoder.layer.0/head.3"))
    out = next(p for name, p in paths.items() if name.startswith("encoder.layer.0/head.3 →"))
    assert into.get("data-s") == out.get("data-s")


def test_critical_paths_and_removed_heads_are_marked():
    record = records.encoder()
    gone = removed(record)
    critical = critical_paths(record)
    drawn = flow_svg(record.flow, record.components, critical=critical, removed=gone)
    assert drawn.count("<title>critical path, information</title>") == 1
    assert drawn.count("<title>critical path, latency</title>") == 1
    strikes = re.search(r'<g class="gone".*?</g>', drawn).group()
    assert strikes.count("<path") == len(gone) == 5
    assert drawn.count("accepted for removal") == 5
    unknown = CriticalPath(kind="information", nodes=("nobody", "nothing"))
    assert "critical path" not in flow_svg(record.flow, critical=[unknown])


def test_heads_may_be_left_out():
    flow = records.encoder(2, 4).flow
    collapsed = collapse_heads(flow)
    assert not [n for n in collapsed.nodes if n.kind == "head"]
    assert any(
        e.source == "embeddings.LayerNorm" and e.target == "encoder.layer.0/attention"
        for e in collapsed.edges
    )
    assert len({(e.source, e.target) for e in collapsed.edges}) == len(collapsed.edges)


def test_polyline_keeps_its_ends_and_does_not_drift():
    points = [(0.04, 0.0), (0.04, 13.3), (107.7, 13.3), (107.7, 40.15)]
    path = drawing.segments(polyline(points))
    assert path[0][0] == pytest.approx((0.04, 0.0), abs=0.06)
    assert path[-1][1] == pytest.approx((107.7, 40.15), abs=0.06)
    assert drawing.segments(polyline([(5.0, 5.0), (5.0, 5.0)]))[-1][1] == (5.0, 5.0)
