"""What the terminal shows."""

import re
from io import StringIO

import pytest
import report_records as records
from rich.cells import cell_len
from rich.console import Console

from zsei.records import Answer, Citation
from zsei.report import terminal

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def _shown(draw, width: int = 100) -> str:
    file = StringIO()
    draw(Console(file=file, width=width, force_terminal=False, color_system=None))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize(
    "name", ["encoder", "monster", "cnn", "chain", "hostile", "encoder_decoder"]
)
def test_the_summary_is_short_and_fits(name, width):
    record = getattr(records, name)() if name != "monster" else records.encoder(12, 16)
    text = _shown(lambda console: terminal.summary(record, console), width)
    lines = text.splitlines()
    assert len(lines) <= 45
    assert max(map(cell_len, lines)) <= width
    assert not CONTROLS.search(text)
    for title in ("What matters", "Findings (", "Proposals ("):
        assert title in text


def test_the_summary_holds_what_counts():
    text = _shown(lambda console: terminal.summary(records.encoder(), console), 120)
    for words in (
        "demo:minilm", "22.7 M parameters", "redundant-heads", "critical-path-latency (clock)",
        "accepted", "0.981", "≥ 0.95", "rejected", "0.231", "≤ 0.15", "inconclusive",
        "heads by sensitivity", "validated", "0.88", "analysis 27.5 s", "struck out: 2",
        "words by gpt-4o, rules, no language model", "gpt-4o: ", "no answer within 60 s",
    ):  # fmt: skip
        assert words in text, words


def test_square_brackets_are_no_markup():
    text = _shown(lambda console: terminal.everything(records.hostile(), console))
    assert "[bold red]not markup[/bold red]" in text
    assert not CONTROLS.search(text)


def test_colour_comes_only_from_outcomes_and_titles():
    file = StringIO()
    console = Console(file=file, width=100, force_terminal=True, color_system="standard")
    terminal.summary(records.hostile(), console)
    assert "\x1b[31mred" not in file.getvalue()  # the name's own escape code is spelled out
    assert "\\u001b[31mred" in file.getvalue()


def test_a_finding_and_a_proposal_whole():
    record = records.encoder()
    text = _shown(lambda console: terminal.finding(record.findings[1], console))
    assert record.findings[1].id in text
    assert "± 0.0004, n = 64" in text
    text = _shown(lambda console: terminal.proposal(record, record.proposals[0], console))
    for words in (
        "prune-heads",
        "accepted",
        "limit 0.12",
        "-2.6 %",
        "gradients",
        "latency (clock)",
    ):
        assert words in text, words


def test_rows_of_any_keys():
    rows = [
        {"run": "r-1", "model": "[b]a[/b]", "share": 0.25, "n": 3},
        {"run": "r-2", "share": 0.5, "accepted": True},
    ]
    text = _shown(lambda console: terminal.runs(rows, console))
    header, first, second = text.splitlines()
    assert header.split() == ["run", "model", "share", "n", "accepted"]
    assert first.split() == ["r-1", "[b]a[/b]", "0.2500", "3", "–"]
    assert second.split() == ["r-2", "–", "0.5000", "–", "True"]
    assert "nothing found" in _shown(lambda console: terminal.runs([], console))
    many = _shown(lambda console: terminal.runs([{"a": i} for i in range(250)], console))
    assert "50 more rows" in many


def test_an_answer_names_its_sources_and_its_voice():
    answer = Answer(
        question="?", text="Layer 2 is [red]redundant[/red].", rows=({"run": "r-1", "tau": 0.88},),
        citations=(Citation(run="r-1", finding="f-9", text="turns the stream by 0.03"),),
        searched=1,
    )  # fmt: skip
    text = _shown(lambda console: terminal.answer(answer, console))
    assert "Layer 2 is [red]redundant[/red]." in text
    assert "[1] r-1 f-9  turns the stream by 0.03" in text
    assert "rules, 1 analysis searched" in text
    other = answer.model_copy(update={"searched": 2, "among": "measurements"})
    told = _shown(lambda console: terminal.answer(other, console))
    assert "rules, 2 measurements searched" in told
