"""What goes is chosen as the slow oracle does, and never more than may."""

import math
import random
from dataclasses import replace
from itertools import combinations, pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles.choosing import best_of_part, slow_density, slow_left

from zsei.checkpoint.config import LayerAnalysis
from zsei.checkpoint.decide.choose import Part, choose, layer_may_go, parameters_left
from zsei.settings import EditKind

HERE = settings(max_examples=30, deadline=None, derandomize=True, database=None)
KINDS: tuple[EditKind, ...] = ("channels", "heads", "layers")
Made = tuple[list[Part], dict[str, tuple[int, ...]]]

VALUES = st.one_of(st.none(), st.sampled_from([0.0, 0.25, 1.0, 3.0]), st.floats(-0.5, 8))


@st.composite
def models(draw: st.DrawFn) -> Made:
    """Places in a row, each reading what the one before writes; layers around some of them."""
    shapes: dict[str, tuple[int, ...]] = {"stem": (3, 5)}
    parts: list[Part] = []
    before = draw(st.integers(1, 3))
    for number in range(draw(st.integers(1, 4))):
        kind: EditKind = draw(st.sampled_from(["channels", "heads"]))
        together = draw(st.sampled_from([1, 1, 2]))
        groups, size = draw(st.integers(1, 5)), draw(st.integers(1, 3))
        rows = groups * size
        inside = f"layers.{number}/{kind}"
        shapes[f"{number}.weight"] = (rows, before)
        shapes[f"{number}.bias"] = (rows,)
        takes = {f"{number}.weight": {0: size}, f"{number}.bias": {0: size}}
        if draw(st.booleans()):  # the next one reads it
            before = rows
            takes[f"{number + 1}.weight"] = {1: size}
        else:
            shapes[f"{number}.out"] = (4, rows)
            takes[f"{number}.out"] = {1: size}
            before = draw(st.integers(1, 3))
        units = groups * together
        pairs = st.tuples(st.integers(0, units - 1), st.integers(0, units - 1), st.floats(-1, 1))
        parts.append(
            Part(
                key=f"{inside}|unit", kind=kind, together=together, takes=takes,
                importance=tuple(draw(st.lists(VALUES, min_size=units, max_size=units))),
                least=draw(st.integers(0, units)), alike=tuple(draw(st.lists(pairs, max_size=3))),
                held=frozenset(draw(st.sets(st.integers(0, groups - 1), max_size=1))),
            )
        )  # fmt: skip
        if draw(st.booleans()):
            own = {f"{number}.weight": {0: rows}, f"{number}.bias": {0: rows}}
            parts.append(
                Part(
                    key=f"layers.{number}|layer", kind="layers", takes=own,
                    importance=(draw(VALUES),),
                )
            )  # fmt: skip
    last = max(n for n in range(9) if f"{n}.weight" in shapes)
    shapes.setdefault(f"{last + 1}.weight", (2, before))
    return parts, shapes


def _gone(parts: list[Part], chosen: dict[str, tuple[int, ...]]) -> dict[str, set[int]]:
    return {part.key: {*chosen.get(part.key, ()), *part.held} for part in parts}


@HERE
@given(made=models(), room=st.integers(0, 60), layers=st.integers(0, 2), data=st.data())
def test_chosen_is_inside_every_limit(
    made: Made, room: int, layers: int, data: st.DataObject
) -> None:
    parts, shapes = made
    kinds = data.draw(st.sets(st.sampled_from(KINDS)))
    chosen = choose(parts, shapes, kinds=kinds, room=room, layers=layers)
    before = slow_left(parts, shapes, _gone(parts, {}))
    after = slow_left(parts, shapes, _gone(parts, chosen))
    assert parameters_left(parts, shapes, {}) == before
    assert parameters_left(parts, shapes, chosen) == after
    assert before - after <= room, "never above the target"
    known = {part.key: part for part in parts}
    assert sum(known[key].kind == "layers" for key in chosen) <= layers
    for key, groups in chosen.items():
        part = known[key]
        assert part.kind in kinds, "never a kind that is not allowed"
        assert groups
        assert groups == tuple(sorted(set(groups)))
        assert not set(groups) & part.held, "what is held is gone already"
        left = len(part.importance) - part.together * len({*groups, *part.held})
        assert part.kind == "layers" or left >= part.least, "never below the minimum"
        units = [g * part.together + i for g in groups for i in range(part.together)]
        assert all(part.importance[u] is not None for u in units), "never what was not measured"
        layer = key.partition("/")[0] + "|layer"
        assert layer not in chosen or key == layer, "what goes with its layer is not named"
    shuffled = random.Random(room).sample(parts, len(parts))
    assert choose(shuffled, shapes, kinds=kinds, room=room, layers=layers) == chosen
    turned = [replace(part, takes=dict(list(part.takes.items())[::-1])) for part in shuffled]
    assert choose(turned, shapes, kinds=tuple(kinds), room=room, layers=layers) == chosen
    louder = [
        replace(part, importance=tuple(None if v is None else 4 * v for v in part.importance))
        for part in parts
    ]
    assert choose(louder, shapes, kinds=kinds, room=room, layers=layers) == chosen


@HERE
@given(made=models(), room=st.integers(0, 60), layers=st.integers(0, 2), alike=st.booleans())
def test_chosen_is_what_the_oracle_chooses(made: Made, room: int, layers: int, alike: bool) -> None:
    parts, shapes = made
    densities = slow_density(parts, shapes, alike)
    distinct = sorted(densities.values())
    # Two formulas may round equal densities apart; which of them goes first is then open.
    assume(all(b - a > 1e-9 or b == a == 0 for a, b in pairwise(distinct)))
    gone = _gone(parts, {})
    known = {part.key: part for part in parts}
    over: set[str] = set()
    for key, group in sorted(densities, key=lambda name: (densities[name], *name)):
        part = known[key]
        inside = f"{key.partition('/')[0]}|layer" if "/" in key else ""
        whole = [k for k in gone if known[k].kind == "layers" and gone[k]]
        if part.kind in over or group in gone[key] or inside in whole:
            continue
        if part.kind == "layers" and len(whole) >= layers:
            continue
        if part.kind != "layers":
            left = len(part.importance) - part.together * (len(gone[key]) + 1)
            if left < part.least:
                continue
        now = slow_left(parts, shapes, gone)
        saved = now - slow_left(parts, shapes, {**gone, key: {*gone[key], group}})
        spent = slow_left(parts, shapes, _gone(parts, {})) - now
        if spent + saved > room:
            over.add(part.kind)
        elif saved:
            gone[key].add(group)
    inside_whole = {k.partition("|")[0] for k in gone if known[k].kind == "layers" and gone[k]}
    wanted = {
        key: tuple(sorted(groups - known[key].held))
        for key, groups in gone.items()
        if groups - known[key].held
        and (known[key].kind == "layers" or key.partition("/")[0] not in inside_whole)
    }
    found = choose(parts, shapes, kinds=KINDS, room=room, layers=layers, alike=alike)
    assert found == wanted


@HERE
@given(
    values=st.lists(st.floats(0, 8), min_size=1, max_size=7),
    size=st.integers(1, 4), room=st.integers(0, 30), least=st.integers(0, 4),
)  # fmt: skip
def test_of_one_place_the_least_important_go_and_as_many_as_fit(
    values: list[float], size: int, room: int, least: int
) -> None:
    """Against all subsets there are."""
    part = Part(
        key="a|neuron", kind="channels", importance=tuple(values), takes={"w": {0: size}},
        least=least,
    )  # fmt: skip
    shapes = {"w": (size * len(values), 2)}
    chosen = choose([part], shapes, kinds=KINDS, room=room).get("a|neuron", ())
    fitting = [
        count
        for count in range(len(values) + 1)
        for gone in combinations(range(len(values)), count)
        if slow_left([part], shapes, {}) - slow_left([part], shapes, {"a|neuron": gone}) <= room
        and (len(values) - count >= least or not count)
    ]
    assert len(chosen) == max(fitting)
    assert math.isclose(sum(values[g] for g in chosen), best_of_part(part, len(chosen)))


def _part(key: str, kind: EditKind, *importance: float | None, size: int, **more: object) -> Part:
    return Part(key=key, kind=kind, importance=importance, takes={key: {0: size}}, **more)  # type: ignore[arg-type]


def test_importance_counts_by_the_parameter() -> None:
    small = _part("a|channel", "channels", 1.0, 4.0, size=1)
    large = _part("b|channel", "channels", 2.0, 8.0, size=10)
    shapes = {"a|channel": (2,), "b|channel": (20,)}
    # 2.0 for 10 parameters are less than 1.0 for one, 8.0 less than 4.0 for one.
    for room, wanted in ((10, {"b|channel": (0,)}), (20, {"b|channel": (0, 1)}),
                         (21, {"b|channel": (0, 1), "a|channel": (0,)})):  # fmt: skip
        assert choose([small, large], shapes, kinds=KINDS, room=room) == wanted


def test_a_small_step_waits_for_what_is_least_dense() -> None:
    """The important unit is small enough to fit, and stays all the same."""
    small = _part("a|channel", "channels", 5.0, 5.0, size=1)
    large = _part("b|channel", "channels", 0.1, 0.2, size=10)
    shapes = {"a|channel": (2,), "b|channel": (20,)}
    assert choose([small, large], shapes, kinds=KINDS, room=9) == {}
    assert choose([small, large], shapes, kinds=KINDS, room=19) == {"b|channel": (0,)}


def test_a_layer_that_does_not_fit_leaves_the_room_to_neurons() -> None:
    layer = _part("x|layer", "layers", 0.1, size=50)
    other = _part("y|layer", "layers", 0.9, size=50, least=1)  # for comparison; it stays
    neurons = _part("a|neuron", "channels", 1.0, 2.0, size=4)
    shapes = {"x|layer": (50,), "y|layer": (50,), "a|neuron": (8,)}
    parts = [layer, other, neurons]
    assert choose(parts, shapes, kinds=KINDS, room=49, layers=2) == {"a|neuron": (0, 1)}
    assert choose(parts, shapes, kinds=KINDS, room=50, layers=2) == {"x|layer": (0,)}
    assert choose(parts, shapes, kinds=KINDS, room=54, layers=2) == {
        "x|layer": (0,), "a|neuron": (0,),
    }  # fmt: skip
    assert choose(parts, shapes, kinds=KINDS, room=90, layers=0) == {"a|neuron": (0, 1)}
    assert set(choose(parts, shapes, kinds=KINDS, room=200, layers=2)) == {"x|layer", "a|neuron"}


def test_of_two_alike_the_less_important_goes_first() -> None:
    part = _part("a|neuron", "channels", 3.0, 2.0, 1.0, 4.0, size=1, alike=((0, 1, -0.99),))
    shapes = {"a|neuron": (4,)}
    for room, wanted in ((1, (1,)), (2, (1, 2)), (3, (0, 1, 2))):
        assert choose([part], shapes, kinds=KINDS, room=room) == {"a|neuron": wanted}
    assert choose([part], shapes, kinds=KINDS, room=1, alike=False) == {"a|neuron": (2,)}


def test_of_two_alike_and_equal_the_later_goes_first() -> None:
    part = _part("a|head", "heads", 2.0, 1.5, 2.0, size=1, alike=((0, 2, 1.0),))
    assert choose([part], {"a|head": (3,)}, kinds=KINDS, room=1) == {"a|head": (2,)}


def test_what_is_shared_by_two_places_is_counted_once() -> None:
    """A weight loses rows to one place and columns to the other."""
    rows = _part("a|neuron", "channels", 1.0, 1.0, size=0)
    rows = replace(rows, takes={"w": {0: 1}})
    columns = replace(rows, key="b|neuron", takes={"w": {1: 1}})
    shapes = {"w": (2, 2)}
    # A row saves 2, then a column only 1; the last of each saves what is left.
    assert choose([rows, columns], shapes, kinds=KINDS, room=2) == {"a|neuron": (0,)}
    stay = [replace(part, least=1) for part in (rows, columns)]
    assert choose(stay, shapes, kinds=KINDS, room=3) == {"a|neuron": (0,), "b|neuron": (0,)}
    assert parameters_left([rows, columns], shapes, {"a|neuron": (0,), "b|neuron": (1,)}) == 1


@pytest.mark.parametrize(
    ("share", "similarity", "skip", "goes"),
    [
        (0.0005, 0.5, 0.9, True),  # idle
        (0.4, 0.99, 0.9, True),  # hands on what it gets
        (0.0005, 0.99, 0.5, False),  # cannot be led around
        (0.4, 0.5, 0.9, False),  # does something
        (0.001, 0.95, 0.9, False),  # at the limits
        (0.4, 0.99, 0.8, True),
        (None, 0.99, 0.9, True),
        (None, None, 0.9, False),
        (0.0005, None, None, False),  # not measured
    ],
)
def test_a_layer_goes_by_the_rules(
    share: float | None, similarity: float | None, skip: float | None, goes: bool
) -> None:
    limits = LayerAnalysis()
    assert layer_may_go(share=share, similarity=similarity, skip=skip, limits=limits) is goes
