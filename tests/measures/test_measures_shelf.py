"""What holds for every measure on the shelf."""

import inspect

import pytest
from factories import FAMILIES
from prepared import SMALL, family

from zsei.errors import UsageError
from zsei.measures import MEASURES, Measure, explain
from zsei.resources import load_cards
from zsei.settings import Settings
from zsei.trace.engine import engine_for
from zsei.trace.run import trace
from zsei.trace.summary import Trace

HEADINGS = ("Measures:", "Formula:", "Reading it:", "Misleads when:", "References:")


@pytest.fixture(scope="module", params=FAMILIES)
def traced(request: pytest.FixtureRequest) -> Trace:
    subject = family(request.param)
    return trace(subject, SMALL, engine=engine_for(subject), measures=MEASURES)


def test_none_breaks(traced: Trace) -> None:
    assert traced.failures == ()


def test_every_name_is_explained(traced: Trace) -> None:
    known = load_cards(Settings()).metrics
    names = {m.name for named in traced.measurements.values() for m in named.values()}
    names |= {m.name for g in traced.groups.values() for found in g.values() for m in found}
    assert names | {m.name for m in traced.matrices} <= known.keys()


def test_matrices_are_whole(traced: Trace) -> None:
    for matrix in traced.matrices:
        assert len(matrix.values) == len(matrix.rows)
        assert {len(row) for row in matrix.values} == {len(matrix.columns)}


@pytest.mark.parametrize("measure", MEASURES, ids=lambda m: m.name)
def test_docstrings_have_their_headings_in_order(measure: Measure) -> None:
    text = inspect.getdoc(type(measure)) or ""
    places = [text.find(heading) for heading in HEADINGS]
    assert -1 not in places
    assert places == sorted(places)
    assert explain(measure.name) == text


def test_an_unknown_measure_is_named() -> None:
    with pytest.raises(UsageError, match="nonsense"):
        explain("nonsense")
