"""The page of a training run: what is drawn is what was measured, and nothing runs or loads."""

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from report_records import chain

from zsei.cli import main
from zsei.errors import UsageError
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Checkpoint, Component, Failure, Finding, Measurement
from zsei.report.curves_svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Band,
    Chart,
    Curve,
    Mark,
    curves_svg,
    ticks,
)
from zsei.report.html import render
from zsei.report.run_page import RUN, charts, curves_page, findings_of, run_page, write_run

HOSTILE = '"><script>alert(1)</script>&'


def run_of(epochs: int = 12, name: str = "gpt") -> list[AnalysisRecord]:
    base = chain()
    layers = [
        Component(id=f"h.{i}{HOSTILE if i == 1 else ''}", kind="layer", path="", layer=i)
        for i in range(3)
    ]
    records = []
    for epoch in range(1, epochs + 1):
        left = 1000 - (100 if 4 <= epoch < 8 else 0)
        found: dict[str, tuple[Measurement, ...]] = {
            c.id: (
                Measurement(name="importance_share", value=0.1 * (i + 1) + epoch / 100)
                if epoch != 6
                else Measurement(name="importance_share", value=None, state="could not tell"),
                Measurement(name="gradient_rms", value=0.1 / epoch),
            )
            for i, c in enumerate(layers)
        }
        found[RUN] = (
            Measurement(name="training_loss", value=3 / epoch),
            Measurement(name="sparsity_wanted", value=epoch / 100,
                        note="preparation" if epoch <= 5 else "conservative"),
            Measurement(name="sparsity_real", value=1 - left / 1000),
            Measurement(name="parameters_left", value=left),
        )  # fmt: skip
        records.append(
            base.model_copy(
                update={
                    "id": f"r-{name}-{epoch}",
                    "provenance": base.provenance.model_copy(
                        update={"checkpoint": Checkpoint(run=name, epoch=epoch)}
                    ),
                    "components": tuple(layers),
                    "measurements": found,
                    "findings": (dying(epoch),) if epoch >= 9 else (),
                    "failures": (fallback(),) if epoch == 10 else (),
                    "proposals": (), "verdicts": (), "combined": None, "rounds": (),
                }
            )
        )  # fmt: skip
    return records


def dying(epoch: int) -> Finding:
    return Finding.make(
        code="component-dying", components=("h.1",), severity=0.5,
        evidence=(Measurement(name="turned_units", value=2, n=epoch),),
        message=f"Neurons of {HOSTILE} do next to nothing any more.",
    )  # fmt: skip


def fallback() -> Failure:
    return Failure(stage="fallback", what="the analysis fell back", why=f"too slow {HOSTILE}")


def pixels(svg: str) -> list[list[tuple[float, float]]]:
    """Points of each piece of each line, in the units of the drawing."""
    return [
        [(float(a), float(b)) for a, b in (p.split(",") for p in points.split())]
        for points in re.findall(r'<polyline points="([^"]*)"', svg)
    ]


def test_lines_lie_where_their_numbers_are() -> None:
    curve = Curve(name="x", points=((0, 10.0), (5, 20.0), (10, 15.0)))
    (line,) = pixels(str(curves_svg(Chart(title="t", curves=(curve,)))))
    across = WIDTH - LEFT - RIGHT
    assert [x for x, _ in line] == pytest.approx([LEFT, LEFT + across / 2, LEFT + across], abs=0.1)
    low, high = 10 - 0.6, 20 + 0.6  # the range, and six hundredths of it on both sides
    room = HEIGHT - TOP - BOTTOM
    wanted = [TOP + (high - y) / (high - low) * room for y in (10, 20, 15)]
    assert [y for _, y in line] == pytest.approx(wanted, abs=0.1)


def test_what_was_not_measured_is_a_gap_and_no_zero() -> None:
    points = ((1, 1.0), (2, 1.1), (3, None), (4, 1.2), (5, 1.1), (6, None), (7, 1.0))
    svg = str(curves_svg(Chart(title="t", curves=(Curve(name="x", points=points),))))
    assert [len(piece) for piece in pixels(svg)] == [2, 2]
    assert svg.count("<circle cx=") == 1  # the point between gaps
    empty = curves_svg(Chart(title="t", curves=(Curve(name="x", points=((1, None),)),)))
    assert "Not measured" in empty


def test_a_logarithmic_axis_draws_powers_evenly_and_leaves_out_zero() -> None:
    points = ((1, 1.0), (2, 0.1), (3, 0.01), (4, 0.0))
    chart = Chart(title="t", curves=(Curve(name="x", points=points),), logarithmic=True)
    (line,) = pixels(str(curves_svg(chart)))
    assert len(line) == 3
    assert line[1][1] - line[0][1] == pytest.approx(line[2][1] - line[1][1], abs=0.2)


def test_one_value_and_equal_values_can_be_drawn() -> None:
    for points in (((3, 5.0),), ((1, 5.0), (2, 5.0)), ((1, 0.0), (2, 0.0))):
        svg = curves_svg(Chart(title="t", curves=(Curve(name="x", points=points),)))
        ElementTree.fromstring(svg)


@pytest.mark.parametrize(("least", "most"), [(0, 1), (0.013, 0.027), (1, 150), (-5, 1e6)])
def test_ticks_are_round_and_inside(least: float, most: float) -> None:
    found = ticks(least, most)
    assert 2 <= len(found) <= 8
    assert least - 1e-9 <= found[0] < found[-1] <= most * (1 + 1e-9)
    steps = {round(b - a, 9) for a, b in pairwise(found)}
    assert len(steps) == 1


def test_many_lines_differ_in_colour_or_pattern() -> None:
    curves = tuple(Curve(name=str(i), points=((1, 1.0), (2, 2.0))) for i in range(24))
    assert len(Chart(title="t", curves=curves).legend) == 24
    seeds = tuple(Curve(name="with", like=0, points=()) for _ in range(3))
    assert Chart(title="t", curves=seeds).legend == (("c0 d0", "with"),)


def test_everything_on_the_page_is_escaped_and_nothing_runs() -> None:
    page = run_page(run_of())
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3
    assert "default-src &#39;none&#39;" in page
    assert "http" not in page.replace("http-equiv", "")
    for svg in re.findall(r"<svg class=\"curve.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_series_phases_cuts_and_rollbacks_are_those_of_the_records() -> None:
    records = run_of()
    drawn = {c.title: c for c in charts([(i + 1, r) for i, r in enumerate(records)])}
    layers = drawn["Importance of layers"].curves
    assert layers[0].name == "h.0"
    assert layers[0].points[5] == (6, None)
    assert layers[2].points[0][1] == pytest.approx(0.31)
    loss = drawn["Loss of the training run"]
    assert loss.curves[0].points[2] == (3, 1.0)
    assert [(b.first, b.last, b.name) for b in loss.bands] == [
        (1, 5, "preparation"), (6, 12, "conservative"),
    ]  # fmt: skip
    assert [(m.epoch, m.kind) for m in loss.marks] == [
        (4, "cut"), (8, "rollback"), (10, "fallback"),
    ]  # fmt: skip
    (said,) = findings_of([(i + 1, r) for i, r in enumerate(records)])
    assert (said.first, said.last, said.times) == (9, 12, 4)
    assert "Accuracy of the training run" not in drawn


def test_a_page_is_of_one_run() -> None:
    with pytest.raises(UsageError, match="got those of cnn, gpt"):
        run_page([*run_of(2), *run_of(2, "cnn")])
    with pytest.raises(UsageError, match="got those of none"):
        run_page([chain()])
    with pytest.raises(UsageError, match="got those of nothing"):
        run_page([])


def test_curves_of_several_runs_share_a_page() -> None:
    curve = Curve(name="with", points=((1, 1.0), (2, 0.5)))
    chart = Chart(title="Loss", curves=(curve,), bands=(Band(first=1, last=2, name="moderate"),),
                  marks=(Mark(epoch=2, kind="cut", text="went"),))  # fmt: skip
    page = curves_page(f"Runs {HOSTILE}", [chart], lead="three seeds")
    assert "three seeds" in page
    assert "cut at epoch 2: went" in page
    assert "<script" not in page


def test_a_report_says_where_in_a_run_it_stands() -> None:
    assert "gpt, epoch 3" in render(run_of(3)[-1])
    assert "Training run" not in render(chain())


def test_the_command_lists_runs_and_writes_the_page_of_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZSEI_HOME", str(tmp_path / "home"))
    memory = Memory(tmp_path / "home")
    records = run_of(4)
    for record in records:
        memory.add(record)
    assert main(["runs"]) == 0
    assert re.search(r"gpt\s.*4\s+1\s+4", capsys.readouterr().out)
    assert main(["runs", "gpt", "--out", str(tmp_path / "pages")]) == 0
    written = (tmp_path / "pages" / "gpt.html").read_text()
    assert written == run_page(records) == write_run(records, tmp_path / "x.html").read_text()
    capsys.readouterr()
    assert main(["runs", "gpd"]) == 2
    assert "No training run is called 'gpd'; known: gpt" in capsys.readouterr().err
    assert main(["runs", "--out", str(tmp_path)]) == 2
