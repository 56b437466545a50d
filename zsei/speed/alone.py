"""Every variant of every speed-up against one baseline, each alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from zsei.errors import SpeedUpRefused
from zsei.records import Failure
from zsei.speed.baseline import BASELINE
from zsei.speed.measure import CANDIDATE, Bench, Tried, attempt, sentence
from zsei.speed.parts import PartTimes, part_times, ratios
from zsei.speed.record import Trial
from zsei.speed.state import undisturbed
from zsei.speedups import SpeedUp, Step
from zsei.speedups.speedup import step_of

OutOfTime = Callable[[], bool]
Report = Callable[[float, str], None]
"""Called with the share that is done and what comes next."""
SPENT = "the budget of time was spent before its turn; give more with --budget"


@dataclass(frozen=True, kw_only=True, eq=False)
class Alone:
    """What came of every speed-up by itself."""

    trials: tuple[Trial, ...]
    refused: tuple[Failure, ...]
    """What cannot be had here, crashed, or had no turn, and why."""
    parts: dict[str, PartTimes] = field(default_factory=dict)
    """Trial id -> time with it / time without it, for each part; accepted trials whose parts can be
    seen."""

    def best(self) -> tuple[Trial, ...]:
        """The fastest accepted variant of each speed-up, the fastest first."""
        found: dict[str, Trial] = {}
        for trial in self.trials:
            name = trial.steps[0].speedup
            if trial.verdict.outcome != "accepted":
                continue
            if name not in found or speed_of(trial) > speed_of(found[name]):
                found[name] = trial
        return tuple(sorted(found.values(), key=lambda t: (-speed_of(t), t.steps[0].speedup)))


def speed_of(trial: Trial) -> float:
    """The measured speed-up; 0 where it never ran."""
    return 0.0 if trial.speed_up is None else trial.speed_up.median


def measure_alone(
    bench: Bench, speedups: Sequence[SpeedUp], out_of_time: OutOfTime, report: Report
) -> Alone:
    """Try each variant of each speed-up; one that cannot be had takes nothing else with it."""
    trials: list[Trial] = []
    refused: list[Failure] = []
    parts: dict[str, PartTimes] = {}
    for number, speedup in enumerate(speedups):
        report(number / len(speedups), speedup.name)
        if out_of_time():
            refused.append(Failure(stage="alone", what=speedup.name, why=SPENT))
            continue
        for step in _variants(bench, speedup, refused):
            report(number / len(speedups), step.text())
            if out_of_time():
                refused.append(Failure(stage="alone", what=step.text(), why=SPENT))
                continue
            try:
                tried = attempt(bench, [step])
            except SpeedUpRefused as error:
                refused.append(Failure(stage="alone", what=step.text(), why=str(error)))
                continue
            trials.append(tried.trial)
            if tried.trial.verdict.outcome == "accepted":
                ratio = _by_part(bench, tried)
                if ratio is not None:
                    parts[tried.trial.id] = ratio
            del tried  # a converted copy is let go before the next one is made
    return Alone(trials=tuple(trials), refused=tuple(refused), parts=parts)


def _by_part(bench: Bench, tried: Tried) -> PartTimes | None:
    """What it made of the time of each part; None where its parts cannot be seen."""
    sides = {BASELINE: bench.baseline.runnable, CANDIDATE: tried.runnable}
    try:
        with undisturbed():
            return ratios(part_times(bench.workload, sides), BASELINE, CANDIDATE)
    except Exception:
        return None  # a module that hooks upset is as opaque as one that has none


def _variants(bench: Bench, speedup: SpeedUp, refused: list[Failure]) -> list[Step]:
    """What is worth trying of one speed-up; why not, where that is nothing."""
    try:
        with undisturbed():
            return [step_of(speedup, params) for params in speedup.variants(bench.workload)]
    except SpeedUpRefused as error:
        why = str(error)
    except Exception as error:
        why = f"{speedup.name} must say what it can do here; it stopped with {sentence(error)}"
    refused.append(Failure(stage="alone", what=speedup.name, why=why))
    return []
