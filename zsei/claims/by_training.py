"""Claims about training: the same kinds, measured on steps of training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from zsei.claims.bench import Bench
from zsei.claims.by_memory import compared
from zsei.claims.by_scaling import ONE, cores_of
from zsei.claims.by_time import CLAIMED, CONFIDENCE, PILOT, Value
from zsei.claims.claim import Claim
from zsei.claims.found import Found, by_clock, not_measurable
from zsei.claims.ways import CHANGED, REFUSED, UNTOLD, Ways
from zsei.errors import ObjectiveError, SpeedUpRefused
from zsei.records import Failure
from zsei.speed.baseline import BASELINE
from zsei.speed.measure import named, sentence
from zsei.speed.training import random_state_kept
from zsei.speedups.speedup import Step
from zsei.speedups.training.setup import TrainingSetup
from zsei.timing.decision import Decided
from zsei.timing.peak import peak_memory
from zsei.timing.threads import torch_threads

Setups = Mapping[int, TrainingSetup]
"""Place among the ways of a claim -> ready to train."""


def training(bench: Bench, claim: Claim, budget: float | None) -> Found:
    """A claim about training, measured on steps (forward, backward, update) over the calibration
    batches in turn; every side trains a copy of its own.

    Speed-up, throughput, latency, scaling and combined as for inference, per step; memory is what
    stands from step to step (parameters, buffers, optimizer) and the worst moment of a step.
    """
    if claim.kind == "scaling" and cores_of(claim) > bench.cores:
        have = f"{bench.cores} core{'s' if bench.cores != 1 else ''}"
        return not_measurable(f"this machine has {have}, and the claim is about {cores_of(claim)}")
    with random_state_kept(bench.workload):
        setups, left_out = _setups(bench, claim)
        if not setups:
            return Ways(usable=(), left_out=left_out).none()
        found = _memory(bench, claim, setups) if claim.kind == "memory" else None
        found = found or _timed(bench, claim, setups, budget)
    return found.with_(left_out=left_out)


def _setups(bench: Bench, claim: Claim) -> tuple[Setups, tuple[Failure, ...]]:
    """The ways that can train here, each tried for one step, and those that cannot."""
    found: dict[int, TrainingSetup] = {}
    left_out: list[Failure] = []
    for place, steps in enumerate(claim.ways):
        try:
            setup = bench.training(steps)
            setup.step(bench.workload.calibration[0])
            stage, why = _learnt(bench, steps)
        except (SpeedUpRefused, ObjectiveError) as refused:
            left_out.append(Failure(stage=REFUSED, what=named(steps), why=str(refused)))
        except Exception as error:
            why = f"a step of training stopped with {sentence(error)}"
            left_out.append(Failure(stage=REFUSED, what=named(steps), why=why))
        else:
            if stage:
                left_out.append(Failure(stage=stage, what=named(steps), why=why))
            else:
                found[place] = setup
    return found, tuple(left_out)


def _learnt(bench: Bench, steps: Sequence[Step]) -> tuple[str, str]:
    """Why a way to train does not count: it makes other steps, or learns less; ("", "") if not."""
    if not steps:
        return "", ""
    verdict = bench.trained(steps)
    wrong = [
        stage for stage in verdict.stages
        if stage.stage not in ("faster", "smaller") and stage.outcome in ("failed", "inconclusive")
    ]  # fmt: skip
    if not wrong:
        return "", ""
    kind = UNTOLD if wrong[0].outcome == "inconclusive" else CHANGED
    return kind, f"it changes what is learnt; {wrong[0].stage}: {wrong[0].detail}"


def _memory(bench: Bench, claim: Claim, setups: Setups) -> Found:
    before = _bytes(bench, bench.training(bench.file.baseline_of("training")))
    after = {place: _bytes(bench, setup) for place, setup in setups.items()}
    place = min(after, key=lambda place: after[place])
    return compared(claim, before, after[place]).with_(steps=claim.ways[place])


def _bytes(bench: Bench, setup: TrainingSetup) -> int:
    """What stands from step to step and the worst moment of a step on the largest batch."""
    largest = max(bench.workload.calibration, key=lambda batch: batch.inputs[0].numel())
    with torch_threads(bench.workload.threads):
        setup.step(largest)
        setup.optimizer.zero_grad(set_to_none=True)  # gradients then count as the step's
        peak = peak_memory(lambda: setup.step(largest), bench.workload.device)
    return setup.standing_bytes() + peak.bytes


def _timed(bench: Bench, claim: Claim, setups: Setups, budget: float | None) -> Found:
    place = _best(bench, setups)
    steps = claim.ways[place]
    sides = {CLAIMED: setups[place]}
    threads = {}
    if claim.kind == "scaling":
        sides = {ONE: bench.training(steps), **sides}
        threads = {ONE: 1, CLAIMED: cores_of(claim)}
    elif claim.kind in ("speed-up", "combined"):
        sides = {BASELINE: bench.training(bench.file.baseline_of("training")), **sides}
    decided = _run(bench, sides, _value(bench, claim), claim=claim, threads=threads, budget=budget)
    found = by_clock(claim, decided)
    chosen = f"; the best of {len(claim.alternatives)} is {named(steps)}"
    return found.with_(
        steps=steps, reason=found.reason + (chosen if claim.alternatives else "") + ", of training"
    )


def _value(bench: Bench, claim: Claim) -> Value:
    sizes = np.array([batch.size for batch in bench.workload.calibration], dtype=np.float64)
    if claim.kind == "throughput":
        return lambda rounds: sizes[rounds.batches] / rounds.seconds[CLAIMED]
    if claim.kind == "latency":
        return lambda rounds: 1000 * rounds.seconds[CLAIMED] / sizes[rounds.batches]
    other = ONE if claim.kind == "scaling" else BASELINE
    return lambda rounds: rounds.seconds[other] / rounds.seconds[CLAIMED]


def _best(bench: Bench, setups: Setups) -> int:
    """The fastest by its median over a few rounds of their own."""
    sides = {str(place): setup for place, setup in setups.items()}
    first = next(iter(sides))
    if len(sides) > 1:
        rounds = _run(bench, sides, lambda r: r.seconds[first], rounds=PILOT).rounds
        first = min(sides, key=lambda name: float(np.median(rounds.seconds[name])))
    return int(first)


def _run(
    bench: Bench,
    sides: Mapping[str, TrainingSetup],
    value: Value,
    *,
    claim: Claim | None = None,
    threads: Mapping[str, int] | None = None,
    rounds: int | None = None,
    budget: float | None = None,
) -> Decided:
    batches = bench.workload.calibration
    own = threads or {}

    def runner(name: str, setup: TrainingSetup) -> Callable[[int], Any]:
        count = own.get(name, bench.workload.threads)

        def step(index: int) -> float:
            torch.manual_seed(bench.settings.seed + index)  # the same dropout on all sides
            with torch_threads(count):
                return setup.step(batches[index])

        return step

    least, most = (None, None) if claim is None else claim.limits
    return bench.measure(
        {name: runner(name, setup) for name, setup in sides.items()}, bench.workload.device,
        value=value, least=least, most=most, batches=len(batches), confidence=CONFIDENCE,
        rounds=bench.rounds if rounds is None else rounds, budget=budget,
    )  # fmt: skip
