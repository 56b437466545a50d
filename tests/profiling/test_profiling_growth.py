"""Exponents against numpy's fit, planted growth found, and reasons where it cannot be told."""

import gc
from unittest.mock import patch

import numpy as np
import pytest
import torch
from oracles.profiles import slope
from profile_cases import FixedLength, Pairwise, Pointwise, random, seeded
from torch import nn

from zsei.profiling import growth as module
from zsei.profiling.growth import (
    _quick_collections,
    cut,
    exponent,
    growth,
    plans,
    quarters,
    sequence_length,
)
from zsei.profiling.record import Growth
from zsei.subject.objective import Objective
from zsei.subject.types import Anatomy, Batch, ModelSource, Subject
from zsei.timing.device import find_device
from zsei.timing.pairs import Rounds

CPU = find_device("cpu")


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_exponent_and_interval_are_those_of_numpys_fit(power: float, noise: float) -> None:
    generator = np.random.default_rng(int(10 * power))
    sizes = [4.0, 8.0, 16.0] * 3
    values = [2e-3 * n**power * float(np.exp(noise * generator.normal())) for n in sizes]
    found = exponent(sizes, values)
    assert found is not None
    told = (found.median, found.low, found.high)
    assert told == pytest.approx(slope(sizes, values), rel=1e-6, abs=1e-6)
    if not noise:
        assert told == pytest.approx((power, power, power), abs=1e-6)


def test_the_interval_holds_the_planted_exponent_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    sizes = [4.0, 8.0, 16.0] * 2
    inside = 0
    for _ in range(400):
        values = [n**1.5 * float(np.exp(0.1 * generator.normal())) for n in sizes]
        found = exponent(sizes, values)
        assert found is not None
        inside += found.low <= 1.5 <= found.high
    assert 0.85 < inside / 400 < 0.95


@pytest.mark.parametrize(
    ("sizes", "values"),
    [([2, 4], [1.0, 2.0]), ([4, 4, 4], [1.0, 1.1, 0.9]), ([1, 2, 4], [0.0, 1.0, 2.0])],
    ids=["two values", "one size", "nothing held"],
)
def test_too_little_gives_no_exponent(sizes: list[float], values: list[float]) -> None:
    assert exponent(sizes, values) is None


def test_sizes_are_quarters_halves_and_the_whole() -> None:
    assert quarters(16) == (4, 8, 16)
    assert quarters(2) == (1, 2)
    assert quarters(1) == (1,)
    over_batch, over_length = plans(Batch(inputs=(torch.ones(32, 64, dtype=torch.long),)))
    assert over_batch.sizes == ((2, 64), (5, 64), (10, 64))
    assert over_length.sizes == ((5, 16), (5, 32), (5, 64))
    # In forwards of the batch, at costs in proportion to the number of positions.
    every = {*over_batch.sizes, *over_length.sizes}
    assert (module.ROUNDS + 1) * sum(n * t for n, t in every) / (32 * 64) < 2
    few, _ = plans(Batch(inputs=(torch.ones(8, 64, dtype=torch.long),)))
    assert few.along == (1, 2, 4)


def test_a_cut_keeps_the_beginnings_of_the_first_samples() -> None:
    ids, values = torch.arange(32).reshape(4, 8), random(4, 3)
    batch = Batch(inputs=(ids, values), mask=torch.ones(4, 8, dtype=torch.bool))
    found = cut(batch, (2, 4))
    assert torch.equal(found.inputs[0], ids[:2, :4])
    assert torch.equal(found.inputs[1], values[:2])


def test_what_is_no_sequence_has_no_length() -> None:
    assert sequence_length(Batch(inputs=(random(4, 8),))) is None
    assert sequence_length(Batch(inputs=(random(4, 3, 8, 8),))) is None
    assert sequence_length(Batch(inputs=(random(4, 8, 3),))) == 8
    assert sequence_length(Batch(inputs=(torch.ones(4, 8, dtype=torch.long),))) == 8


def test_memory_for_pairs_of_positions_grows_with_the_square_of_the_length() -> None:
    found = _memory(Pairwise, random(8, 128, 4))
    assert _exponent(found["length"]) == pytest.approx(2, abs=0.15)
    assert _exponent(found["batch"]) == pytest.approx(1, abs=0.01)


def test_memory_for_single_positions_grows_with_the_length() -> None:
    found = _memory(Pointwise, random(8, 128, 4))
    assert _exponent(found["length"]) == pytest.approx(1, abs=0.01)
    assert _exponent(found["batch"]) == pytest.approx(1, abs=0.01)


def test_a_model_of_one_length_is_told_with_its_own_words() -> None:
    found = _memory(FixedLength, random(8, 64, 4))
    assert found["length"].exponent is None
    assert "Could not tell" in found["length"].note
    assert "sequences are of length 64" in found["length"].note
    assert _exponent(found["batch"]) == pytest.approx(1, abs=0.01)


def test_samples_that_are_no_sequences_and_a_batch_of_one_are_said() -> None:
    linear = nn.Sequential(nn.Linear(4, 3)).eval()
    found = growth(_subject(linear), Batch(inputs=(random(1, 4),)), CPU)
    assert [fit.exponent for fit in found] == [None] * 4
    assert ["one sample" in fit.note for fit in found] == [True, True, False, False]
    assert ["no sequences" in fit.note for fit in found] == [False, False, True, True]


def test_the_time_of_planted_durations_has_the_planted_exponent() -> None:
    def timed(sides: dict[str, object], *_: object, **__: object) -> Rounds:
        for side in sides.values():
            side(0)  # type: ignore[operator]
        sizes = {name: eval(name) for name in sides}
        return Rounds(
            seconds={name: np.array([1e-3 * n * t**1.5] * 2) for name, (n, t) in sizes.items()},
            batches=np.zeros(2, dtype=np.int64),
        )

    with patch.object(module, "interleave", timed):
        found = growth(_subject(seeded(Pointwise)), Batch(inputs=(random(8, 64, 4),)), CPU)
    by_axis = {fit.over: fit for fit in found if fit.measure == "seconds"}
    assert _exponent(by_axis["batch"]) == pytest.approx(1)
    assert _exponent(by_axis["length"]) == pytest.approx(1.5)
    assert by_axis["length"].sizes == (16, 32, 64)
    assert by_axis["length"].at == "2 samples"


def test_objects_that_were_set_aside_are_given_back() -> None:
    gc.unfreeze()  # what was set aside for all tests
    try:
        with _quick_collections():
            assert gc.get_freeze_count() > 0
        assert gc.get_freeze_count() == 0
        gc.freeze()
        with _quick_collections():
            pass
        assert gc.get_freeze_count() > 0
    finally:
        gc.freeze()


def test_the_kind_that_grows_fastest_is_named() -> None:
    fit = Growth(over="length", measure="seconds", kinds={"mlp": 1.0, "attention": 1.9})
    assert fit.fastest == "attention"
    assert Growth(over="length", measure="seconds").fastest == ""


def _memory(build: type[nn.Module], data: torch.Tensor) -> dict[str, Growth]:
    found = growth(_subject(seeded(build)), Batch(inputs=(data,)), CPU)
    return {fit.over: fit for fit in found if fit.measure == "bytes"}


def _subject(model: nn.Module) -> Subject:
    """As much of a subject as is read here."""
    nothing = Anatomy(components=(), nodes={}, outputs={}, sites=())
    return Subject(
        source=ModelSource(name="model", kind="object"), model=model, model_hash="", program=None,
        input_names=("by position",), calibration=(), held_out=(), anatomy=nothing,
        objective=Objective(name="fidelity", output="values", reason="asked for"),
    )  # fmt: skip


def _exponent(fit: Growth) -> float:
    assert fit.exponent is not None
    return fit.exponent.median
