import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import speed as oracle
from planted_speed import FACTORS, SHELF, Planted, bench, clock, without_collecting

from zsei.gate.sandbox import verify_unchanged
from zsei.speed.alone import Alone, measure_alone
from zsei.speed.baseline import BASELINE
from zsei.speed.measure import Bench
from zsei.speed.record import Combination, Trial
from zsei.speed.together import Order, combine
from zsei.speedups.runnable import Runnable
from zsei.speedups.workload import Workload
from zsei.timing.pairs import Rounds


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        without_collecting(patch)
        yield


def silent(share: float, note: str) -> None:
    del share, note


def alone_on(found: Bench) -> Alone:
    return measure_alone(found, found.shelf, lambda: False, silent)


def together(
    found: Bench,
    *,
    order: Order | None = None,
    out_of_time: Callable[[], bool] = lambda: False,
) -> Combination | None:
    return combine(
        found, alone_on(found), order=order, final_rounds=21, out_of_time=out_of_time,
        report=silent,
    )  # fmt: skip


def kept(combination: Combination | None) -> list[str]:
    assert combination is not None
    return [step.speedup for step in combination.order]


def test_the_accepted_ones_are_combined_the_fastest_first() -> None:
    found = together(bench(SHELF, clock(FACTORS)))
    assert kept(found) == ["rough", "lean", "that"]
    assert found is not None
    assert found.trial.verdict.outcome == "accepted"
    assert found.trial.speed_up is not None
    assert found.trial.speed_up.n == 21
    assert not found.trial.exact  # one of its steps is not


def test_the_product_is_never_what_is_reported_as_measured() -> None:
    both = frozenset({"lean", "rough"})
    found = together(bench(SHELF[:2], clock(FACTORS, {both: 0.35})))
    assert found is not None
    assert found.trial.speed_up is not None
    assert found.product == pytest.approx(1 / (0.5 * 0.4), rel=0.02)
    assert found.trial.speed_up.median == pytest.approx(1 / 0.35, rel=0.02)
    claimed, measured = f"{found.product:.3g}", f"{found.trial.speed_up.median:.3g}"
    assert f"would claim {claimed} times; measured together it is {measured} times" in (
        found.explanation
    )


def test_a_step_that_makes_the_others_slower_is_left_out_with_what_was_measured() -> None:
    both = frozenset({"lean", "rough"})
    found = together(bench(SHELF[:2], clock(FACTORS, {both: 0.6})))
    assert kept(found) == ["rough"]
    assert found is not None
    why = {f.what: f.why for f in found.left_out}
    assert re.match(r"0\.66\d times as fast as without it \(0\.\d+ to 0\.\d+\)", why["lean"])


def test_alternatives_are_both_tried_and_the_faster_branch_is_kept() -> None:
    # "that" is faster alone; only "this" gains from "lean".
    special = {
        frozenset({"that", "lean"}): 0.69,
        frozenset({"this", "lean"}): 0.2,
        frozenset({"lean"}): 0.75,
    }
    shelf = tuple(s for s in SHELF if s.name in ("this", "that", "lean"))
    found = together(bench(shelf, clock(FACTORS, special)))
    assert set(kept(found)) == {"this", "lean"}
    assert found is not None
    why = {f.what: f.why for f in found.left_out}
    assert "cannot stand beside" in why["that"]


def test_branches_are_raced_against_each_other_not_against_other_moments() -> None:
    """While "that" was measured against the baseline, the baseline was held up."""
    true = clock({"this": 0.5, "that": 0.6})
    flattering = clock({"this": 0.5, "that": 0.3})
    races: list[set[str]] = []

    def race(workload: Workload, sides: Mapping[str, Runnable], **options: Any) -> Rounds:
        races.append(set(sides))
        with_baseline = flattering(workload, sides, **options)
        return with_baseline if BASELINE in sides else true(workload, sides, **options)

    shelf = tuple(s for s in SHELF if s.name in ("this", "that"))
    found = together(bench(shelf, race))
    assert kept(found) == ["this"]
    assert found is not None
    assert "0.83" in found.left_out[0].why  # 0.5 / 0.6, and not what the flattered race said
    assert races.count({"0", "1"}) == 1


def test_two_that_pass_alone_and_not_together_are_alternatives() -> None:
    shelf = (
        Planted(name="up", exact=False, change=lambda out: out * 1.006),
        Planted(name="more", exact=False, change=lambda out: out * 1.0061),
    )
    found = together(bench(shelf, clock({"up": 0.5, "more": 0.6})))
    assert kept(found) == ["up"]
    assert found is not None
    why = found.left_out[0].why
    assert "tolerance" in why
    assert "more were tried in its place" in why


def test_an_order_that_is_given_is_followed_and_decides_nothing_else() -> None:
    seen: list[list[str]] = []

    def order(trials: tuple[Trial, ...]) -> list[str]:
        seen.append([t.steps[0].speedup for t in trials])
        return ["lean", "nobody", "lean"]

    found = together(bench(SHELF, clock(FACTORS)), order=order)  # type: ignore[arg-type]
    assert seen == [["rough", "lean", "that", "this"]]
    assert kept(found) == ["lean", "rough", "that"]


def test_nothing_accepted_makes_no_combination() -> None:
    shelf = tuple(s for s in SHELF if s.name in ("slow", "liar", "crash"))
    assert together(bench(shelf, clock(FACTORS))) is None


def test_one_accepted_is_measured_again_and_says_so() -> None:
    found = together(bench(SHELF[:1], clock(FACTORS)))
    assert kept(found) == ["lean"]
    assert found is not None
    assert "one step" in found.explanation


def test_out_of_time_leaves_the_rest_out_and_still_measures_what_stands() -> None:
    found = together(bench(SHELF, clock(FACTORS)), out_of_time=lambda: True)
    assert kept(found) == ["rough"]
    assert found is not None
    assert all("budget" in f.why for f in found.left_out)
    assert found.trial.speed_up is not None


def test_nothing_is_left_changed() -> None:
    found = bench(SHELF, clock(FACTORS))
    threads = torch.get_num_threads()
    together(found)
    verify_unchanged(found.workload.subject)
    assert torch.get_num_threads() == threads
    assert torch.get_default_dtype() == torch.float32


@given(
    costs=st.lists(st.integers(1, 40), min_size=8, max_size=8),
    clash=st.sampled_from([(), ("a", "b"), ("b", "c")]),
)
@settings(max_examples=8, deadline=None)
def test_what_is_kept_is_what_trying_one_after_another_keeps(
    costs: list[int], clash: tuple[str, ...]
) -> None:
    names = "abc"
    sets = [frozenset(s) for n in range(4) for s in itertools.combinations(names, n)]
    # Every set costs less than the baseline, and no two cost the same.
    table: Mapping[frozenset[str], float] = {frozenset(): 1.0} | {
        s: 0.05 + c / 50 + i / 1000 for i, (s, c) in enumerate(zip(sets[1:], costs, strict=False))
    }
    shelf = tuple(
        Planted(name=n, order=50 + i, excludes=tuple(c for c in clash if c != n and n in clash))
        for i, n in enumerate(names)
    )

    def seconds(chosen: frozenset[str]) -> float | None:
        return None if clash and set(clash) <= chosen else table[chosen]

    ranked = sorted(names, key=lambda n: table[frozenset(n)])
    starts = [ranked[0]]
    branches = []
    while starts:
        start = starts.pop(0)
        rest = [n for n in ranked if n != start]
        branches.append(oracle.greedy([start, *rest], seconds))
        left = [n for n in rest if clash and n in clash and n not in branches[-1]
                and any(o in branches[-1] for o in clash)]  # fmt: skip
        starts += [n for n in left[:1] if not any(n in b for b in branches)]
    expected = min(table[b] for b in branches)
    found = together(bench(shelf, clock({}, table)))
    assert table[frozenset(kept(found))] == pytest.approx(expected)
