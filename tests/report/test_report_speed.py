"""What a measurement of speed-ups shows, in a terminal and as a page."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from zsei.records import Failure, Measurement, StageResult, Verdict
from zsei.report import speed_html, speed_text
from zsei.report.speed_files import save_speed
from zsei.report.speed_rows import rows, times
from zsei.report.speed_svg import speed_svg
from zsei.speed.record import Combination, PartTime, SpeedRecord, SpeedSettings, Trial
from zsei.speedups import Step
from zsei.timing.interval import Interval

EVIL = '<script>alert(1)</script>"&\x1b[31m\u202e'


def trial(
    name: str, speed: float | None, outcome: str = "accepted", *, exact: bool = True
) -> Trial:
    body = {
        "id": name, "steps": (Step(speedup=name),), "exact": exact,
        "verdict": {
            "proposal_id": name, "outcome": outcome, "reason": f"{outcome}: faster: as it is",
            "stages": (StageResult(stage="faster", outcome="passed", detail=name),),
        },
        "measurements": (
            Measurement(name="relative_difference", value=2e-7, n=32),
            Measurement(name="divergence", value=1e-4, unit="1 - cos", n=32),
            Measurement(name="mean_cosine", value=0.9999, n=32),
            Measurement(name="baseline_peak_bytes", value=4096.0, unit="bytes"),
            Measurement(name="peak_bytes", value=1024.0, unit="bytes"),
            Measurement(name="prepare_seconds", value=1.5, unit="s"),
        ),
    }  # fmt: skip
    interval = None if speed is None else spread(speed)
    body["verdict"] = Verdict.model_validate(body["verdict"])
    return Trial.model_validate({**body, "speed_up": interval, "seconds": interval})


def spread(at: float) -> Interval:
    return Interval(median=at, low=at * 0.9, high=at * 1.1, n=11)


def record(*, name: str = "demo:minilm", accepted: bool = True) -> SpeedRecord:
    alone = (
        trial("threads", 0.8, "rejected"),
        trial("lower-precision", 2.1, exact=False),
        trial("padding", 1.8),
        trial("int8", None, "failed"),
    )
    whole = trial("together-all", 3.0, exact=False)
    together = Combination(
        trial=whole,
        order=(Step(speedup="lower-precision"), Step(speedup="padding")),
        left_out=(Failure(stage="together", what="compile", why=f"slower {name}"),),
        product=3.78,
        parts=(
            PartTime(component="encoder.layer.0/mlp", baseline=0.02, predicted=0.005,
                     combined=0.007),
            PartTime(component="(rest)", baseline=0.001, predicted=0.0009, combined=None),
        ),
        explanation="Multiplied, the 2 single speed-ups would claim 3.78 times.",
    )  # fmt: skip
    settings = SpeedSettings(
        model=name, model_hash="0" * 64, device="cpu", steps=together.order, speed_up=spread(3.0)
    )
    return SpeedRecord(
        id="s-1", model=name, model_class="BertModel", model_hash="0" * 64, parameters=10,
        versions={"zsei": "0.1.0"}, seed=0, objective="fidelity", metric="1 - cos",
        safety="moderate", device="cpu", device_name="A processor", threads=2, samples=32,
        batch_size=16, lengths=(5, 9, 30), baseline=spread(0.5), alone=alone,
        together=together if accepted else None, settings=settings if accepted else None,
        refused=(Failure(stage="alone", what="channels-last", why="no convolution"),),
        command="zsei speed demo:minilm", created="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


class Page(HTMLParser):
    """Text, tags and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(found: SpeedRecord, width: int = 160) -> str:
    stream = io.StringIO()
    speed_text.summary(found, Console(file=stream, width=width))
    return stream.getvalue()


def test_accepted_ones_come_first_and_the_fastest_first() -> None:
    assert [r.name for r in rows(record())] == ["lower-precision", "padding", "threads", "int8"]


def test_an_exact_trial_shows_its_difference_and_another_its_divergence() -> None:
    found = {r.name: r for r in rows(record())}
    assert found["padding"].moved == "2.00e-7 largest"
    assert found["lower-precision"].moved == "cosine 0.99990"
    assert found["padding"].memory == "1 KiB, 4x less"
    assert times(found["int8"].speed) == "not timed"


@pytest.mark.parametrize("view", [shown, speed_html.render], ids=["terminal", "page"])
def test_the_product_is_called_no_measurement(view: object) -> None:
    text = view(record())  # type: ignore[operator]
    text = Page(text).text if text.startswith("<!DOCTYPE") else text
    assert "3.78" in text
    assert re.search(r"no measurement", text)
    assert "3.00 (2.70 to 3.30)" in text


def test_both_views_hold_every_trial_what_was_refused_and_what_was_left_out() -> None:
    for text in (shown(record()), Page(speed_html.render(record())).text):
        for words in (
            "lower-precision", "padding", "threads", "int8", "channels-last", "no convolution",
            "compile", "would claim 3.78 times", "encoder.layer.0/mlp",
        ):  # fmt: skip
            assert words in text


def test_nothing_accepted_is_said() -> None:
    page = Page(speed_html.render(record(accepted=False)))
    assert "Nothing was accepted" in page.text
    assert "Together" not in page.text
    assert "Together" not in shown(record(accepted=False))


def test_the_page_loads_nothing_runs_nothing_and_escapes_what_it_is_told() -> None:
    page = Page(speed_html.render(record(name=EVIL)))
    assert "script" not in page.tags
    assert not [a for a, _ in page.attributes if a in ("src", "style") or a.startswith("on")]
    assert {v for a, v in page.attributes if a == "href"} == {"#main"}
    policy = next(v for a, v in page.attributes if a == "content" and v and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "\x1b" not in page.text
    assert "\x1b" not in shown(record(name=EVIL))


def test_the_chart_draws_each_interval_where_it_lies() -> None:
    drawn = speed_svg(record())
    lines = re.findall(r'class="spread" x1="([\d.]+)" x2="([\d.]+)"', drawn)
    dots = re.findall(r'class="median" cx="([\d.]+)"', drawn)
    ticks = dict(
        (float(value), float(x))
        for x, value in re.findall(r'<text x="([\d.]+)" y="12"[^>]*>([\d.]+)x<', drawn)
    )
    unit = ticks[1.0] - ticks[0.0]
    expected = [2.1, 1.8, 0.8, 3.0]
    assert len(dots) == len(expected)
    for at, (low, high), dot in zip(expected, lines, dots, strict=True):
        assert (float(dot) - ticks[0.0]) / unit == pytest.approx(at, abs=0.01)
        assert (float(low) - ticks[0.0]) / unit == pytest.approx(at * 0.9, abs=0.01)
        assert (float(high) - ticks[0.0]) / unit == pytest.approx(at * 1.1, abs=0.01)
    assert drawn.count("product of the single speed-ups") == 1


def test_a_record_with_nothing_timed_draws_nothing() -> None:
    empty = record(accepted=False).model_copy(update={"alone": (trial("int8", None, "failed"),)})
    assert speed_svg(empty) == ""
    assert "int8" in Page(speed_html.render(empty)).text


def test_the_files_are_the_settings_the_record_and_the_page(tmp_path: Path) -> None:
    written = save_speed(record(), tmp_path / "out")
    assert {p.name for p in written.values()} == {"speed.json", "speed-record.json", "speed.html"}
    assert SpeedRecord.model_validate_json(written["record"].read_text()) == record()
    assert json.loads(written["settings"].read_text())["steps"][0]["speedup"] == "lower-precision"
    assert "settings" not in save_speed(record(accepted=False), tmp_path / "none")
