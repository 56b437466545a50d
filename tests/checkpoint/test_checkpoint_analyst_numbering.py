"""Histories are kept by the numbers a run began with."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles.renumbering import after, whole

from zsei.checkpoint.contracts import (
    AttentionHeadTarget,
    ChannelPruningTarget,
    LayerPruningTarget,
    SafetyValidation,
    StructuralPruningDecision,
)
from zsei.checkpoint.decide.numbering import (
    Cut,
    cut_of,
    original_key,
    original_names,
    original_place,
    original_row,
    smoothed,
)
from zsei.checkpoint.history.history import History, observe, tendency
from zsei.errors import DataError
from zsei.records import Component
from zsei.surgery.module_edit import ModuleEdit

PLACES = {"mlp|neuron": 5, "attention|head": 3}


@st.composite
def runs(draw: st.DrawFn) -> list[Cut]:
    """Some cuts, each of units and layers that are there when its turn comes."""
    steps: list[Cut] = []
    for _ in range(draw(st.integers(0, 4))):
        model = after(whole(4, PLACES), steps)
        units = {}
        for now, (_, places) in enumerate(model):
            for place, there in places.items():
                gone = draw(st.sets(st.integers(0, max(0, len(there) - 1)), max_size=2))
                if gone and len(gone) < len(there):
                    units[f"h.{now}/{place}"] = tuple(sorted(gone))
        layers = draw(st.sets(st.integers(0, len(model) - 1), max_size=1)) if len(model) > 1 else ()
        steps.append(
            Cut(units=units, layers=tuple(f"h.{n}" for n in layers), held=draw(st.booleans()))
        )
    return steps


@given(runs())
@settings(max_examples=60, deadline=None)
def test_units_keep_the_numbers_they_began_with(steps: list[Cut]) -> None:
    model = after(whole(4, PLACES), steps)
    for now, (first, places) in enumerate(model):
        for name, units in places.items():
            key = f"h.{now}/{name}"
            assert original_key(key, steps) == f"{first}/{name}"
            place = original_place(key, len(units), steps)
            assert place.key == f"{first}/{name}"
            assert place.units == PLACES[name]
            assert place.numbers.tolist() == [number for number, _ in units]
            assert place.held.tolist() == [held for _, held in units]


def test_a_row_never_moves_and_a_forgotten_cut_comes_alive_again() -> None:
    cuts = [Cut(units={"h.0/mlp|neuron": (1,)})]
    before, after_cut = original_place("h.0/mlp|neuron", 4, []), None
    history = observe(History(momentum=0.5), 1, {before.key: original_row(before, (1, 2, 3, 4))})
    after_cut = original_place("h.0/mlp|neuron", 3, cuts)
    row = original_row(after_cut, (10.0, None, 40.0))
    np.testing.assert_array_equal(row, [10, np.nan, np.nan, 40])
    history = observe(history, 2, {after_cut.key: row})
    mean = tendency(history, "h.0/mlp|neuron").mean
    assert smoothed(history, after_cut) == pytest.approx((mean[0], 3, mean[3]))
    assert smoothed(history, before) == pytest.approx((mean[0], 2, 3, mean[3]))
    history = observe(history, 3, {before.key: original_row(before, (1, 2, 3, 4))})
    assert smoothed(history, before)[1] == pytest.approx(2)


def test_what_is_held_at_zero_is_measured_by_nobody() -> None:
    place = original_place("h.0/mlp|neuron", 3, [Cut(units={"h.0/mlp|neuron": (1,)}, held=True)])
    np.testing.assert_array_equal(original_row(place, (1.0, 0.0, 3.0)), [1, np.nan, 3])
    history = observe(History(), 1, {place.key: np.array([1.0, 2.0, 3.0])})
    assert smoothed(history, place) == (1.0, None, 3.0)
    inside = original_place("h.2/mlp|neuron", 2, [Cut(units={}, layers=("h.2",), held=True)])
    assert inside.held.all()


def test_a_cut_that_does_not_fit_is_refused() -> None:
    with pytest.raises(DataError, match=r"had 3 of them and a cut names 7"):
        original_place("h.0/mlp|neuron", 2, [Cut(units={"h.0/mlp|neuron": (7,)})])


@pytest.mark.parametrize("name", ["h.10/mlp|neuron", "g.1/mlp|neuron", "h.1x|layer", "h|layer"])
def test_other_paths_are_left_alone(name: str) -> None:
    expected = {"h.10/mlp|neuron": "h.11/mlp|neuron"}.get(name, name)
    assert original_key(name, [Cut(units={}, layers=("h.1",))]) == expected


def test_components_get_their_first_names_back() -> None:
    cuts = [
        Cut(units={"h.1/attention|head": (0,)}),
        Cut(units={}, layers=("h.0",)),
    ]
    parts = [
        Component(id="h.0", kind="layer", path="h.0", layer=0),
        Component(id="h.0/attention", kind="attention", path="h.0.attn", layer=0, parent="h.0"),
        Component(id="h.0/head.0", kind="head", path="", layer=0, parent="h.0/attention", index=0),
        Component(id="h.0/head.1", kind="head", path="", layer=0, parent="h.0/attention", index=1),
        Component(id="lm_head", kind="linear", path="lm_head"),
    ]
    places = {"h.0/attention|head": original_place("h.0/attention|head", 2, cuts)}
    assert original_names(parts, places, cuts) == {
        "h.0": "h.1",
        "h.0/attention": "h.1/attention",
        "h.0/head.0": "h.1/head.1",
        "h.0/head.1": "h.1/head.2",
    }


def test_a_decision_says_what_it_cuts() -> None:
    decision = StructuralPruningDecision(
        decision_id="d", idempotency_key="k", request_id="r", run="run", epoch=3,
        channels=(ChannelPruningTarget(layer_name="h.0/mlp", kind="neuron", channel_indices=(2, 4),
                                       channel_importance=(0, 0)),),
        attention_heads=(AttentionHeadTarget(layer_name="h.1/attention", head_indices=(1,),
                                             head_importance=(0,)),),
        layers=(LayerPruningTarget(layer_name="h.2", importance=0),),
        safety=SafetyValidation(phase="aggressive"), edit=ModuleEdit(dropped=("h.2",)),
    )  # fmt: skip
    cut = cut_of(decision, held=False)
    assert cut.units == {"h.0/mlp|neuron": (2, 4), "h.1/attention|head": (1,)}
    assert cut.layers == ("h.2",)
    # A layer that became a map stays where it was: its neighbours keep their numbers.
    stays = decision.model_copy(update={"edit": ModuleEdit()})
    assert cut_of(stays, held=False).layers == ()
    assert cut_of(stays, held=True).layers == ("h.2",)
