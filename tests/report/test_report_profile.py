"""What a profile shows: terminal, page and drawings, from records made by hand, hostile too."""

import base64
import hashlib
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import report_records
from hostile import HOSTILE
from rich.console import Console

from zsei.profiling.costs import Cost
from zsei.profiling.memory import Held
from zsei.profiling.parts import calls_of, parts_of
from zsei.profiling.record import Growth, MemoryUse, ProfileRecord, Roof
from zsei.report import html, profile_html, profile_text
from zsei.report.profile_files import save_profile
from zsei.report.profile_svg import HEIGHT, LEFT, RIGHT, WIDTH, memory_svg, roofline_svg
from zsei.timing.interval import Interval

ROOF = Roof(dtype="float32", peak=1e10, bandwidth=1e9, ridge=10.0)
EXPONENT = Interval(median=1.9, low=1.7, high=2.1, n=6)


def a_record(name: str = "encoder", *, told: bool = True) -> ProfileRecord:
    rows = (
        ("linear", f"{name}.0/mlp", 0.6, 3 * 10**9, 10**7, 1000),
        ("softmax", f"{name}.0/attention", 0.25, 0, 10**8, 5000),
        ("matmul", f"{name}.0/attention", 0.08, 10**8, 10**8, 3000),
        ("add", f"{name}.0/residual", 0.04, 0, 10**6, 2000),
    )
    costs = [
        Cost(name=f"{name}_{op}", operation=op, component=c, flops=f, moved=m, written=m // 2)
        for op, c, _, f, m, _ in rows
    ]
    seconds = np.array([[row[2] for row in rows]] * 3)
    memory = [Held(alive=row[5], held=row[5] + 500) for row in rows] if told else None
    calls = calls_of(costs, seconds, memory)
    kinds = {f"{name}.0/{kind}": kind for kind in ("mlp", "attention", "residual")}
    growth = (
        Growth(over="length", measure="seconds", sizes=(16, 32, 64), values=(0.1, 0.4, 1.4),
               at="4 samples", exponent=EXPONENT, kinds={"attention": 2.0, "mlp": 1.0}),
        Growth(over="batch", measure="bytes", note=f"Could not tell: {name}."),
    )  # fmt: skip
    use = MemoryUse(parameters=4000, inputs=100)
    if told:
        use = MemoryUse(
            parameters=4000, inputs=100, alive=5000, alive_call=f"{name}_softmax", held=5500,
            held_call=f"{name}_softmax", component=f"{name}.0/attention",
        )  # fmt: skip
    return ProfileRecord(
        id="0123456789ab", model=name, model_class=name, model_hash="00", parameters=1000,
        versions={"zsei": "0"}, seed=0, device="cpu", device_name=name, threads=1,
        fidelity="program", inputs={name: (8, 16)}, batch_size=8, length=16, rounds=3,
        whole=Interval(median=1.0, low=0.9, high=1.1, n=3),
        sum_of_parts=Interval(median=0.97, low=0.96, high=0.99, n=3),
        parts=parts_of(calls, seconds, {k: k for k in kinds}, kinds, ROOF),
        kinds=parts_of(calls, seconds, kinds, {k: k for k in kinds.values()}, ROOF),
        calls=calls, roof=ROOF, memory=use, growth=growth, forwards=11.2, notes=(name,),
        command=f"zsei profile {name}",
    )  # fmt: skip


def shown(record: ProfileRecord, top: int = 12) -> str:
    stream = io.StringIO()
    profile_text.summary(record, Console(file=stream, width=100), top)
    return stream.getvalue()


class Page(HTMLParser):
    """Tags with their attributes, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))


def test_the_terminal_shows_hot_spots_roofline_memory_and_growth() -> None:
    text = shown(a_record())
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "61.9 %" in rows["encoder.0/mlp"]
    assert "now" in rows["encoder.0/mlp"]
    # 3e9 operations at 1e10 a second: at least 0.3 s, and it took 0.6.
    assert "50 % compute" in rows["encoder.0/mlp"]
    # 2e8 bytes at 1e9 a second: at least 0.2 s, and both calls took 0.33.
    assert "61 % memory" in rows["encoder.0/attention"]
    assert "not worth it" in rows["encoder.0/residual"]
    assert "0.970 times" in text
    assert "11.2 forwards" in text
    assert "in the call encoder_softmax" in text
    assert "exponent 1.90 (1.70 to 2.10)" in text
    assert "attention grows fastest (2.00)" in text
    assert "Could not tell: encoder." in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_what_is_left_out_of_a_table_is_counted() -> None:
    assert "2 more components; --top shows them." in shown(a_record(), top=1)
    assert "more" not in shown(a_record(), top=12)


def test_memory_that_was_not_told_is_said() -> None:
    record = a_record(told=False)
    assert "What is alive during a forward could not be told." in shown(record)
    assert "could not be told" in memory_svg(record)
    assert "could not be told" in profile_html.render(record)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_stay_text(text: str) -> None:
    record = a_record(text)
    page = profile_html.render(record)
    plain = Page(profile_html.render(a_record()))
    assert {tag for tag, _ in Page(page).tags} == {tag for tag, _ in plain.tags}
    unsafe = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
    assert not re.search(unsafe, page)
    assert not re.search(unsafe, shown(record))
    for drawing in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(drawing)


def test_the_page_loads_nothing_and_names_its_style_by_hash() -> None:
    page = profile_html.render(a_record())
    found = Page(page)
    policy = next(a["content"] for tag, a in found.tags if "http-equiv" in a and tag == "meta")
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in style.group(1)
    tags = {tag for tag, _ in found.tags}
    assert tags.isdisjoint({"script", "link", "img", "iframe"})
    assert not any(
        name in attributes for _, attributes in found.tags for name in ("src", "style", "onload")
    )
    for words in ("encoder.0/mlp", "61.9 %", "Roofline and memory", "exponent 1.90", "11.2"):
        assert words in page


def test_every_component_that_multiplies_is_a_dot_under_its_ceiling() -> None:
    drawing = ElementTree.fromstring(roofline_svg(a_record()))
    dots = {
        (circle.find("title").text or "").split(":")[0]: circle  # type: ignore[union-attr]
        for circle in drawing.iter("circle")
    }
    assert set(dots) == {"encoder.0/mlp", "encoder.0/attention"}
    roof = next(path for path in drawing.iter("path") if path.get("class") == "roof").get("d")
    top = float(re.findall(r"[-\d.]+", roof or "")[3])
    mlp, attention = dots["encoder.0/mlp"], dots["encoder.0/attention"]
    # Below the peak, by the same factor of two on a logarithmic axis as in the numbers.
    assert float(mlp.get("cy") or 0) > top
    assert float(mlp.get("cx") or 0) > float(attention.get("cx") or 0)
    areas = [float(circle.get("r") or 0) ** 2 for circle in (mlp, attention)]
    assert areas[0] / areas[1] == pytest.approx(0.6 / 0.33, rel=0.03)
    for circle in dots.values():
        assert LEFT <= float(circle.get("cx") or 0) <= WIDTH - RIGHT
        assert 0 <= float(circle.get("cy") or 0) <= HEIGHT


def test_without_a_peak_there_is_no_roofline() -> None:
    record = a_record().model_copy(
        update={"roof": Roof(dtype="float64", peak=None, bandwidth=1.0, ridge=None)}
    )
    assert "Could not be drawn" in roofline_svg(record)


def test_the_timeline_peaks_at_the_call_that_is_named() -> None:
    drawing = ElementTree.fromstring(memory_svg(a_record()))
    lines = {line.get("class"): line.get("points") or "" for line in drawing.iter("polyline")}
    assert set(lines) == {"alive", "held"}
    heights = [float(point.split(",")[1]) for point in lines["held"].split()]
    peak = next(c for c in drawing.iter("circle") if c.get("class") == "peak")
    assert float(peak.get("cy") or 0) == min(heights) == heights[1]
    assert "encoder_softmax" in (peak.find("title").text or "")  # type: ignore[union-attr]


def test_the_line_of_a_growth_has_its_exponent() -> None:
    record = a_record()
    chart = profile_html.growth_chart(record.growth[0])
    assert chart is not None
    measured, line = chart.curves
    assert [x for x, _ in measured.points] == [16, 32, 64]
    (first, low), (last, high) = line.points[0], line.points[-1]
    assert low
    assert high
    assert np.log(high / low) / np.log(last / first) == pytest.approx(1.9)
    # The least-squares line goes through the mean of the logarithms.
    logs = [np.log([y for _, y in c.points if y]).mean() for c in (measured, line)]
    assert logs[0] == pytest.approx(logs[1])
    assert profile_html.growth_chart(record.growth[1]) is None


def test_files_and_displays_of_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = a_record()
    written = save_profile(record, tmp_path / "new" / "folder")
    assert set(written) == {"record", "trace", "report"}
    assert ProfileRecord.model_validate_json(written["record"].read_text()) == record
    record.show()
    assert "Hot spots" in capsys.readouterr().out
    assert "<script>" not in a_record("<script>")._repr_html_()


def test_the_report_of_an_analysis_shows_the_profile_it_holds() -> None:
    plain = report_records.encoder()
    profile = a_record("<b>encoder").model_dump(mode="json")
    timings = plain.timings.model_copy(update={"profile": profile})
    page = html.render(plain.model_copy(update={"timings": timings}))
    assert "&lt;b&gt;encoder.0/mlp" in page
    assert "<b>encoder" not in page
    for words in ("61.9 %", 'svg class="curve run roofline"', "exponent 1.90"):
        assert words in page
        assert words not in html.render(plain)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    assert ".roofline" in style.group(1)
    digest = base64.b64encode(hashlib.sha256(style.group(1).encode()).digest()).decode()
    assert f"sha256-{digest}" in page
