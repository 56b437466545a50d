"""Devices and their clocks: who is asked to wait, for what, and in which order."""

import time

import pytest
import torch
from oracles.timing import order_by_hand

from zsei.errors import DeviceError, UsageError
from zsei.timing import device as module
from zsei.timing.device import Device, find_device, processor, seconds
from zsei.timing.pairs import interleave
from zsei.timing.peak import peak_memory
from zsei.timing.threads import torch_threads

CPU = find_device("cpu")
CARD = Device(torch=torch.device("cuda", 1), name="a planted card")


def test_the_cpu_has_the_processors_name() -> None:
    assert CPU.name == processor() != ""
    assert not CPU.is_cuda
    CPU.wait()


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:-1", "meta", "mps"])
def test_a_name_that_is_no_device_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="A device is cpu, cuda or cuda:N"):
        find_device(name)


def test_a_card_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="'cuda:0' was asked for and torch sees none"):
        find_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: f"card {place.index}")
    assert find_device("cuda").name == "card 0"
    assert find_device("cuda:1") == Device(torch=torch.device("cuda", 1), name="card 1")
    with pytest.raises(DeviceError, match=r"torch sees 2 \(cuda:0 to cuda:1\)"):
        find_device("cuda:2")


class Event:
    """A planted event, which writes down what is done with it."""

    log: list[object]
    made = 0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.name = f"event {Event.made}"
        Event.made += 1

    def record(self, stream: str) -> None:
        self.log.append((self.name, stream))

    def synchronize(self) -> None:
        self.log.append((self.name, "waited for"))

    def elapsed_time(self, end: "Event") -> float:
        assert self.log[-1] == (end.name, "waited for")
        return 250.0  # milliseconds


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A planted card: what is asked of it, in order."""
    seen: list[object] = []
    Event.log, Event.made = seen, 0
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda place: f"stream of {place}")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda place: seen.append(f"{place} idle"))
    return seen


def test_a_card_is_timed_by_events_on_its_own_stream_that_are_waited_for(
    log: list[object],
) -> None:
    assert seconds(lambda: log.append("call"), CARD) == 0.25
    assert log == [
        "cuda:1 idle", ("event 0", "stream of cuda:1"), "call", ("event 1", "stream of cuda:1"),
        ("event 1", "waited for"),
    ]  # fmt: skip


def test_a_card_is_warmed_up_more_than_once_unless_nobody_wants_it(log: list[object]) -> None:
    def timed(warm_up: int, device: Device) -> int:
        calls: list[int] = []
        rounds = interleave({"a": calls.append}, device, rounds=1, warm_up=warm_up)
        assert rounds.seconds["a"].shape == (1,)
        return len(calls) - 1

    assert [timed(n, CARD) for n in (0, 1, 5)] == [0, 3, 5]
    assert [timed(n, CPU) for n in (0, 1, 5)] == [0, 1, 5]


def test_the_peak_of_a_card_is_beyond_what_was_there(
    log: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most, given, count = "current", "peak", "allocated", "count"
    state = {alive: 1000, most: 9000, given: 50_000, count: 7}

    def stats(place: torch.device) -> dict[str, int]:
        assert place == CARD.torch
        return {
            "allocated_bytes.all.current": state[alive],
            "allocated_bytes.all.peak": state[most],
            "allocated_bytes.all.allocated": state[given],
            "allocation.all.allocated": state[count],
        }

    def call() -> None:
        if len(calls) == 0:
            state[alive] += 64  # a workspace that stays
        calls.append(state[alive])
        state[most] = max(state[most], state[alive] + 300)
        state[given] += 400
        state[count] += 2

    calls: list[int] = []
    monkeypatch.setattr(torch.cuda, "memory_stats", stats)
    monkeypatch.setattr(
        torch.cuda, "reset_peak_memory_stats", lambda place: state.update({most: state[alive]})
    )
    peak = peak_memory(call, CARD)
    assert (peak.bytes, peak.allocated, peak.allocations) == (300, 400, 2)
    assert log.count("cuda:1 idle") == 2


def test_the_cpu_is_timed_by_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([10.0, 12.5])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert seconds(lambda: None, CPU) == 2.5


@pytest.mark.parametrize("sides", [("a",), ("a", "b"), ("a", "b", "c")])
def test_rounds_are_interleaved_and_who_goes_first_moves_on(sides: tuple[str, ...]) -> None:
    ran: list[str] = []
    batches: list[int] = []

    def side(name: str):
        def run(batch: int) -> None:
            ran.append(name)
            batches.append(batch)

        return run

    rounds = interleave({n: side(n) for n in sides}, CPU, batches=2, rounds=5, warm_up=2)
    warm = 2 * 2 * len(sides)
    assert ran[:warm] == list(sides) * 4
    assert ran[warm:] == order_by_hand(sides, 5)
    assert rounds.batches.tolist() == [0, 1, 0, 1, 0]
    assert batches[warm:] == [number % 2 for number in range(5) for _ in sides]
    assert all(values.shape == (5,) for values in rounds.seconds.values())


def test_rounds_end_when_there_is_enough_or_the_budget_is_spent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def enough(rounds: object) -> bool:
        asked.append(len(rounds.batches))  # type: ignore[attr-defined]
        return len(asked) == 3

    idle = {"a": lambda batch: None}
    assert len(interleave(idle, CPU, rounds=20, least=4, enough=enough).batches) == 6
    assert asked == [4, 5, 6]
    ticks = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    assert len(interleave(idle, CPU, rounds=20, least=2, budget=3.5).batches) == 5


def test_ratios_are_paired_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    durations = iter([4, 1, 2, 8, 12, 4])  # a b, b a, a b: every a takes 4, 4 and 3 times b's
    monkeypatch.setattr("zsei.timing.pairs.seconds", lambda call, device: float(next(durations)))
    rounds = interleave({"a": lambda b: None, "b": lambda b: None}, CPU, rounds=3, warm_up=0)
    assert rounds.seconds["a"].tolist() == [4, 8, 12]
    assert rounds.seconds["b"].tolist() == [1, 2, 4]
    speed_up = rounds.speed_up("b", "a")
    assert (speed_up.low, speed_up.median, speed_up.high) == (3, 4, 4)
    assert rounds.time("a").median == 8


@pytest.mark.parametrize(("sides", "rounds", "batches"), [([], 1, 1), (["a"], 0, 1), (["a"], 1, 0)])
def test_nothing_to_time_is_an_error(sides: list[str], rounds: int, batches: int) -> None:
    with pytest.raises(UsageError, match="Timing needs a side, a round and a batch"):
        interleave({n: lambda b: None for n in sides}, CPU, rounds=rounds, batches=batches)


def test_threads_are_given_back_whatever_happens() -> None:
    before = torch.get_num_threads()
    found: list[int] = []

    @torch_threads(before + 2)
    def fails() -> None:
        found.append(torch.get_num_threads())
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        fails()
    assert found == [before + 2]
    assert torch.get_num_threads() == before


def test_a_processor_without_a_name_of_its_own_has_the_systems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Missing:
        def __init__(self, path: str) -> None:
            raise FileNotFoundError(path)

    monkeypatch.setattr(module, "Path", Missing)
    assert processor.__wrapped__() != ""
