"""What stands in for what could not be measured, case by case."""

from typing import Any

import pytest

from zsei.checkpoint.measure.fallbacks import CONFIDENCE, LOST, outcome_of
from zsei.checkpoint.tasks import GroupMeasure, MeasureTask, Snapshot, Unreadable
from zsei.engines.engine import Done, Status

ALL = ("channels", "heads", "layers")


def task(**changes: Any) -> MeasureTask:
    given = {
        "id": "7/0", "snapshot": Snapshot(epoch=7, data=b""), "layers": (0, 1, None),
        "levels": ALL, "ablate": 5,
    }  # fmt: skip
    return MeasureTask(**(given | changes))


def group(**changes: Any) -> GroupMeasure:
    given = {"layers": (0, 1, None), "depth": "full", "sites": (), "measurements": {}}
    return GroupMeasure.model_validate(given | changes)


BASIC = {"id": "7/0/basic", "basic": True, "ablate": 0}
CHANNELS = {"id": "7/0/channels", "levels": ("channels",), "ablate": 0}
CASES: list[tuple[Status, dict[str, Any], dict[str, Any] | None, str]] = [
    ("timeout", {}, BASIC, "ran out of time (w): magnitudes of the weights stand in"),
    ("crash", {}, BASIC, "lost their worker (w): magnitudes of the weights stand in"),
    ("error", {}, BASIC, "failed (w): magnitudes of the weights stand in"),
    ("memory", {}, CHANNELS, "went over the memory of a worker (w): channels only"),
    # Without channels to fall back to, and channels alone that are too many, magnitudes stand in.
    ("memory", {"levels": ("heads",)}, BASIC | {"levels": ("heads",)}, "magnitudes"),
    ("memory", CHANNELS, CHANNELS | {"id": "7/0/channels/basic", "basic": True}, "magnitudes"),
    ("timeout", CHANNELS, CHANNELS | {"id": "7/0/channels/basic", "basic": True}, "magnitudes"),
    ("timeout", BASIC, None, "nothing stands in for it"),
    ("memory", BASIC, None, "nothing stands in for it"),
    ("crash", BASIC, None, "nothing stands in for it"),
    ("error", BASIC, None, "nothing stands in for it"),
]


@pytest.mark.parametrize(("status", "given", "again", "said"), CASES)
def test_each_failure_has_its_fallback(
    status: Status, given: dict[str, Any], again: dict[str, Any] | None, said: str
) -> None:
    found = outcome_of([Done(task=task(**given), status=status, why="w")])
    assert found.groups == ()
    assert found.again == ((task(**again),) if again else ())
    assert found.lost == (again is None)
    assert said in found.notes[0]
    assert found.notes[0].startswith("layers 0 to 1 and what stands outside of layers")


def test_what_was_measured_is_kept_beside_what_was_not() -> None:
    good = Done(task=task(), status="done", value=group())
    late = Done(task=task(id="7/1", layers=(4,)), status="timeout", why="300 s")
    found = outcome_of([good, late])
    assert found.groups == (group(),)
    assert [again.id for again in found.again] == ["7/1/basic"]
    assert found.notes == ("layer 4 ran out of time (300 s): magnitudes of the weights stand in",)
    assert found.unreadable == ""


@pytest.mark.parametrize(
    ("given", "depth", "confidence"),
    [({}, "full", 1.0), (CHANNELS, "channels", 0.8), (BASIC, "basic", 0.5)],
)
def test_confidence_falls_with_the_depth(
    given: dict[str, Any], depth: str, confidence: float
) -> None:
    done = Done(task=task(**given), status="done", value=group())
    (found,) = outcome_of([done]).groups
    assert (found.depth, found.confidence) == (depth, confidence)
    # What a worker says of itself is never raised: no gradients are 0.5 whatever was asked for.
    low = group(depth="basic", confidence=0.3)
    (found,) = outcome_of([Done(task=task(**given), status="done", value=low)]).groups
    assert found.confidence == 0.3
    assert CONFIDENCE[depth] == confidence >= LOST


def test_a_checkpoint_that_cannot_be_read_ends_it() -> None:
    damaged = Done(task=task(id="7/1"), status="done", value=Unreadable(why="cut short"))
    late = Done(task=task(), status="timeout")
    found = outcome_of([late, damaged])
    assert found.unreadable == "cut short"
    assert found.again == ()


def test_a_result_of_another_kind_is_not_taken_for_one() -> None:
    found = outcome_of([Done(task=task(), status="done", value="nonsense")])
    assert found.groups == ()
    assert found.again[0].basic
    assert "came back as something else" in found.notes[0]
    nobody = outcome_of([Done(task=task(layers=(None,)), status="error", why="")])
    assert nobody.notes[0].startswith("what stands outside of layers failed:")
    odd = outcome_of([Done(task=task(layers=(0, 2)), status="error", why="")])
    assert odd.notes[0].startswith("layers 0, 2 failed:")
