"""Tries speed-ups of training against the baseline: same steps, same learning, memory, time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zsei.errors import ObjectiveError, SpeedUpRefused, UsageError
from zsei.gate.quality import Reference
from zsei.gate.speed import speed_limits
from zsei.gate.training_speed import TrainingEvidence, judge_training
from zsei.records import Failure, Measurement, Verdict, digest
from zsei.settings import Settings
from zsei.speed.alone import SPENT, Alone, OutOfTime, Report
from zsei.speed.baseline import BASELINE
from zsei.speed.measure import CANDIDATE, named, sentence
from zsei.speed.record import Trial
from zsei.speed.state import undisturbed
from zsei.speed.training import TrainingRace, compare_training, random_state_kept
from zsei.speed.training_parts import part_ratios
from zsei.speed.training_same import (
    STEPS,
    Sameness,
    learnt,
    learnt_beside,
    sameness,
    stays_finite,
    train,
)
from zsei.speedups.speedup import Step, step_of
from zsei.speedups.training import (
    TRAINING_SPEED_UPS,
    carry_out_training,
    find_training_speed_up,
)
from zsei.speedups.training.protocol import TrainingSpeedUp
from zsei.speedups.training.setup import OptimizerRecipe, TrainingSetup, without_dropout
from zsei.speedups.workload import Workload

ROUNDS = 11
"""Timed steps of each side: the 90 % interval leaves out two at each end."""
_FEW = 5
"""Rounds for what is rejected already: its time is told and decides nothing."""

Compare = Callable[..., TrainingRace]
"""`compare_training`, or a stand-in with the same arguments whose clock is planted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingBench:
    """Where speed-ups of training are tried: all that stays the same from trial to trial."""

    workload: Workload
    reference: Reference
    """What the baseline answers on held-out samples after `count` steps."""
    losses: tuple[float, ...]
    """Of those steps."""
    settings: Settings
    recipe: OptimizerRecipe | None = None
    shelf: Sequence[TrainingSpeedUp] = TRAINING_SPEED_UPS
    compare: Compare = compare_training
    rounds: int = ROUNDS
    count: int = STEPS

    def fresh(self, steps: Sequence[Step]) -> TrainingSetup:
        """A setup with these steps, from the model's own weights, without dropout."""
        return without_dropout(
            carry_out_training(steps, self.workload, recipe=self.recipe, shelf=self.shelf)
        )

    def is_for_memory(self, steps: Sequence[Step]) -> bool:
        """Whether one of them is there to save memory, and is judged by it."""
        return any(find_training_speed_up(s.speedup, self.shelf).gain == "memory" for s in steps)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingTried:
    """A trial with its race."""

    trial: Trial
    raced: TrainingRace


def training_bench(
    workload: Workload,
    settings: Settings,
    *,
    recipe: OptimizerRecipe | None = None,
    shelf: Sequence[TrainingSpeedUp] = TRAINING_SPEED_UPS,
    compare: Compare = compare_training,
    rounds: int = ROUNDS,
    count: int = STEPS,
) -> TrainingBench:
    """Train the baseline for some steps and keep what it answers then.

    Raises:
        ObjectiveError: There is no loss to train by.
        ModelError: The baseline itself trains to outputs that are not finite.
    """
    with undisturbed(), random_state_kept(workload):
        setup = without_dropout(carry_out_training((), workload, recipe=recipe, shelf=shelf))
        losses = train(workload, setup, count=count, seed=settings.seed)
        reference = learnt(workload, setup)
    return TrainingBench(
        workload=workload, reference=reference, losses=losses, settings=settings, recipe=recipe,
        shelf=shelf, compare=compare, rounds=rounds, count=count,
    )  # fmt: skip


def try_training(
    bench: TrainingBench,
    steps: Sequence[Step],
    *,
    beside: Mapping[str, Sequence[Step]] | None = None,
) -> TrainingTried:
    """Carry out speed-ups, compare steps and learning with the baseline's, time both, and judge.

    Args:
        bench: Where they are tried.
        steps: What is tried, all together.
        beside: Other ways that are timed in the same rounds.

    Raises:
        UsageError: A step names no speed-up, or its parameters do not fit.
        SpeedUpRefused: It cannot be carried out, or it stopped with an error, which is named.
    """
    try:
        with undisturbed(), random_state_kept(bench.workload):
            return _tried(bench, steps, beside or {})
    except (SpeedUpRefused, UsageError, ObjectiveError):
        raise
    except Exception as error:
        raise SpeedUpRefused(
            f"{named(steps)} must train this model; it stopped with {sentence(error)}"
        ) from error


def _tried(
    bench: TrainingBench, steps: Sequence[Step], beside: Mapping[str, Sequence[Step]]
) -> TrainingTried:
    workload, seed = bench.workload, bench.settings.seed
    same = sameness(workload, bench.fresh(()), bench.fresh(steps), count=bench.count, seed=seed)
    setup = bench.fresh(steps)
    losses = train(workload, setup, count=bench.count, seed=seed)
    finite = stays_finite(setup, losses)
    quality = learnt_beside(workload, setup, bench.reference)
    evidence = TrainingEvidence(finite=finite, difference=same.largest, quality=quality)
    told = _judged(bench, steps, evidence)
    possible = all(r.outcome == "passed" for r in told.stages if r.stage not in _LAST)
    del setup
    raced = bench.compare(
        workload, {BASELINE: (), CANDIDATE: steps, **beside}, recipe=bench.recipe,
        rounds=bench.rounds if possible else min(bench.rounds, _FEW), seed=seed, shelf=bench.shelf,
    )  # fmt: skip
    evidence = TrainingEvidence(
        finite=finite, difference=same.largest, quality=quality,
        speed_up=raced.rounds.speed_up(CANDIDATE, BASELINE),
        bytes=(raced.bytes(BASELINE), raced.bytes(CANDIDATE)),
    )  # fmt: skip
    identity = digest([step.model_dump(mode="json") for step in steps])
    verdict = _judged(bench, steps, evidence)
    trial = Trial(
        id=identity,
        steps=tuple(steps),
        exact=_exact(bench, steps),
        verdict=verdict.model_copy(update={"proposal_id": identity}),
        speed_up=evidence.speed_up,
        seconds=raced.rounds.time(CANDIDATE),
        measurements=(
            *_differences(bench, same, losses),
            *_memory(raced),
            Measurement(name="prepare_seconds", value=raced.prepared[CANDIDATE], unit="s"),
        ),
    )
    return TrainingTried(trial=trial, raced=raced)


_LAST = ("faster", "smaller")


def _exact(bench: TrainingBench, steps: Sequence[Step]) -> bool:
    return all(find_training_speed_up(step.speedup, bench.shelf).exact for step in steps)


def _judged(bench: TrainingBench, steps: Sequence[Step], evidence: TrainingEvidence) -> Verdict:
    return judge_training(
        evidence,
        exact=_exact(bench, steps),
        gain="memory" if bench.is_for_memory(steps) else "time",
        limits=speed_limits(bench.settings),
        settings=bench.settings,
    )


def _differences(
    bench: TrainingBench, same: Sameness, losses: Sequence[float]
) -> list[Measurement]:
    apart = max(
        (abs(s - b) / max(abs(b), 1e-6) for b, s in zip(bench.losses, losses, strict=True)),
        default=0.0,
    )
    told = {
        "relative_difference": (same.largest, "the largest of these, of steps from the same state"),
        "loss_difference": (same.loss, "of one step from the same state, relative"),
        "gradient_difference": (same.gradient, "largest, relative to the largest gradient"),
        "update_difference": (
            same.update, "largest beyond rounding, relative to the largest update",
        ),
        "buffer_difference": (same.buffer, "largest, relative to the buffer (at least 1)"),
        "training_loss_difference": (apart, f"over {bench.count} steps left to themselves"),
    }  # fmt: skip
    return [_number(name, value, bench.count, note) for name, (value, note) in told.items()]


def _number(name: str, value: float, n: int, note: str) -> Measurement:
    if value == float("inf") or value != value:
        return Measurement(
            name=name, value=None, n=n, state="could not tell", note="it is no number"
        )  # fmt: skip
    return Measurement(name=name, value=value, n=n, note=note)


def _memory(raced: TrainingRace) -> list[Measurement]:
    found = []
    for prefix, name in (("baseline_", BASELINE), ("", CANDIDATE)):
        for what, value in (
            ("peak_bytes", raced.peaks[name].bytes), ("standing_bytes", raced.standing[name]),
        ):  # fmt: skip
            found.append(Measurement(name=f"{prefix}{what}", value=value, unit="bytes"))
    return found


def measure_training_alone(
    bench: TrainingBench,
    speedups: Sequence[TrainingSpeedUp],
    out_of_time: OutOfTime,
    report: Report,
) -> Alone:
    """Try each variant of each speed-up; one that cannot be had takes nothing else with it."""
    trials: list[Trial] = []
    refused: list[Failure] = []
    queue = _variants(bench, speedups, refused)
    for number, step in enumerate(queue):
        report(number / len(queue), step.text())
        if out_of_time():
            refused.append(Failure(stage="alone", what=step.text(), why=SPENT))
            continue
        try:
            trials.append(try_training(bench, [step]).trial)
        except SpeedUpRefused as error:
            refused.append(Failure(stage="alone", what=step.text(), why=str(error)))
    accepted = [trial for trial in trials if trial.verdict.outcome == "accepted"]
    parts = {trial.id: part_ratios(bench, trial.steps) for trial in accepted}
    return Alone(trials=tuple(trials), refused=tuple(refused), parts=parts)


def _variants(
    bench: TrainingBench, speedups: Sequence[TrainingSpeedUp], refused: list[Failure]
) -> list[Step]:
    found = []
    for speedup in speedups:
        try:
            found += [step_of(speedup, one) for one in speedup.variants(bench.workload)]
        except SpeedUpRefused as error:
            refused.append(Failure(stage="alone", what=speedup.name, why=str(error)))
        except Exception as error:
            why = f"{speedup.name} must say what it can do here; it stopped with {sentence(error)}"
            refused.append(Failure(stage="alone", what=speedup.name, why=why))
    return found
