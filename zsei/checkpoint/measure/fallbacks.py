"""What stands in for a group of layers that could not be measured as asked.

    out of time, or its worker died twice    magnitudes of the weights (`basic`), confidence 0.5
    a worker grew over its memory            channels only, confidence 0.8; then as above
    an exception while measuring             magnitudes of the weights, confidence 0.5
    magnitudes could not be had either       the group is left out, confidence 0.5
    the checkpoint cannot be read            nothing is measured: the previous analysis stands

Each is said in words; nothing here runs anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zsei.checkpoint.tasks import GroupMeasure, MeasureTask, Unreadable
from zsei.engines.engine import Done

CONFIDENCE = {"full": 1.0, "channels": 0.8, "basic": 0.5}
"""Confidence by depth, at most."""
LOST = 0.5
"""Confidence at most where a group is missing, or an earlier analysis stands in."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of some tasks, and what is to be tried for the rest."""

    groups: tuple[GroupMeasure, ...] = ()
    again: tuple[MeasureTask, ...] = ()
    """Smaller tasks in the place of those that failed."""
    notes: tuple[str, ...] = ()
    lost: int = 0
    """Groups that nothing stands in for."""
    unreadable: str = ""
    """Why the checkpoint cannot be read; then nothing else counts."""


def outcome_of(done: Sequence[Done]) -> Outcome:
    """What to do about the tasks that came back, which are `MeasureTask`s. A pure function."""
    groups: list[GroupMeasure] = []
    again: list[MeasureTask] = []
    notes: list[str] = []
    lost = 0
    for one in done:
        if isinstance(one.value, Unreadable):
            return Outcome(unreadable=one.value.why)
        if one.status == "done" and isinstance(one.value, GroupMeasure):
            groups.append(_lowered(one.task, one.value))
            continue
        smaller = _smaller(one)
        lost += smaller is None
        again += [smaller] if smaller else []
        notes.append(f"{_named(one.task)} {_wrong(one)}: {_instead(smaller)}")
    return Outcome(groups=tuple(groups), again=tuple(again), notes=tuple(notes), lost=lost)


def _lowered(task: MeasureTask, group: GroupMeasure) -> GroupMeasure:
    """A group with what its depth allows; a task that was cut down says so whatever came back."""
    depth = "basic" if task.basic else "channels" if task.id.endswith(_CHANNELS) else group.depth
    confidence = min(group.confidence, CONFIDENCE[depth])
    return group.model_copy(update={"depth": depth, "confidence": confidence})


_CHANNELS, _BASIC = "/channels", "/basic"
_WORDS = 200
"""Characters that are told of an exception."""


def _smaller(done: Done) -> MeasureTask | None:
    task: MeasureTask = done.task
    if task.basic:
        return None
    if done.status == "memory" and task.levels != ("channels",) and "channels" in task.levels:
        name = task.id + _CHANNELS
        return replace(task, id=name, levels=("channels",), ablate=0)
    return replace(task, id=task.id + _BASIC, basic=True, ablate=0)


def _named(task: MeasureTask) -> str:
    numbers = [number for number in task.layers if number is not None]
    outside = "what stands outside of layers"
    if not numbers:
        return outside
    if len(numbers) == 1:
        named = f"layer {numbers[0]}"
    elif numbers == list(range(numbers[0], numbers[-1] + 1)):
        named = f"layers {numbers[0]} to {numbers[-1]}"
    else:
        named = f"layers {', '.join(map(str, numbers))}"
    return named if None not in task.layers else f"{named} and {outside}"


def _wrong(done: Done) -> str:
    told = {
        "done": "came back as something else",
        "timeout": "ran out of time",
        "memory": "went over the memory of a worker",
        "crash": "lost their worker",
        "error": "failed",
    }[done.status]
    why = " ".join(done.why.split())
    why = why if len(why) <= _WORDS else f"{why[:_WORDS]} ..."
    return f"{told} ({why})" if why else told


def _instead(task: MeasureTask | None) -> str:
    if task is None:
        return "nothing stands in for it"
    return "magnitudes of the weights stand in" if task.basic else "channels only"
