"""Claims that no clock decides: memory is counted, outputs and answers are compared."""

import pytest
import torch
from oracles.claims import scores_bytes
from planted_claims import bench, claim
from speed.planted_speed import Planted, without_collecting
from torch import nn

from zsei.claims.by_answers import accuracy, difference
from zsei.claims.by_memory import compared, eager, held, memory, weights
from zsei.speedups.lower_precision import LowerPrecision
from zsei.speedups.runnable import bare
from zsei.timing.device import find_device
from zsei.timing.peak import peak_memory


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    without_collecting(monkeypatch)


SAME = Planted(name="same")
NUDGED = Planted(name="nudged", exact=False, change=lambda out: out + 1e-3)
WRONG = Planted(name="wrong", exact=False, change=lambda out: -out)
HALF = LowerPrecision()


def test_memory_of_a_model_is_its_weights_and_the_worst_moment_of_a_call() -> None:
    linear = nn.Linear(6, 4)
    there = bench((SAME,), {})
    batch = there.workload.held_out[0]
    # 24 weights and 4 biases stay; a call makes 16 rows of 4 numbers and nothing else.
    assert held(there, bare(linear, ("input",)), batch) == 4 * (24 + 4) + 4 * 16 * 4


def test_a_weight_that_two_modules_share_counts_once() -> None:
    first, second = nn.Linear(8, 8), nn.Linear(8, 8)
    second.weight = first.weight
    assert weights(nn.Sequential(first, second)) == 4 * (64 + 8 + 8)


@pytest.mark.parametrize(
    ("unit", "least", "before", "after", "value", "verdict"),
    [("x", 2, 100, 50, 2.0, "held"), ("x", 2, 100, 51, 100 / 51, "not held"),
     ("%", 50, 100, 50, 50.0, "held"), ("%", 50, 100, 60, 40.0, "not held"),
     ("%", 50, 100, 120, -20.0, "not held")],
)  # fmt: skip
def test_less_memory_in_times_and_in_per_cent(
    unit: str, least: float, before: int, after: int, value: float, verdict: str
) -> None:
    wanted = claim("memory", steps=["same"], unit=unit, at_least=least)
    found = compared(wanted, before, after)
    assert (found.value, found.verdict) == (pytest.approx(value), verdict)
    assert [m.value for m in found.measurements] == [before, after]


def test_half_the_bytes_of_the_weights_are_found() -> None:
    there = bench((HALF,), {})
    wanted = claim("memory", steps=["lower-precision"], at_least=1.4, unit="x")
    found = memory(there, wanted, None)
    before, after = (m.value for m in found.measurements if m.unit == "bytes")
    own = 4 * sum(p.numel() for p in there.workload.model.parameters())
    assert before == own + 4 * 16 * (16 + 16)  # both sides of the rectifier are alive at once
    assert after is not None
    assert own / 2 <= after < 0.8 * (before or 0)
    assert (found.verdict, found.value) == ("held", pytest.approx((before or 0) / after))


@pytest.mark.parametrize(("length", "heads"), [(128, 2), (256, 3)])
def test_eager_attention_holds_two_tables_of_scores(length: int, heads: int) -> None:
    q, k, v = torch.randn(3, 1, heads, length, 8)
    peak = peak_memory(lambda: eager(q, k, v), find_device("cpu")).bytes
    scores = scores_bytes(1, heads, length)
    # q kᵀ and its softmax, or its scaled copy, are alive together; besides, copies of q, k and v.
    assert 2 * scores <= peak <= 2 * scores + 4 * q.numel() * 4
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(eager(q, k, v), expected, atol=1e-5)


def test_a_model_without_attention_has_no_memory_of_attention() -> None:
    from zsei.claims.by_memory import heads_of
    from zsei.errors import SpeedUpRefused

    with pytest.raises(SpeedUpRefused, match="none was found in Tiny"):
        heads_of(bench((SAME,), {}))


@pytest.mark.parametrize(("most", "verdict"), [(2e-3, "held"), (5e-4, "not held")])
def test_the_difference_of_outputs_is_what_was_planted(most: float, verdict: str) -> None:
    found = difference(
        bench((NUDGED,), {}), claim("difference", steps=["nudged"], at_most=most), None
    )
    assert found.value == pytest.approx(1e-3, rel=1e-2)  # outputs are smaller than 1
    assert found.verdict == verdict


def test_outputs_that_are_no_numbers_or_of_another_shape_differ_by_all() -> None:
    nothing = Planted(name="nothing", change=lambda out: out * float("nan"))
    narrow = Planted(name="narrow", change=lambda out: out[:, :2])
    for planted in (nothing, narrow):
        wanted = claim("difference", steps=[planted.name], at_most=1)
        found = difference(bench((planted,), {}), wanted, None)
        assert (found.verdict, found.value) == ("not held", None)
        assert found.reason


def test_accuracy_is_kept_or_lost_as_the_gate_bounds_it() -> None:
    there = bench((SAME, NUDGED, WRONG), {})
    kept = accuracy(there, claim("accuracy", steps=["same"]), None)
    assert (kept.verdict, kept.value) == ("held", 0.0)
    lost = accuracy(there, claim("accuracy", steps=["wrong"]), None)
    assert (lost.verdict, lost.value) == ("not held", pytest.approx(2.0))  # |-y - y| / |y|
    # Of alternatives the one that loses least counts.
    both = claim("accuracy", alternatives=[["wrong"], ["nudged"]], at_most=5, unit="%")
    found = accuracy(there, both, None)
    assert (found.verdict, found.steps[0].speedup) == ("held", "nudged")
    quality = there.tried(both.alternatives[1]).evidence.quality
    assert quality is not None
    assert found.value == pytest.approx(100 * float(quality.divergence.mean()))


def test_a_bound_that_straddles_the_limit_decides_nothing() -> None:
    there = bench((NUDGED,), {})
    quality = there.tried(claim("accuracy", steps=["nudged"]).steps).evidence.quality
    assert quality is not None
    mean, worst = float(quality.divergence.mean()), float(quality.divergence.max())
    between = mean + 0.01 * (worst - mean)  # the point lies inside, its bound outside
    found = accuracy(there, claim("accuracy", steps=["nudged"], at_most=between), None)
    assert found.verdict == "not decided"
