"""The HTML report: self-contained, escaped, complete, small, and the same on every run."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
import report_records as records

from zsei.errors import OutputError
from zsei.records import Component, FlowData, GraphEdge, GraphNode
from zsei.report import html

VOID = {"meta", "input", "br", "link", "img", "hr"}
BUILT = ("encoder", "cnn", "chain", "encoder_decoder", "hostile")
LIMIT = 2_000_000


class Page(HTMLParser):
    """A page as a list of elements; unbalanced tags are an error."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.text.setdefault(tag, []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.elements if name == tag]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return {name: html.render(getattr(records, name)()) for name in (*BUILT, "monster")}


@pytest.mark.parametrize("name", [*BUILT, "monster"])
def test_the_page_is_balanced_and_small(pages, name):
    page = pages[name]
    Page(page)
    assert page.startswith("<!DOCTYPE html>")
    assert len(page.encode()) < LIMIT


@pytest.mark.parametrize("name", [*BUILT, "monster"])
def test_nothing_could_be_loaded_or_sent(pages, name):
    page = Page(pages[name])
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert "unsafe" not in policy
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "img", "iframe", "object", "embed", "base", "image", "use", "a:href"}
    for tag, attributes in page.elements:
        assert "src" not in attributes
        assert "style" not in attributes
        assert not [a for a in attributes if a.startswith("on")], (tag, attributes)
        if "href" in attributes:
            assert attributes["href"].startswith("#")
    style = "".join(page.text["style"])
    assert "url(" not in style
    assert "@import" not in style


@pytest.mark.parametrize("name", BUILT)
def test_the_policy_names_the_style_and_the_script_by_hash(pages, name):
    page = Page(pages[name])
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    for tag in ("style", "script"):
        source = re.search(rf"<{tag}>(.*?)</{tag}>", pages[name], re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert len(page.all(tag)) == 1


def test_hostile_text_stays_text(pages):
    page = pages["hostile"]
    parsed = Page(page)
    plain = Page(pages["encoder"])
    assert {t for t, _ in parsed.elements} <= {t for t, _ in plain.elements}
    assert 'alert("x")' not in page
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page  # shown, not evaluated
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", page)
    assert "\\u202e" in page
    assert "x" * 5000 not in page


def test_titles_inside_the_drawing_are_escaped_too(pages):
    drawing = re.search(r'<svg class="flow".*?</svg>', pages["hostile"], re.DOTALL).group()
    assert "<script" not in drawing
    assert "<img" not in drawing
    assert "&lt;script&gt;" in drawing


@pytest.mark.parametrize("name", [*BUILT, "monster"])
def test_headings_go_down_one_step_at_a_time_and_anchors_exist(pages, name):
    page = Page(pages[name])
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert {a["href"][1:] for a in page.all("a")} <= set(ids)
    if name != "hostile":  # there one finding stands twice, once with a clock
        assert len(ids) == len(set(ids))
    for th in page.all("th"):
        assert th.get("scope") in ("col", "row")


def test_everything_of_the_record_is_there(pages):
    record = records.encoder()
    page = pages["encoder"]
    for finding in (*record.findings, *record.timings.findings):
        assert finding.id in page
    for proposal in record.proposals:
        assert proposal.id in page
    for words in (
        record.provenance.model, record.conditions.metric, "2026-03-14 09:26 UTC", "BertModel",
        "exported program", "Rules, no language model", "Language model gpt-4o",
        "2 statements struck out", "9f2c9f2c", "a1b2c3d4e5f6", "Half-split noise of the truth",
        "the language model did not answer", "not validated", "could not tell", "accepted",
        "rejected", "inconclusive", "All accepted together", "does not exclude 1", "seed",
        "output_difference", "1 of 2 numbers hold",
    ):  # fmt: skip
        assert words in page, words
    sections = [a["id"] for a in Page(page).all("section") if "id" in a]
    assert sections == [
        "summary", "flow", "importance", "layers", "maps", "edges", "groups", "findings",
        "proposals", "time", "components", "provenance", "failures",
    ]  # fmt: skip


def test_checks_stand_beside_what_they_tested(pages):
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", pages["encoder"]))
    assert "disagrees exact ablation: Ablating them together" in text
    assert "agrees instrumentation, exact ablation: Ablating them together" in text


def test_maps_edges_and_groups_are_shown(pages):
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", pages["encoder"]))
    assert "layer_similarity in CKA, n = 64; from 512 rows." in text
    assert 'class="none" title="encoder.layer.0, encoder.layer.1: –"' in pages["encoder"]
    assert "Writers and readers" in text
    assert "30 more in record.json" not in text  # all 60 pairs fit
    prose, code = (text.index(group, text.index("Data groups")) for group in ("prose", "code"))
    assert prose < code


def test_bounds_stand_beside_their_limits(pages):
    text = re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", pages["encoder"]))
    assert "divergence_upper 0.231 (1 - cos) ≤ 0.15 outside" in text
    assert "accuracy_kept 0.981 ≥ 0.95 inside" in text


def test_numbers_say_their_name_unit_n_and_spread(pages):
    page = Page(pages["encoder"])
    titles = [a.get("title") or "" for a in page.all("span")]
    assert "divergence_upper = 0.031 (1 - cos) (n = 64); limit 0.12" in titles
    assert any(t.startswith("quality = 0.981 agreement (± 0.02, n = 64)") for t in titles)


def test_a_model_without_heads_findings_or_clock_says_so(pages):
    for words in ("no attention heads", "No finding", "No change was proposed", "Nothing was timed",
                  "No score was checked"):  # fmt: skip
        assert words in pages["cnn"]
    assert "could not be exported" in pages["chain"]
    assert "Hide edges" not in re.sub("<form.*?</form>", "", pages["chain"], flags=re.DOTALL)


def test_the_same_record_gives_the_same_page(pages):
    assert html.render(records.encoder()) == pages["encoder"]


def test_a_large_page_says_what_it_leaves_out(pages):
    assert "The analysis is large" in pages["monster"]
    assert "The analysis is large" not in pages["encoder"]
    assert pages["monster"].count("encoder.layer.47/head.31") >= 3  # still drawn, with its numbers


def test_a_model_of_thirty_thousand_parts_still_fits():
    names = [f"layer.{i // 100}/head.{i % 100}" for i in range(30_000)]
    record = records.chain().model_copy(
        update={
            "components": tuple(
                Component(id=n, kind="head", path=n, layer=i // 100, index=i % 100,
                          parent=f"layer.{i // 100}/attention")
                for i, n in enumerate(names)
            ),
            "flow": FlowData(
                nodes=tuple(GraphNode(id=n, kind="head") for n in names),
                edges=tuple(GraphEdge(source=a, target=b)
                            for a, b in pairwise(names)),
            ),
        }
    )  # fmt: skip
    page = html.render(record)
    assert len(page.encode()) < LIMIT
    assert "too many to draw" in page
    Page(page)


def test_many_long_findings_fit():
    base = records.encoder(2, 4)
    finding = base.findings[0]
    many = tuple(
        finding.model_copy(update={"id": f"f-{i}", "code": f"c-{i % 300}", "message": "m" * 9000})
        for i in range(3000)
    )
    assert len(html.render(base.model_copy(update={"findings": many})).encode()) < LIMIT


def test_write_is_whole_or_nothing(tmp_path, monkeypatch):
    record = records.chain()
    target = tmp_path / "report.html"
    assert html.write(record, target) == target
    assert target.read_text(encoding="utf-8") == html.render(record)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(OutputError, match="exists and has room"):
        html.write(record, tmp_path / "missing" / "report.html")

    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    before = target.read_bytes()
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="No space left"):
        html.write(record, target)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(one: str, other: str) -> float:
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_is_legible_in_light_and_dark():
    style = (html.TEMPLATES / "report.css").read_text(encoding="utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(blocks) == 3  # light, dark, print
    for block in blocks:
        colors = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for name in ("ink", "muted", "link", "good", "bad", "open"):
            assert _contrast(colors[name], colors["paper"]) >= 4.5, (name, colors[name])
            assert _contrast(colors[name], colors["soft"]) >= 4.5, (name, colors[name])
        heat = re.search(r"--heat: (\d+) (\d+) (\d+)", block).groups()
        full = "#" + "".join(f"{int(c):02x}" for c in heat)
        assert _contrast("#ffffff", full) >= 4.5
