"""Rounds, objections, what was struck out, in every view; fifty strangers' texts in all fields."""

import re
from html.parser import HTMLParser
from io import StringIO

import pytest
import report_records as records
from rich.console import Console

from tests.hostile import HOSTILE
from zsei.records import (
    AnalysisRecord,
    Component,
    Finding,
    Interpretation,
    Objection,
    Proposal,
    Round,
    Verdict,
)
from zsei.report import details, html, notebook, terminal
from zsei.report.rounds import counted, turns
from zsei.report.text import clean, one_line

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200b\ufeff]")


def on_screen(draw, width: int = 100) -> str:
    file = StringIO()
    draw(Console(file=file, width=width, force_terminal=False, color_system=None))
    return file.getvalue()


class Words(HTMLParser):
    """The tags of a page and the texts of its elements, as a browser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.data: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.data.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.data).split())


def test_a_row_says_who_tried_what_and_what_came_of_it() -> None:
    first, second = turns(records.encoder())
    assert (first.number, first.who, first.tried) == (1, "rules", 2)
    assert (first.accepted, first.rejected, first.other, first.gain) == (1, 1, 0, "4.1 %")
    assert second.who == "gpt-4o"
    assert second.other == second.tried > 0
    none = records.encoder(rounds=(Round(number=1, voice="rules"),))
    assert turns(none)[0].gain == "–"


def test_struck_statements_and_objections_are_counted() -> None:
    assert counted(records.encoder()) == "2 statements struck out, 3 objections"
    assert counted(records.encoder(objections=())) == "2 statements struck out"
    assert counted(records.chain()) == ""


def test_the_page_shows_rounds_and_objections_beside_what_they_are_about() -> None:
    record = records.encoder()
    page = html.render(record)
    text = Words(page).text
    for words in (
        "round proposed by tried accepted rejected other gain so far",
        "1 rules 2 1 1 0 4.1 %",
        "2 language model gpt-4o",
        "2 statements struck out, 3 objections",
        "Objection of critic, language model gpt-4o",
    ):
        assert words.replace(" ", "") in text.replace(" ", ""), words
    for held in record.objections:
        assert held.kind in text
    # Beside what it is about: between its heading and that of the next one.
    articles = page.split('<article class="proposal"')
    (mine,) = [a for a in articles if record.proposals[1].id in a and "It was refused with" in a]
    assert "tried before" in mine
    (found,) = [a for a in page.split('<article class="finding"') if "too few to confirm" in a]
    assert record.findings[1].id in found
    (said,) = [s for s in page.split('<div class="said">') if "No finding says that one" in s]
    assert "Nine pairs of heads" in said


def test_the_terminal_shows_rounds_objections_and_what_was_struck() -> None:
    record = records.encoder()
    text = on_screen(lambda console: terminal.summary(record, console), 120)
    assert "2 statements struck out, 3 objections" in text
    assert "must stay. (objection: not supported)" in " ".join(text.split())
    (first,) = [line for line in text.splitlines() if re.match(r"\s+1  rules", line)]
    assert first.split() == ["1", "rules", "2", "1", "1", "0", "4.1", "%"]
    assert re.search(r"2  gpt-4o +\d+ +0 +0 +\d+ +4.1 %", text)
    text = " ".join(on_screen(lambda console: details.everything(record, console), 160).split())
    assert "objection (too few samples) of critic, rules: The samples were" in text
    assert "objection (tried before) of critic, gpt-4o: It was refused with less." in text
    many = tuple(Round(number=n, voice="m", gain=n / 100) for n in range(1, 30))
    text = on_screen(lambda console: terminal.summary(records.encoder(rounds=many), console), 120)
    assert len(text.splitlines()) <= 45
    assert "1.0 %" in text
    assert "29.0 %" in text


def test_without_turns_to_tell_of_there_is_no_table() -> None:
    alone = records.encoder(rounds=records.encoder().rounds[:1])
    assert "gain so far" not in on_screen(lambda console: terminal.summary(alone, console))
    assert "gain so far" not in html.render(records.chain())


def test_a_notebook_shows_them_too() -> None:
    text = Words(notebook.record_html(records.encoder())).text
    for words in ("2 statements struck out, 3 objections", "tried before: It was refused",
                  "round"):  # fmt: skip
        assert words in text
    assert "1rules2110" in text.replace(" ", "")


@pytest.fixture(scope="module")
def strangers() -> AnalysisRecord:
    """Each of the fifty texts as name of a component, finding, interpretation, objection, ..."""
    base = records.encoder(2, 4)
    parts = tuple(Component(id=text, kind="mlp", path=text, parameters=1) for text in HOSTILE)
    findings = tuple(
        Finding.make(code=text, components=(text,), severity=0.5, evidence=(), message=text)
        for text in HOSTILE
    )
    proposals = tuple(
        Proposal.make(
            strategy=text[:60], components=(text,), rationale=text, source=text, priority=place
        )
        for place, text in enumerate(HOSTILE)
    )
    said = tuple(
        Interpretation(id=f"i-{place}", agent=text, voice=text, finding_ids=(), text=text, struck=1)
        for place, text in enumerate(HOSTILE)
    )
    return base.model_copy(
        update={
            "provenance": base.provenance.model_copy(update={"model": " ".join(HOSTILE[:49])}),
            "components": (*base.components, *parts),
            "findings": findings,
            "interpretations": said,
            "objections": tuple(
                Objection(about=about.id, kind="risk", agent=text, voice=text, text=text)
                for text, *things in zip(HOSTILE, findings, proposals, said, strict=True)
                for about in things
            ),
            "proposals": proposals,
            "verdicts": tuple(
                Verdict(proposal_id=p.id, outcome="rejected", reason=text)
                for p, text in zip(proposals, HOSTILE, strict=True)
            ),
            "combined": None,
            "rounds": tuple(
                Round(number=n, voice=text, proposal_ids=(proposals[n - 1].id,))
                for n, text in enumerate(HOSTILE, 1)
            ),
        }
    )


def test_strangers_texts_reach_the_page_as_text(strangers: AnalysisRecord) -> None:
    page = html.render(strangers)
    plain, parsed = Words(html.render(records.encoder(2, 4))), Words(page)
    assert set(parsed.tags) <= {*plain.tags, ("a", ("href",)), ("article", ("class", "id"))}
    assert not CONTROLS.search(page)
    for text in HOSTILE[:-1]:
        shown = " ".join(clean(text).split())
        assert parsed.text.count(shown) >= 2, text
    for fragment in (notebook.record_html(strangers), notebook.finding_html(strangers.findings[0])):
        assert not CONTROLS.search(fragment)
        tags = {tag for tag, _ in Words(fragment).tags}
        assert tags <= {"div", "span", "ul", "li", "table", "thead", "tbody", "tr", "th", "td",
                        "code", "br", "strong"}  # fmt: skip


def test_strangers_texts_reach_the_terminal_as_text(strangers: AnalysisRecord) -> None:
    for draw in (terminal.summary, details.everything):
        text = on_screen(lambda console, draw=draw: draw(strangers, console), 4500)
        assert not CONTROLS.search(text)
        if draw is details.everything:
            words = " ".join(text.split())
            for stranger in HOSTILE[:-1]:
                assert words.count(one_line(stranger)) >= 3, stranger
    file = StringIO()
    coloured = Console(file=file, width=120, force_terminal=True, color_system="standard")
    details.everything(strangers, coloured)
    codes = set(re.findall("\x1b[^m]{0,20}m?", file.getvalue()))
    assert all(re.fullmatch(r"\x1b\[[\d;]*m", code) for code in codes), codes
