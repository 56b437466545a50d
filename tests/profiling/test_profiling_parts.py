"""Bands, rooflines and sums of parts, from planted times and ceilings."""

import numpy as np
import pytest
from profile_cases import CEILINGS

from zsei.profiling.costs import Cost
from zsei.profiling.memory import Held
from zsei.profiling.parts import calls_of, parts_of, roof_of
from zsei.profiling.record import OUTSIDE, Part

ROOF = roof_of(CEILINGS, "float32")
"""10 G operations and 1 GB a second: a ridge of 10 operations per byte."""


def _parts(*planted: tuple[str, float, int | None, int | None]) -> dict[str, Part]:
    """Parts from (component, seconds, operations, bytes) of single calls."""
    costs = [
        Cost(name=f"call{i}", operation="op", component=component, flops=flops, moved=moved,
             written=moved)
        for i, (component, _, flops, moved) in enumerate(planted)
    ]  # fmt: skip
    seconds = np.array([[row[1] for row in planted]] * 5)
    kinds = {component: "linear" for component, *_ in planted if component != OUTSIDE}
    calls = calls_of(costs, seconds, None)
    return {
        part.name: part for part in parts_of(calls, seconds, {k: k for k in kinds}, kinds, ROOF)
    }


@pytest.mark.parametrize(
    ("share", "band"),
    [(0.5, "now"), (0.21, "now"), (0.19, "next"), (0.11, "next"), (0.09, "later"),
     (0.06, "later"), (0.04, "not worth it")],
)  # fmt: skip
def test_a_share_of_the_time_falls_in_its_band(share: float, band: str) -> None:
    found = _parts(("a", share, 1, 1), ("b", 1 - share, 1, 1))
    assert found["a"].share == pytest.approx(share)
    assert found["a"].band == band


@pytest.mark.parametrize(
    ("flops", "moved", "seconds", "bound", "reached"),
    [
        # 100 operations per byte: 1e9 of them need 0.1 s of arithmetic at least.
        (10**9, 10**7, 0.2, "compute", 0.5),
        # 1 operation per byte: 1e7 bytes need 0.01 s of memory at least.
        (10**7, 10**7, 0.02, "memory", 0.5),
        (0, 10**7, 0.01, "memory", 1.0),
        # On the ridge both need as long.
        (10**8, 10**7, 0.01, "compute", 1.0),
    ],
)
def test_a_part_is_held_against_the_lower_ceiling(
    flops: int, moved: int, seconds: float, bound: str, reached: float
) -> None:
    part = _parts(("a", seconds, flops, moved))["a"]
    assert part.bound == bound
    assert part.roofline_share == pytest.approx(reached)
    assert part.intensity == pytest.approx(flops / moved)
    assert part.flops_per_second == pytest.approx(flops / seconds)
    assert part.bytes_per_second == pytest.approx(moved / seconds)


def test_what_moves_nothing_or_is_not_known_has_no_roofline() -> None:
    found = _parts(("look", 0.1, 0, 0), ("unknown", 0.1, None, None))
    for part in found.values():
        assert (part.bound, part.roofline_share, part.intensity) == (None, None, None)
    assert found["look"].flops == 0
    assert found["unknown"].flops is None


def test_a_type_without_a_peak_is_said_and_leaves_memory_to_be_compared() -> None:
    roof = roof_of(CEILINGS, "float64")
    assert (roof.peak, roof.ridge) == (None, None)
    assert "float64" in roof.note
    cost = Cost(name="a", operation="o", component="a", flops=5, moved=10, written=0)
    adding = Cost(name="b", operation="o", component="b", flops=0, moved=10**6, written=0)
    seconds = np.ones((3, 2))
    names = {"a": "a", "b": "b"}
    found = parts_of(calls_of([cost, adding], seconds, None), seconds, names, names, roof)
    assert {part.name: part.bound for part in found} == {"a": None, "b": "memory"}


def test_calls_of_one_part_are_summed_round_by_round() -> None:
    costs = [
        Cost(name=n, operation="o", component=c, flops=f, moved=10, written=5)
        for n, c, f in (("one", "a", 1), ("two", "b", 2), ("three", "a", 4), ("four", OUTSIDE, 8))
    ]
    seconds = np.array([[1.0, 5.0, 3.0, 1.0], [3.0, 5.0, 1.0, 1.0], [2.0, 5.0, 2.0, 1.0]])
    memory = [Held(alive=a, held=a + 1) for a in (3, 9, 7, 1)]
    calls = calls_of(costs, seconds, memory)
    found = {p.name: p for p in parts_of(calls, seconds, {"a": "a", "b": "b"}, {"a": "mlp"}, ROOF)}
    # The single calls of `a` vary; together they take four seconds in every round.
    both = found["a"]
    assert (both.seconds.low, both.seconds.median, both.seconds.high) == (4.0, 4.0, 4.0)
    assert (both.calls, both.flops, both.moved, both.written) == (2, 5, 20, 10)
    assert (both.alive, both.held, both.kind) == (7, 8, "mlp")
    assert found[OUTSIDE].flops == 8
    assert list(found) == ["b", "a", OUTSIDE]
