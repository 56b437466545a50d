"""Deciding claims round by round: rarely wrong however often one looks."""

from collections.abc import Callable

import numpy as np
import pytest
from oracles.timing import missed_by_enumeration

from zsei.errors import UsageError
from zsei.timing.decision import look, measure_until_decided, sequential_interval, sequential_ranks
from zsei.timing.device import Device, find_device

CPU = find_device("cpu")


@pytest.mark.parametrize(("rounds", "confidence"), [(6, 0.8), (10, 0.9), (12, 0.95), (14, 0.99)])
def test_all_looks_together_miss_as_rarely_as_promised(rounds: int, confidence: float) -> None:
    ranks = sequential_ranks(rounds, confidence)
    assert 0 < missed_by_enumeration(ranks) <= 1 - confidence
    assert list(ranks) == sorted(ranks)


@pytest.mark.parametrize("at", [8, 10, 12])
def test_no_look_could_take_a_narrower_interval(at: int) -> None:
    rounds, confidence = 12, 0.9
    ranks = list(sequential_ranks(rounds, confidence)[:at])
    ranks[-1] += 1
    assert missed_by_enumeration(ranks) > (1 - confidence) * (at / rounds) ** 0.5


def test_too_few_values_decide_nothing_and_say_what_their_range_is_worth() -> None:
    values = np.full(9, 5.0)
    assert look(values, 1.0, None) == ("not decided", None)
    interval = sequential_interval(np.arange(3.0), 60, 0.99)
    assert (interval.low, interval.high, interval.confidence) == (0, 2, 0.75)
    assert sequential_ranks(7, 0.99) == (0,) * 7
    assert sequential_ranks(8, 0.99)[-1] == 1


def test_a_limit_has_a_margin_on_either_side() -> None:
    def said(value: float, least: float | None, most: float | None) -> str:
        decision, why = look(np.full(10, value), least, most, margin=0.02)
        assert why is not None
        return decision

    assert [said(x, 2, None) for x in (1.95, 1.97, 2.0, 2.03, 2.05)] == [
        "not held", "not decided", "not decided", "not decided", "held",
    ]  # fmt: skip
    assert [said(x, None, 2) for x in (1.95, 1.97, 2.0, 2.03, 2.05)] == [
        "held", "not decided", "not decided", "not decided", "not held",
    ]  # fmt: skip
    assert [said(x, 1, 2) for x in (0.9, 1.0, 1.5, 2.0, 2.1)] == [
        "not held", "not decided", "held", "not decided", "not held",
    ]  # fmt: skip


def test_an_interval_that_straddles_asks_for_more() -> None:
    assert look(np.linspace(1, 3, 12), 2.0, None) == ("not decided", None)


def simulated(truth: float, noise: float, seed: int, runs: int) -> list[str]:
    """Verdicts on a claim of at least 2 when the median is the truth and the tails are heavy."""
    generator = np.random.default_rng(seed)
    verdicts = []
    for _ in range(runs):
        values = truth * np.exp(noise * generator.standard_t(2, 60))
        said = (look(values[:n], 2.0, None) for n in range(1, 61))
        verdicts.append(next((verdict for verdict, why in said if why), "not decided"))
    return verdicts


@pytest.mark.parametrize(
    ("truth", "right"),
    [(1.6, "not held"), (1.96, "not decided"), (2.0, "not decided"), (2.04, "not decided"),
     (2.4, "held")],
)  # fmt: skip
def test_planted_ratios_get_the_right_verdict_under_heavy_tails(truth: float, right: str) -> None:
    verdicts = simulated(truth, noise=0.05, seed=3, runs=60)
    assert verdicts.count(right) >= 59


@pytest.mark.long
@pytest.mark.parametrize("truth", [1.8, 1.92, 1.96, 2.0, 2.04, 2.08, 2.2])
def test_under_one_verdict_in_a_hundred_is_wrong(truth: float) -> None:
    verdicts = simulated(truth, noise=0.08, seed=4, runs=2000)
    wrong = verdicts.count("held" if truth < 2 else "not held")
    if truth in (1.96, 2.0, 2.04):  # within the margin either verdict is one too many
        wrong = len(verdicts) - verdicts.count("not decided")
    assert wrong <= 0.01 * len(verdicts)


Clock = Callable[[Callable[[], object], Device], float]


def played(monkeypatch: pytest.MonkeyPatch, durations: dict[str, list[float]]) -> list[str]:
    """A clock that reads planted durations, side by side; returns the list of who ran."""
    ran: list[str] = []
    given = {name: iter(values) for name, values in durations.items()}

    def clock(call: Callable[[], object], device: Device) -> float:
        call()
        return next(given[ran[-1]])

    monkeypatch.setattr("zsei.timing.pairs.seconds", clock)
    return ran


def test_it_stops_at_the_first_round_that_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = played(monkeypatch, {"slow": [3.0] * 60, "fast": [1.0] * 60})
    found = measure_until_decided(
        {name: lambda _, name=name: ran.append(name) for name in ("slow", "fast")},
        CPU, value=lambda r: r.seconds["slow"] / r.seconds["fast"], least=2.0, warm_up=0,
    )  # fmt: skip
    assert (found.decision, found.interval.n) == ("held", 10)
    assert found.interval.low == found.interval.high == 3
    assert len(ran) == 20
    assert "inside" in found.reason


def test_what_straddles_is_measured_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = played(monkeypatch, {"one": [1.0, 3.0] * 10})
    found = measure_until_decided(
        {"one": lambda _: ran.append("one")},
        CPU, value=lambda r: r.seconds["one"], most=2.0, rounds=20, warm_up=0,
    )  # fmt: skip
    assert (found.decision, found.interval.n) == ("not decided", 20)
    assert "rounds were used up" in found.reason


def test_the_seconds_end_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = played(monkeypatch, {"one": [1.0, 3.0] * 30})
    ticks = iter(range(1000))
    monkeypatch.setattr("zsei.timing.decision.time.monotonic", lambda: float(next(ticks)))
    found = measure_until_decided(
        {"one": lambda _: ran.append("one")},
        CPU, value=lambda r: r.seconds["one"], most=2.0, warm_up=0, budget=8.5,
    )  # fmt: skip
    assert found.decision == "not decided"
    assert "seconds were used up" in found.reason
    assert len(ran) < 20


def test_nothing_to_time_is_an_error() -> None:
    for sides, rounds in (({}, 5), ({"a": lambda _: None}, 0)):
        with pytest.raises(UsageError, match="Timing needs a side, a round and a batch"):
            measure_until_decided(sides, CPU, value=lambda r: r.seconds["a"], rounds=rounds)
