"""Which sizes the search goes through: down to a given size, or as far as the loss allows."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from zsei.gate.latency import measure_latency
from zsei.pruning.allocate import Saving
from zsei.pruning.cut import make_cut
from zsei.pruning.measure import merit_of
from zsei.pruning.order import Curve
from zsei.pruning.records import Budget, Point, edits_of
from zsei.pruning.search import best_repair, scored, step
from zsei.pruning.task import Found, Task
from zsei.surgery.edits import Edit

STEPS = 4
"""Steps to a given size; more cost time and gain little."""
FINER = 0.93
"""Where only the loss is bounded, each step leaves this share of what there was."""
MOST = 20
"""Steps at most where only the loss is bounded."""
HALVINGS = 2
"""Times the step that went too far is halved."""
TRIES = 4
"""Further steps when the clock says that a size in operations is not yet the size in time."""
PAIRS = 15
"""Timed pairs per measurement of latency."""
CLOSE = 0.85
"""The search stops at this share of `max_drop`: the gate bounds the loss, on other samples."""

Latency = tuple[float, float, float]


@dataclass(kw_only=True)
class Walk:
    """The cuts found on the way, and what is known beside them."""

    task: Task
    budget: Budget
    found: list[Found]
    """The first is the original."""
    keep: Callable[[Point], None]
    """Called with every step's point as soon as it is known, so that nothing is lost."""
    progress: Callable[[float, str], None]
    refused: dict[str, str] = field(default_factory=dict)
    latency: dict[str, Latency] = field(default_factory=dict)
    ended: str = ""
    """Why it ended before the budget was reached; empty when it was."""
    known: list[Point] = field(default_factory=list)
    """Points of the steps an interrupted search took, first first; they are taken again."""
    resumed: int = 0
    """How many there were."""
    scores: tuple[frozenset[Edit], list[Curve]] | None = None
    """What was scored last: a step that is halved goes on from the same place."""

    def notes(self) -> list[str]:
        """What a reader should know of the way."""
        return [] if not self.ended else [f"The search ended early: {self.ended}."]

    @property
    def last(self) -> Found:
        """The cut that the next step goes on from."""
        return self.found[-1]


def origin(task: Task) -> Found:
    """The original as the first point."""
    merit = merit_of(task.original, task.subject, task.choose)
    point = Point(
        number=0, variant="original", repair="none", taken=(), parameters=1.0, flops=1.0,
        predicted=0.0, loss=0.0, drop=0.0, measured=merit.measured,
    )  # fmt: skip
    return Found(point=point, cut=None)


def again(task: Task, point: Point) -> Found:
    """A point of an interrupted search, carried out again."""
    if not point.taken:
        return Found(point=point, cut=None)
    edits = edits_of(point.taken, task.subject.anatomy)
    return Found(point=point, cut=make_cut(task.original, edits, task.fit, point.repair))


def walk(way: Walk) -> None:
    """Go on until the budget is reached, or nothing more can go."""
    if way.budget.parameters is not None:
        _down_to(way, way.budget.parameters, "parameters", STEPS)
    elif way.budget.flops is not None:
        _down_to(way, way.budget.flops, "flops", STEPS)
    elif way.budget.latency is not None:
        _down_in_time(way, way.budget.latency)
    else:
        _as_far_as(way, CLOSE * (way.budget.max_drop or 0.0))
    if len(way.found) > 1:
        if way.last.cut is None:
            way.found[-1] = again(way.task, way.last.point)
        way.found[-1] = best_repair(way.task, way.last, way.progress)


def _left(found: Found, saving: Saving) -> float:
    return found.point.parameters if saving == "parameters" else found.point.flops


def _down_to(way: Walk, share: float, saving: Saving, steps: int) -> None:
    """Steps of equal ratio until only `share` is left."""
    start = _left(way.found[0], saving)
    for number in range(1, steps + 1):
        goal = start * (share / start) ** (number / steps)
        if _left(way.last, saving) <= goal + 1e-9:
            continue  # done before an interruption, or one step went further than it had to
        if not _one(way, 1 - goal, saving, (number - 1) / steps, 1 / steps):
            way.ended = way.ended or (
                f"only {1 - _left(way.last, saving):.1%} of the {_name(saving)} can go: the rest "
                f"{kept_by(way.task)}"
            )
            return


def _down_in_time(way: Walk, share: float) -> None:
    """As operations first; then on by what the clock says."""
    _down_to(way, share, "flops", STEPS)
    for _ in range(TRIES):
        if way.ended or len(way.found) < 2:
            return
        _, _, high = _timed(way)
        if high <= share:
            return
        # In proportion to what is missing, and a little more.
        goal = _left(way.last, "flops") * min(0.98 * share / high, 0.98)
        if not _one(way, 1 - goal, "flops", 0.9, 0.1):
            way.ended = f"time cannot be brought below {high:.0%} by cutting"
            return
    if _timed(way)[2] > share:
        way.ended = f"after {TRIES} further steps it still takes {_timed(way)[2]:.0%} of the time"


def _as_far_as(way: Walk, drop: float) -> None:
    """Steps until the loss is more than allowed; the last one is then halved."""
    for number in range(len(way.found), MOST):
        share = FINER**number
        if way.last.point.drop > drop or not _one(way, 1 - share, "parameters", number / MOST, 0.1):
            break
    for _ in range(HALVINGS):
        if way.last.point.drop <= drop or len(way.found) < 2:
            return
        too_far, inside = way.found[-1], way.found[-2]
        middle = (too_far.point.parameters + inside.point.parameters) / 2
        way.found.pop()
        if not _one(way, 1 - middle, "parameters", 0.9, 0.05):
            way.found.append(too_far)
            break
    if way.last.point.drop > drop and len(way.found) > 1:
        way.found.pop()


def _one(way: Walk, goal: float, saving: Saving, begin: float, part: float) -> bool:
    """One step; False when nothing more can go."""
    if way.known:
        way.found.append(Found(point=way.known.pop(0), cut=None))
        return True
    if way.last.cut is None and way.last.point.taken:
        way.found[-1] = again(way.task, way.last.point)
    number = way.last.point.number + 1

    def report(share: float, words: str) -> None:
        way.progress(begin + part * share, f"step {number}, {words}")

    before = way.last
    key = frozenset(before.edits)
    if way.scores is None or way.scores[0] != key:
        program = before.cut.program if before.cut else way.task.original
        curves, refused = scored(
            way.task, before.edits, program, lambda share: report(0.4 * share, "scoring")
        )
        way.scores = key, curves
        way.refused |= refused
    found = step(
        way.task, before, way.scores[1], goal, saving, number,
        lambda share, words: report(0.4 + 0.6 * share, words),
    )  # fmt: skip
    if found is None:
        return False
    way.found.append(found)
    way.keep(found.point)
    for place in range(len(way.found) - 2):
        # Weights of the last two cuts are enough; `again` makes the others from their points.
        way.found[place] = replace(way.found[place], cut=None)
    return True


def _timed(way: Walk) -> Latency:
    if way.last.cut is None:
        way.found[-1] = again(way.task, way.last.point)
    name = str(way.last.point.number)
    if name not in way.latency:
        inputs = way.task.fit[0].inputs
        program = way.last.cut.program if way.last.cut else way.task.original
        way.latency[name] = measure_latency(way.task.original, program, inputs, pairs=PAIRS)
    return way.latency[name]


def kept_by(task: Task) -> str:
    """Why no more can go, and which settings say so."""
    settings = task.settings
    return (
        f"cannot be cut, or is kept by min_heads = {settings.min_heads}, min_channels = "
        f"{settings.min_channels}, max_layer_share = {settings.max_layer_share:g} (settings, as in "
        f"zsei.toml or ZSEI_MIN_CHANNELS=4), by the kinds that may go, or by what is named to stay"
    )


def _name(saving: Saving) -> str:
    return "parameters" if saving == "parameters" else "operations"
