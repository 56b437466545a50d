"""How records show themselves in a notebook."""

import re
from xml.etree import ElementTree

import pytest
import report_records as records

from zsei.records import FlowData, GraphNode
from zsei.report import notebook


def _fragments(record) -> dict[str, str]:
    found = {"record": notebook.record_html(record), "graph": notebook.graph_html(record.flow)}
    if record.findings:
        found["finding"] = notebook.finding_html(record.findings[0])
    if record.verdicts:
        found["verdict"] = notebook.verdict_html(record.verdicts[0])
    return found


@pytest.mark.parametrize("name", ["encoder", "cnn", "chain", "hostile"])
def test_fragments_leak_nothing(name):
    for fragment in _fragments(getattr(records, name)()).values():
        root = ElementTree.fromstring(fragment)  # one well-formed element
        for element in root.iter():
            tag = element.tag.rpartition("}")[2]
            assert tag not in {"script", "style", "link", "img", "iframe"}
            assert "id" not in element.attrib
            assert not [a for a in element.attrib if a.startswith("on") or a in ("src", "href")]
            assert "url(" not in element.get("style", "")


def test_hostile_text_is_escaped_and_clipped():
    for fragment in _fragments(records.hostile()).values():
        assert "<script" not in fragment
        assert "onerror=" not in re.sub("&lt;.*?&gt;", "", fragment)
        assert "x" * 2000 not in fragment
        assert "\u202e" not in fragment


def test_a_record_says_what_it_found():
    html = notebook.record_html(records.encoder())
    for words in (
        "What matters",
        "redundant-heads",
        "prune-heads",
        "accepted",
        "exceeds the limit",
    ):
        assert words in html


def test_a_verdict_shows_bound_and_limit():
    html = notebook.verdict_html(records.encoder().verdicts[1])
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", html))
    assert "divergence_upper 0.231 (1 - cos) 0.15 outside" in text


def test_the_types_show_themselves():
    record = records.encoder(2, 4)
    assert record._repr_html_() == notebook.record_html(record)
    assert record.findings[0]._repr_html_() == notebook.finding_html(record.findings[0])
    assert record.verdicts[0]._repr_html_() == notebook.verdict_html(record.verdicts[0])


def test_text_fallbacks():
    record = records.encoder(2, 4)
    assert "What matters" in notebook.record_text(record)
    assert notebook.graph_text(record.flow).startswith("Flow graph, 24 nodes (2 attention, ")
    assert record.findings[0].id in notebook.finding_text(record.findings[0])
    assert "limit 0.15" in notebook.verdict_text(record.verdicts[1])


def test_a_graph_too_large_to_draw_is_named():
    nodes = tuple(GraphNode(id=f"n{i}", kind="mlp") for i in range(notebook.GRAPH.max_nodes + 1))
    assert "too many to draw" in notebook.graph_html(FlowData(nodes=nodes))
    assert "<svg" not in notebook.graph_html(FlowData())
