"""The page and the table of claims: what is told, and that no text can break out."""

import io
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
from claims.claims_records import GONE, HELD, LOST, OPEN, PRODUCT, outcome, record
from rich.console import Console

from zsei.records import Failure
from zsei.report import claims_html, claims_text
from zsei.report.claims_svg import WIDTH, claim_bar
from zsei.speedups.speedup import Step

EVIL = '<script>alert(1)</script>\x1b[31m [bold]"&'


class Reader(HTMLParser):
    """Tags and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def test_the_page_tells_quote_claim_measurement_and_verdict_of_each() -> None:
    page = claims_html.render(record(HELD, LOST, OPEN, GONE, PRODUCT))
    text = " ".join(" ".join(read(page).words).split())
    for words in (
        "2 held, 1 not held, 1 not decided, 1 not measurable here", "2 to 4 times", "page 3",
        "2 to 4 x", "at least 5000 x",
        "250 x less", "attention-backend", "this machine has 2 cores",
        "product of parts", "78.75", "no measurement", "onnx-runtime does not count",
        "held, more than claimed", "zsei claims it.yaml --only faster", "Planted processor",
        "99.0 %", "20 rounds",
    ):  # fmt: skip
        assert words in text, words


def test_the_page_loads_and_runs_nothing_whatever_a_file_says() -> None:
    wild = outcome(id="a", quote=EVIL, source=EVIL, reason=EVIL, command=EVIL,
                   steps=(Step(speedup=EVIL, params={"a": EVIL}),),
                   left_out=(Failure(stage="refused", what=EVIL, why=EVIL),))  # fmt: skip
    page = claims_html.render(record(wild).model_copy(update={"title": EVIL, "model": EVIL}))
    tags = read(page).tags
    assert "script" not in tags
    assert not {"img", "link", "iframe", "object", "form"} & set(tags)
    assert "\x1b" not in page
    assert "default-src 'none'" in unescape(page)


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    path = claims_html.write(record(HELD), tmp_path / "claims.html")
    assert path.read_text().endswith("</html>\n") or path.read_text().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["claims.html"]


def rectangles(drawing: str) -> list[tuple[str, float, float]]:
    """(class, x, width) of each rectangle."""
    found = []
    for tag in re.findall(r"<rect [^>]*>", drawing):
        said = dict(re.findall(r'(\w+)="([^"]*)"', tag))
        found.append((said["class"], float(said.get("x", 0)), float(said["width"])))
    return found


def test_bar_band_and_limits_stand_where_the_numbers_are() -> None:
    drawn = rectangles(str(claim_bar(HELD)))
    scale = WIDTH / (4.0 * 1.12)  # the largest number drawn is the upper end of the claim
    bar = next(width for kind, _, width in drawn if kind == "good")
    assert bar == pytest.approx(3.0 * scale, abs=0.1)
    _, x, width = next(one for one in drawn if one[0] == "band")
    assert (x, width) == (pytest.approx(2 * scale, abs=0.1), pytest.approx(2 * scale, abs=0.1))
    limits = [x + 1 for kind, x, _ in drawn if kind == "limit"]
    assert limits == [pytest.approx(2 * scale, abs=0.1), pytest.approx(4 * scale, abs=0.1)]


def test_a_claim_without_an_upper_end_is_a_band_that_goes_on() -> None:
    drawn = rectangles(str(claim_bar(LOST)))
    _, x, width = next(one for one in drawn if one[0] == "band")
    assert x + width == pytest.approx(WIDTH, abs=0.2)
    assert any(kind == "bad" for kind, _, _ in drawn)


@pytest.mark.parametrize("value", [0.0, -20.0])
def test_nothing_and_less_than_nothing_are_drawn_as_nothing(value: float) -> None:
    drawn = rectangles(str(claim_bar(outcome(value=value, verdict="not held"))))
    assert next(width for kind, _, width in drawn if kind == "bad") == 0
    assert str(claim_bar(GONE)) == ""


def test_the_table_in_a_terminal_tells_each_claim_on_a_line() -> None:
    out = io.StringIO()
    claims_text.summary(
        record(HELD, LOST, OPEN, GONE, PRODUCT), Console(file=out, width=120, color_system=None)
    )
    lines = out.getvalue().splitlines()
    row = next(line for line in lines if line.strip().startswith("smaller "))
    assert re.search(r"not held +at least 5000 x +250 x", row)
    assert any("held, more than claimed" in line for line in lines)
    assert any("2 held, 1 not held, 1 not decided, 1 not measurable here" in x for x in lines)
    assert any("left out: onnx-runtime" in line for line in lines)


def test_no_text_of_a_file_styles_the_terminal() -> None:
    out = io.StringIO()
    wild = outcome(quote=EVIL, reason=EVIL, command=EVIL)
    claims_text.summary(record(wild), Console(file=out, width=120, color_system=None))
    assert "\x1b" not in out.getvalue()
    assert "[bold]" in out.getvalue()
