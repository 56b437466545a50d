"""What a prune shows: terminal and page, from records made by hand, hostile ones too."""

import io
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from zsei.pruning.outlook import Foreseen, Outlook
from zsei.pruning.records import Budget, Point, PruneRecord, Taken
from zsei.records import Measurement, Verdict
from zsei.report import pruning, pruning_html
from zsei.report.pruning_svg import curve_svg
from zsei.settings import LIMITS

HOSTILE = '<script>alert("x")</script>\x1b[31m[bold]'


def a_record(accepted: bool = True, name: str = "demo:minilm") -> PruneRecord:
    sizes = [(1.0, 1.0, 0.0), (0.9, 0.8, 0.01), (0.8, 0.65, 0.04)]
    points = tuple(
        Point(
            number=n, variant="as predicted", repair="least squares", parameters=left, flops=flops,
            predicted=0.5 * drop, loss=drop, drop=drop,
            measured=(Measurement(name="divergence", value=drop, n=32),),
            taken=()
            if n == 0
            else (Taken(component=f"{name}/mlp", kind="neuron", units=tuple(range(n)), of=8),),
        )
        for n, (left, flops, drop) in enumerate(sizes)
    )  # fmt: skip
    bound = Measurement(name="divergence", value=0.045, note="limit 0.05, measured 0.04", n=64)
    verdicts = (
        Verdict(proposal_id="p", outcome="rejected", reason=f"rejected: {name}", bounds=(bound,)),
        Verdict(proposal_id="q", outcome="accepted", reason="accepted: 10 % fewer parameters"),
    )
    return PruneRecord(
        id="0123456789ab", model=name, model_class="Net", model_hash="00", parameters=1000,
        versions={"zsei": "0"}, seed=0, budget=Budget(max_drop=0.05), safety="moderate",
        objective="fidelity", metric="1 - cos", kinds=("neurons",),
        samples={"fit": 96, "choose": 32, "judge": 128}, points=points,
        tried=(2, 1) if accepted else (2,), verdicts=verdicts if accepted else verdicts[:1],
        accepted=1 if accepted else None, refusal="" if accepted else "Nothing is changed: why.",
        refused={f"{name}.gate": "it is split"}, notes=("a note",),
        latency={"1": (0.75, 0.7, 0.8), "2": (0.1, 0.05, 9.0)},
    )  # fmt: skip


def shown(record: PruneRecord | Outlook) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=100)
    show = pruning.outlook if isinstance(record, Outlook) else pruning.summary
    show(record, console)  # type: ignore[arg-type]
    return stream.getvalue()


def test_the_terminal_shows_curve_choice_and_verdict() -> None:
    text = shown(a_record())
    rows = {line.split()[0]: line for line in text.splitlines() if "repair" in line or ">" in line}
    chosen = next(line for line in text.splitlines() if line.strip().startswith("> 1"))
    for words in ("90.0 %", "80.0 %", "75.0 %", "0.01", "accepted"):
        assert words in chosen
    assert "unclear" in rows["2"]  # an interval that holds 1 is no time
    assert "rejected" in rows["2"]
    assert "1 of 8" in text
    assert "limit: 0.05" in text
    assert "1,000 parameters became 900" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_the_limit_is_the_one_the_gate_named() -> None:
    record = a_record()
    assert pruning.limit_of(record) == 0.05
    by_level = record.model_copy(update={"budget": Budget(parameters=0.8)})
    bound = Measurement(name="divergence", value=0.01, note="limit 0.07", n=64)
    verdict = record.verdicts[0].model_copy(update={"bounds": (bound,)})
    named = by_level.model_copy(update={"verdicts": (verdict, record.verdicts[1])})
    assert pruning.limit_of(named) == 0.07
    untried = by_level.model_copy(update={"verdicts": (), "tried": ()})
    assert pruning.limit_of(untried) == LIMITS["channels"]["moderate"][1]


def test_a_refused_prune_shows_what_was_tried_last() -> None:
    text = shown(a_record(accepted=False))
    assert "What was tried last" in text
    assert "2 of 8" in text
    assert "0.045" in text
    assert "became" not in text


def test_a_look_ahead_says_that_nothing_was_cut() -> None:
    record = a_record()
    points = tuple(
        Foreseen(parameters=p.parameters, flops=p.flops, predicted=p.predicted, taken=p.taken)
        for p in record.points[1:]
    )
    text = shown(
        Outlook(
            model="m", model_class="Net", parameters=1000, budget=Budget(flops=0.7),
            metric="1 - cos", kinds=("neurons",), points=points, reached=True,
        )
    )  # fmt: skip
    for words in ("nothing is cut", "80.0 %", "65.0 %", "0.02", "2 of 8"):
        assert words in text


@pytest.mark.parametrize("accepted", [True, False])
def test_the_curve_is_drawn_to_scale(accepted: bool) -> None:
    drawing = ElementTree.fromstring(str(curve_svg(a_record(accepted))))
    dots = [e for e in drawing.iter("circle") if e.get("class") == "parameters"]
    x = [float(dot.get("cx", "nan")) for dot in dots]
    y = [float(dot.get("cy", "nan")) for dot in dots]
    assert x == sorted(x)  # the largest model stands at the left
    assert y == sorted(y, reverse=True)  # more loss stands higher
    assert (x[1] - x[0]) == pytest.approx(x[2] - x[1], abs=0.2)  # 100 %, 90 %, 80 %
    assert (y[0] - y[2]) == pytest.approx(4 * (y[0] - y[1]), abs=0.6)  # 0, 0.01, 0.04
    limit = next(e for e in drawing.iter("line") if e.get("class") == "limit")
    assert y[0] - float(limit.get("y1", "nan")) == pytest.approx(5 * (y[0] - y[1]), abs=0.6)
    ringed = [e for e in drawing.iter("circle") if e.get("class") == "accepted"]
    assert len(ringed) == accepted
    assert len(list(drawing.iter("rect"))) == 1  # of two times one says something


class Page(HTMLParser):
    """Tags that are open, and those that could load or run something."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.foreign: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "rect", "line", "circle", "path", "polyline"):
            self.open.append(tag)
        names = {name for name, _ in attrs}
        if tag in ("script", "img", "link", "iframe") or names & {"src", "onclick", "style"}:
            self.foreign.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            assert self.open.pop() == tag


@pytest.mark.parametrize("accepted", [True, False])
def test_the_page_stands_alone_and_runs_nothing(accepted: bool) -> None:
    page = pruning_html.render(a_record(accepted, HOSTILE))
    parsed = Page()
    parsed.feed(page)
    assert parsed.open == []
    assert parsed.foreign == []
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    assert "\x1b" not in page
    assert "alert(&#34;x&#34;)" in page
    assert ("Nothing is changed: why." in page) is not accepted
    assert page.count('class="chosen"') == accepted


def test_a_smaller_cut_that_was_accepted_is_too_large_only_where_a_size_was_asked_for() -> None:
    record = a_record()
    other = record.model_copy(update={"accepted": None})
    point = other.points[1]
    assert pruning.mark(other, point) == "accepted"
    asked = other.model_copy(update={"budget": Budget(parameters=0.5)})
    assert pruning.mark(asked, point) == "too large"
    assert pruning.mark(asked, other.points[2]) == "rejected"
