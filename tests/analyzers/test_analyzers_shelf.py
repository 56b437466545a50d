"""The shelf itself: documentation, order, and analyzers that break."""

import inspect
import re
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest
from prepared import analysed, family

import zsei.analyzers
from zsei.analyzers import ANALYZERS, Analysis, Analyzer, explain, run_analyzers
from zsei.errors import UsageError
from zsei.records import Finding
from zsei.resources import load_cards
from zsei.settings import Settings

HEADINGS = ("Measures:", "Formula:", "Reading it:", "Misleads when:", "References:")


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analysed(family("mlp"))


@pytest.mark.parametrize("analyzer", ANALYZERS, ids=lambda a: a.code)
def test_an_analyzer_explains_itself(analyzer: Analyzer) -> None:
    text = inspect.getdoc(type(analyzer)) or ""
    places = [text.index(heading) for heading in HEADINGS]
    assert places == sorted(places)
    assert re.search(r"\b(19|20)\d\d\b", text.partition("References:")[2])
    assert explain(analyzer.code) == text


@pytest.mark.parametrize("analyzer", ANALYZERS, ids=lambda a: a.code)
def test_an_analyzer_is_a_frozen_dataclass_in_a_file_of_its_own(analyzer: Analyzer) -> None:
    source = Path(inspect.getsourcefile(type(analyzer)) or "")
    assert source.stem == analyzer.code.replace("-", "_")
    assert fields(analyzer)
    with pytest.raises(FrozenInstanceError):
        setattr(analyzer, fields(analyzer)[0].name, 0)
    text = source.read_text()
    for threshold in fields(analyzer):
        documented = rf'    {threshold.name}: [^\n]*\n    """'
        assert re.search(documented, text), f"{threshold.name} has no documentation"


def test_codes_are_unique_and_every_file_is_on_the_shelf() -> None:
    codes = [analyzer.code for analyzer in ANALYZERS]
    assert len(codes) == len(set(codes))
    folder = Path(zsei.analyzers.__file__).parent
    written = {p.stem for p in folder.glob("*.py") if "code: ClassVar[str] =" in p.read_text()}
    assert written == {code.replace("-", "_") for code in codes}


def test_only_findings_in_time_rest_on_the_clock() -> None:
    timed = {"time-bottleneck", "critical-path-latency", "roofline"}
    assert {a.code for a in ANALYZERS if a.clock} == timed


def test_every_code_has_a_knowledge_card() -> None:
    cards = load_cards(Settings()).knowledge
    for analyzer in ANALYZERS:
        assert cards[analyzer.code].kind == "finding"


def test_an_unknown_code_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"one of .*dead-units.*, but got 'dead'"):
        explain("dead")


@dataclass(frozen=True)
class Fixed:
    """Finds what it is given, then perhaps breaks."""

    code: ClassVar[str] = "fixed"
    clock: ClassVar[bool] = False
    findings: tuple[Finding, ...] = ()
    error: type[BaseException] | None = None

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        yield from self.findings
        if self.error is not None:
            raise self.error("broken")


@dataclass(frozen=True)
class Timed(Fixed):
    clock: ClassVar[bool] = True


def _finding(number: int) -> Finding:
    return Finding.make(
        code="fixed", components=("a",), severity=0.5, evidence=(), message=f"Number {number}."
    )


def test_findings_keep_the_order_of_the_shelf(analysis: Analysis) -> None:
    one, two, three = (_finding(n) for n in range(3))
    shelf = (Fixed(findings=(two, one)), Timed(findings=(one,)), Fixed(findings=(three,)))
    assert run_analyzers(analysis, shelf) == ((two, one, three), (one,), ())


def test_an_analyzer_that_breaks_costs_its_own_findings_only(analysis: Analysis) -> None:
    one, two = _finding(1), _finding(2)
    shelf = (Fixed(findings=(one,), error=ZeroDivisionError), Fixed(findings=(two,)))
    found, timed, failures = run_analyzers(analysis, shelf)
    assert (found, timed) == ((two,), ())
    [failure] = failures
    assert failure.stage == "analyze"
    assert "fixed" in failure.what
    assert failure.why == "ZeroDivisionError: broken"


def test_an_interrupt_passes_through(analysis: Analysis) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_analyzers(analysis, (Fixed(error=KeyboardInterrupt),))
