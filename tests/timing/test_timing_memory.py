"""Peak memory and its timeline: allocations counted by hand, and by a mode that watches values."""

import os
from collections.abc import Callable

import pytest
import torch
from oracles.timing import peak_by_watching
from torch import Tensor, nn
from torch.profiler import record_function

from zsei.timing.allocations import allocations_of
from zsei.timing.device import find_device
from zsei.timing.peak import Peak, peak_memory
from zsei.timing.timeline import Moment, allocation_timeline, thinned

CPU = find_device("cpu")
KIB = 1024
X = torch.ones(256)  # one KiB, there before


def by_hand() -> Tensor:
    """Holds 1, 3, 2, 6, 4 and 0 KiB."""
    a = X.neg()
    b = torch.cat([a, a])
    del a
    c = torch.cat([b, b])
    del b
    return c


def test_allocations_are_those_counted_by_hand() -> None:
    found = [allocation.bytes // KIB for allocation in allocations_of(by_hand, CPU)]
    assert found == [1, 2, -1, 4, -2, -4]
    assert peak_memory(by_hand, CPU) == Peak(bytes=6 * KIB, allocated=7 * KIB, allocations=3)
    assert peak_by_watching(by_hand) == 6 * KIB


def test_a_call_that_allocates_nothing_has_no_peak() -> None:
    assert peak_memory(lambda: X.abs_(), CPU) == Peak(bytes=0, allocated=0, allocations=0)


def test_memory_that_was_there_before_and_is_released_does_not_hide_what_is_added() -> None:
    held = [torch.ones(1024)]

    def call() -> Tensor:
        held.clear()
        return torch.ones(256)

    assert [moment.bytes // KIB for moment in allocation_timeline(call, CPU)] == [1, 0]


def mlp() -> Callable[[], Tensor]:
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 16), nn.Sigmoid())
    x = torch.randn(32, 16)
    return lambda: model(x).sum()


@pytest.mark.parametrize("gradients", [False, True])
def test_the_peak_of_a_model_is_that_of_its_values(gradients: bool) -> None:
    forward = mlp()

    def call() -> Tensor:
        with torch.set_grad_enabled(gradients):
            return forward()

    assert peak_memory(call, CPU).bytes == peak_by_watching(call)


def test_the_same_call_has_the_same_peak_every_time() -> None:
    forward = mlp()
    assert len({peak_memory(forward, CPU).bytes for _ in range(2)}) == 1


def test_every_moment_says_which_operator_and_part_asked() -> None:
    def call() -> Tensor:
        with record_function("whole"), record_function("first"):
            a = X.neg()
        with record_function("second"):
            return torch.nn.functional.linear(a.view(16, 16), a.view(16, 16))

    moments = allocation_timeline(call, CPU)
    assert [(m.operator, m.scope, m.bytes) for m in moments[:2]] == [
        ("aten::neg", "first", KIB), ("aten::linear", "second", 2 * KIB),
    ]  # fmt: skip
    assert [(m.operator, m.bytes) for m in moments[2:]] == [("", KIB), ("", 0)]
    times = [moment.seconds for moment in moments]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 60


def zigzag(n: int, peak: int) -> list[Moment]:
    heights = [number % 7 for number in range(n)]
    heights[peak] = 100
    return [Moment(seconds=i, bytes=h, operator="", scope="") for i, h in enumerate(heights)]


@pytest.mark.parametrize("peak", [0, 1, 50, 333, 998, 999])
@pytest.mark.parametrize("points", [4, 5, 40])
def test_thinning_keeps_the_ends_and_the_peak(peak: int, points: int) -> None:
    moments = zigzag(1000, peak)
    kept = thinned(moments, points)
    assert len(kept) <= points
    assert (kept[0], kept[-1]) == (moments[0], moments[-1])
    assert max(moment.bytes for moment in kept) == 100
    assert [moment.seconds for moment in kept] == sorted(moment.seconds for moment in kept)
    assert min(moment.bytes for moment in kept) == min(moment.bytes for moment in moments)


def test_few_moments_are_all_kept() -> None:
    moments = zigzag(10, 3)
    assert thinned(moments, 10) == moments


def test_the_environment_is_as_before_when_a_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("planted")

    for level in (None, "3"):
        if level:
            monkeypatch.setenv("KINETO_LOG_LEVEL", level)
        with pytest.raises(RuntimeError, match="planted"):
            peak_memory(fails, CPU)
        assert os.environ.get("KINETO_LOG_LEVEL") == level
    assert peak_memory(by_hand, CPU).bytes == 6 * KIB  # and the profiler works again
