"""Tries some steps against the baseline: same outputs, same answers, peak memory, time."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.errors import SpeedUpRefused, UsageError
from zsei.gate.quality import Quality, measure_quality
from zsei.gate.speed import (
    SpeedEvidence,
    divergence_bound,
    judge_speed,
    same_answers,
    speed_limits,
)
from zsei.records import Measurement, Verdict, digest
from zsei.settings import Settings
from zsei.speed.baseline import BASELINE, Baseline, counted, main_output, one_by_one, peak_of
from zsei.speed.race import difference, race
from zsei.speed.record import Trial
from zsei.speed.state import undisturbed
from zsei.speedups import SPEED_UPS, SpeedUp, Step, carry_out, find_speed_up
from zsei.speedups.runnable import Runnable
from zsei.speedups.workload import Workload
from zsei.subject.types import Batch
from zsei.timing.pairs import Rounds
from zsei.timing.peak import Peak

ROUNDS = 11
"""Timed rounds: the 90 % interval leaves out two at each end."""
_FEW = 5
"""Rounds for what is rejected already: its time is told and decides nothing."""
CANDIDATE = "candidate"

Race = Callable[..., Rounds]
"""`zsei.speed.race.race`, or a stand-in with the same arguments whose clock is planted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """A trial with what was tried."""

    trial: Trial
    runnable: Runnable
    rounds: Rounds | None
    """Of baseline, candidate and whatever else ran beside them; None where nothing was timed."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bench:
    """Where steps are tried: all that stays the same from trial to trial."""

    workload: Workload
    baseline: Baseline
    settings: Settings
    shelf: Sequence[SpeedUp] = SPEED_UPS
    race: Race = race
    rounds: int = ROUNDS
    seconds: float | None = None
    """After which a race begins no further round, the least number being done."""


def try_steps(
    workload: Workload,
    steps: Sequence[Step],
    reference: Baseline,
    settings: Settings,
    rounds: int = ROUNDS,
    *,
    shelf: Sequence[SpeedUp] = SPEED_UPS,
    race: Race = race,
) -> Trial:
    """Carry out steps, compare outputs and answers with the baseline's, time both, and judge.

    Args:
        workload: Model and batches.
        steps: What is tried, all together.
        reference: The baseline, measured (`zsei.speed.baseline.measure_baseline`).
        settings: Safety level, bounds, resamples, seed.
        rounds: Timed rounds at most; fewer where it is slower beyond doubt or rejected anyway.
        shelf: Where the steps' speed-ups stand.
        race: Times the two sides.

    Raises:
        UsageError: A step names no speed-up, or its parameters do not fit.
        SpeedUpRefused: It cannot be carried out, or it stopped with an error, which is named.
    """
    bench = Bench(
        workload=workload, baseline=reference, settings=settings, shelf=shelf, race=race,
        rounds=rounds,
    )  # fmt: skip
    return attempt(bench, steps).trial


def attempt(
    bench: Bench, steps: Sequence[Step], beside: Mapping[str, Runnable] | None = None
) -> Tried:
    """As `try_steps`, with the runnable itself; others may be timed beside it."""
    exact = all(find_speed_up(step.speedup, bench.shelf).exact for step in steps)
    with undisturbed(), torch.no_grad():
        try:
            return _attempt(bench, steps, exact, beside or {})
        except (SpeedUpRefused, UsageError):
            raise
        except Exception as error:
            raise SpeedUpRefused(
                f"{named(steps)} must run on this model; it stopped with {sentence(error)}"
            ) from error


def named(steps: Sequence[Step]) -> str:
    """Steps in one line."""
    return " + ".join(step.text() for step in steps) or BASELINE


def sentence(error: BaseException) -> str:
    """An exception as one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _attempt(
    bench: Bench, steps: Sequence[Step], exact: bool, beside: Mapping[str, Runnable]
) -> Tried:
    workload, baseline = bench.workload, bench.baseline
    begin = time.monotonic()
    runnable = carry_out(steps, workload, bench.shelf)
    main_output(runnable, workload, 0)
    prepared = time.monotonic() - begin
    evidence = answers(runnable, bench)
    told = judged(evidence, exact, bench)
    possible = same_answers(told)
    finite = evidence.quality is not None and not evidence.quality.nonfinite
    rounds = None
    if possible or finite:
        rounds = bench.race(
            workload, {BASELINE: baseline.runnable, CANDIDATE: runnable, **beside},
            rounds=bench.rounds if possible else min(bench.rounds, _FEW), enough=_hopeless,
            budget=bench.seconds,
        )  # fmt: skip
        speed_up = rounds.speed_up(CANDIDATE, BASELINE)
        evidence = SpeedEvidence(
            same_shape=evidence.same_shape, difference=evidence.difference,
            quality=evidence.quality, speed_up=speed_up,
        )  # fmt: skip
        told = judged(evidence, exact, bench)
    peak = peak_of(runnable, workload) if finite else None
    identity = digest([step.model_dump(mode="json") for step in steps])
    trial = Trial(
        id=identity,
        steps=tuple(steps),
        exact=exact,
        verdict=told.model_copy(update={"proposal_id": identity}),
        speed_up=evidence.speed_up,
        seconds=None if rounds is None else rounds.time(CANDIDATE),
        measurements=_measurements(evidence, baseline.peak, peak, prepared),
    )
    return Tried(trial=trial, runnable=runnable, rounds=rounds)


def _hopeless(rounds: Rounds) -> bool:
    """Slower beyond doubt: more rounds would only cost time."""
    return rounds.speed_up(CANDIDATE, BASELINE, 0.99).high < 0.9


def judged(evidence: SpeedEvidence, exact: bool, bench: Bench) -> Verdict:
    """The gate's verdict on what was measured so far."""
    settings = bench.settings
    return judge_speed(
        evidence, exact=exact, limits=speed_limits(settings), settings=settings,
        bound=divergence_bound(bench.workload.objective.output, settings),
    )  # fmt: skip


class _OtherShape(Exception):
    """An output whose shape is not the baseline's: there is nothing to compare."""


def answers(runnable: Runnable, bench: Bench) -> SpeedEvidence:
    """Outputs and answers on the held-out batches beside the baseline's."""
    workload, baseline = bench.workload, bench.baseline
    place = {id(batch): index for index, batch in enumerate(baseline.batches)}
    moved: list[float] = []

    def run(batch: Batch) -> Tensor:
        index = place[id(batch)]
        after, before = main_output(runnable, workload, index), baseline.output(index, workload)
        if after.shape != before.shape:
            raise _OtherShape
        moved.append(difference(before, after, batch))
        return counted(after, batch, workload)

    try:
        with one_by_one():
            quality: Quality = measure_quality(
                run, workload.subject, baseline.batches, baseline.reference
            )
    except _OtherShape:
        return SpeedEvidence(same_shape=False)
    return SpeedEvidence(same_shape=True, difference=max(moved), quality=quality)


def _measurements(
    evidence: SpeedEvidence, before: Peak | None, after: Peak | None, prepared: float
) -> tuple[Measurement, ...]:
    quality, difference = evidence.quality, evidence.difference
    n = quality.n if quality is not None else 0
    found = []
    if difference is not None and difference != float("inf"):
        found.append(
            Measurement(
                name="relative_difference", value=difference, n=n,
                note="largest, relative to the largest output (at least 1)",
            )
        )  # fmt: skip
    if quality is not None and n:
        mean, std = float(quality.divergence.mean()), float(quality.divergence.std())
        unit = {"logits": "nats", "embedding": "1 - cos", "values": "relative L2"}[quality.output]
        found.append(Measurement(name="divergence", value=mean, unit=unit, std=std, n=n))
        if quality.output == "embedding":
            found.append(Measurement(name="mean_cosine", value=1 - mean, std=std, n=n))
    for name, peak in (("baseline_peak_bytes", before), ("peak_bytes", after)):
        found.append(
            Measurement(name=name, value=peak.bytes, unit="bytes")
            if peak is not None
            else Measurement(name=name, value=None, unit="bytes", state="could not tell")
        )
    return (*found, Measurement(name="prepare_seconds", value=prepared, unit="s"))
