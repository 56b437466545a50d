import itertools

import pytest
from oracles import checkpoints as oracle

from zsei.checkpoint.schedule import (
    SHAPES,
    Epochs,
    Schedule,
    phase_of,
    sparsity_at,
    sparsity_at_step,
    sparsity_of_epoch,
)
from zsei.errors import UsageError
from zsei.gate.phases import CAPS


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("initial", [0.0, 0.07])
def test_every_step_is_the_oracles(shape: str, initial: float) -> None:
    schedule = Schedule(shape=shape, initial=initial, target=0.4)  # type: ignore[arg-type]
    found = [sparsity_at_step(schedule, step, 37) for step in range(38)]
    wanted = [oracle.curve(shape, initial, 0.36, 3.0, step, 37) for step in range(38)]
    assert found == pytest.approx(wanted, abs=1e-12)
    assert found[0] == pytest.approx(initial)
    assert found[-1] == pytest.approx(0.36)
    assert all(a <= b for a, b in itertools.pairwise(found))


def test_the_shapes_are_different_curves() -> None:
    half = {s: sparsity_at(Schedule(shape=s, target=0.8, margin=0.0), 0.5) for s in SHAPES}
    assert half["linear"] == pytest.approx(0.4)
    assert half["polynomial"] == pytest.approx(0.1)
    assert half["exponential"] == pytest.approx(1 - 0.2**0.5)


def test_the_margin_is_never_asked_for_and_what_is_gone_does_not_come_back() -> None:
    assert Schedule(target=0.2, margin=0.1).end == pytest.approx(0.18)
    assert Schedule(initial=0.19, target=0.2, margin=0.1).end == 0.19
    assert sparsity_at(Schedule(initial=0.19, target=0.2), 0.5) == 0.19
    assert sparsity_at(Schedule(), -3) == 0.0
    assert sparsity_at(Schedule(), 3) == pytest.approx(0.135)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": 15.0}, "target must be at least 0 and below 1, and it is 15"),
        ({"initial": -0.1}, "initial"),
        ({"margin": 1.0}, "margin"),
        ({"power": 0.0}, "power must be above 0"),
        ({"target": float("nan")}, "target"),
        ({"shape": "cubic"}, "'cubic' is none of them"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Schedule(**changes)  # type: ignore[arg-type]


def test_progress_must_be_a_number() -> None:
    with pytest.raises(UsageError, match="NaN"):
        sparsity_at(Schedule(), float("nan"))
    with pytest.raises(UsageError, match="at least one step"):
        sparsity_at_step(Schedule(), 0, 0)


def test_phases_of_the_epochs() -> None:
    wanted = {
        "preparation": range(1, 31),
        "conservative": range(31, 61),
        "moderate": range(61, 91),
        "aggressive": range(91, 121),
        "validation": range(121, 200),
    }
    for phase, epochs in wanted.items():
        assert {phase_of(epoch) for epoch in epochs} == {phase}


def test_phases_of_another_length_and_of_none() -> None:
    epochs = Epochs(preparation=0, conservative=2, moderate=0, aggressive=1)
    assert [phase_of(e, epochs) for e in range(1, 5)] == [
        "conservative", "conservative", "aggressive", "validation",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="count from 1"):
        phase_of(0)
    with pytest.raises(UsageError, match="at least one of them must cut"):
        Epochs(conservative=0, moderate=0, aggressive=0)
    with pytest.raises(UsageError, match="0 epochs or more"):
        Epochs(moderate=-1)


@pytest.mark.parametrize("shape", SHAPES)
def test_epochs_stay_inside_the_caps_of_their_phases(shape: str) -> None:
    schedule = Schedule(shape=shape, target=0.5)  # type: ignore[arg-type]
    found = [sparsity_of_epoch(schedule, epoch) for epoch in range(1, 140)]
    assert found[:30] == [0.0] * 30
    assert all(a <= b for a, b in itertools.pairwise(found))
    for epoch, share in enumerate(found, 1):
        phase = phase_of(epoch)
        cap = CAPS["aggressive" if phase == "validation" else phase]
        assert share <= 0.9 * cap + 1e-12
    assert found[119] == pytest.approx(0.18)  # what is wanted is more than the cap
    assert set(found[119:]) == {found[119]}


def test_an_epoch_inside_the_caps_follows_the_curve() -> None:
    schedule = Schedule(target=0.04)
    assert sparsity_of_epoch(schedule, 75) == pytest.approx(0.9 * 0.04 / 8)
    assert sparsity_of_epoch(Schedule(initial=0.1, target=0.3), 40) == 0.1
