"""Checks a file of claims: each is measured, and held, not held, not decided or not measurable."""

import importlib.metadata
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from zsei.claims.asked import Asked
from zsei.claims.bench import Bench, Measure
from zsei.claims.by_answers import accuracy, difference
from zsei.claims.by_memory import memory
from zsei.claims.by_scaling import rows, scaling
from zsei.claims.by_time import combined, latency, speed_up, throughput
from zsei.claims.by_training import training
from zsei.claims.claim import Claim, ClaimsFile, Kind
from zsei.claims.found import Found, not_measurable
from zsei.claims.model_of import data_of, model_of
from zsei.claims.read import read_claims
from zsei.claims.record import ClaimsRecord, Machine, Outcome
from zsei.clock import Progress
from zsei.errors import DeviceError, UsageError, ZseiError
from zsei.gate.sandbox import verify_unchanged
from zsei.records import digest
from zsei.settings import Settings
from zsei.speed.baseline import measure_baseline
from zsei.speed.measure import sentence
from zsei.speed.state import undisturbed
from zsei.speed.workload_of import workload_of
from zsei.speedups.threads import cores
from zsei.subject.prepare import prepare
from zsei.subject.program import parameter_count
from zsei.subject.seeded import seeded
from zsei.timing.decision import ROUNDS, measure_until_decided
from zsei.timing.device import find_device, processor

LEAST_ROUNDS = 8
"""Below that no interval has 99 %, and nothing is ever decided."""

KINDS: Mapping[Kind, Callable[[Bench, Claim, float | None], Found]] = {
    "speed-up": speed_up,
    "throughput": throughput,
    "latency": latency,
    "memory": memory,
    "scaling": scaling,
    "accuracy": accuracy,
    "difference": difference,
    "combined": combined,
}


def check_claims(
    path: Path | str,
    *,
    device: str | None = None,
    threads: int | None = None,
    rounds: int = ROUNDS,
    budget: float | None = None,
    only: Sequence[str] = (),
    settings: Settings | None = None,
    progress: Progress | None = None,
    measure: Measure = measure_until_decided,
) -> ClaimsRecord:
    """Measure what a file claims of a model; the model itself is never changed.

    Every claim is measured against the file's own baseline, interleaved, until its 99 % interval
    lies clear of what is claimed or `rounds` are used up. A range such as "2 to 4 times faster"
    claims its lower end (of latency, difference and lost accuracy: its upper end); beyond the other
    end more than claimed is reported, and it holds. Combined claims are carried out and measured
    together, never multiplied. What this machine cannot measure (a device, cores or a package it
    lacks, a backend that refuses the model) is said so, with the reason.

    Args:
        path: A YAML file (`zsei.claims.claim.ClaimsFile`).
        device: In place of the file's: `cpu`, `cuda` or `cuda:N`.
        threads: Torch threads of the baseline, in place of the file's.
        rounds: Timed rounds of one claim at most; 8 at least.
        budget: Seconds in all; what is left is shared by the claims that are left. A claim that
            runs out of it is not decided.
        only: Ids of the claims to check; empty checks all.
        settings: Seed, bootstrap and folders; workload and safety level are the file's.
        progress: Called with (stage, share done, seconds remaining or None, note).
        measure: The clock; tests plant one.

    Raises:
        UsageError: The file says something that no claim can say, or `only` names none of it.
        DeviceError: `device` is asked for here and is not there.
        ZseiError: The model cannot be loaded or its data do not fit.
    """
    begin = time.monotonic()
    file = read_claims(path)
    if rounds < LEAST_ROUNDS:
        raise UsageError(
            f"A claim is decided at 99 %, which takes {LEAST_ROUNDS} rounds at least; {rounds} "
            f"were asked for. Raise --rounds."
        )
    if device is not None:
        find_device(device)
        file = file.model_copy(update={"device": device})
    if threads is not None:
        workload = file.workload.model_copy(update={"threads": threads})
        file = file.model_copy(update={"workload": workload})
    claims = _chosen(file, only)
    asked = Asked(path=str(path), device=device, threads=threads, rounds=rounds)
    try:
        place = find_device(file.device)
    except DeviceError as missing:
        return _nothing_here(file, claims, asked, str(missing), begin)
    settings = _settings(file, settings)
    folder = Path(path).absolute().parent
    with seeded(settings), undisturbed():
        if progress is not None:
            progress("prepare", 0.0, None, file.model)
        loaded = model_of(file, folder, settings)
        subject = prepare(loaded, data_of(file, folder), file.objective, settings)
        workload = workload_of(subject, place, file.workload.threads)
        bench = Bench(
            file=file, workload=workload, baseline=measure_baseline(workload), settings=settings,
            cores=cores(), rounds=rounds, measure=measure,
        )  # fmt: skip
        machine = _machine(bench)
        outcomes = []
        for number, claim in enumerate(claims):
            if progress is not None:
                progress("measure", (number + 1) / (len(claims) + 1), None, claim.id)
            left = None if budget is None else budget - (time.monotonic() - begin)
            share = None if left is None else left / (len(claims) - number)
            outcomes.append(_outcome(bench, claim, machine, asked, share))
        verify_unchanged(subject)
    record = _record(file, outcomes, machine, asked, begin)
    return record.model_copy(
        update={
            "id": digest([record.id, subject.model_hash]),
            "model_class": type(subject.model).__name__,
            "model_hash": subject.model_hash,
            "parameters": parameter_count(subject.model),
            "objective": subject.objective.name,
            "metric": subject.objective.metric,
            "samples": sum(batch.size for batch in workload.held_out),
            "batch_size": workload.held_out[0].size,
        }
    )


def _chosen(file: ClaimsFile, only: Sequence[str]) -> tuple[Claim, ...]:
    """The claims that are asked for; a row of a scaling table is one of its own."""
    every = tuple(row for claim in file.claims for row in rows(claim))
    known = {claim.id for claim in every} | {claim.id for claim in file.claims}
    unknown = [name for name in only if name not in known]
    if unknown:
        raise UsageError(
            f"The file has no claim {unknown[0]!r}; it has {', '.join(c.id for c in every)}."
        )
    return tuple(
        claim for claim in every if not only or {claim.id, claim.id.partition("@")[0]} & set(only)
    )


def _settings(file: ClaimsFile, given: Settings | None) -> Settings:
    """Settings with the workload, the seed and the safety level of the file."""
    workload = file.workload
    return (given or Settings()).model_copy(
        update={
            "samples": workload.samples, "batch_size": workload.batch, "length": workload.length,
            "seed": file.seed, "safety": file.safety,
        }
    )  # fmt: skip


def _machine(bench: Bench) -> Machine:
    workload = bench.workload
    dtype = next((str(p.dtype) for p in workload.model.parameters()), "torch.float32")
    return Machine(
        name=workload.device.name, device=str(workload.device.torch), cores=bench.cores,
        threads=workload.threads, dtype=dtype.removeprefix("torch."),
    )  # fmt: skip


def _outcome(
    bench: Bench, claim: Claim, machine: Machine, asked: Asked, budget: float | None
) -> Outcome:
    """Measure one claim; whatever stops it is told, and the others go on."""
    begin = time.monotonic()
    use = bench.file.use_of(claim)
    try:
        if budget is not None and budget <= 0:
            found = Found(verdict="not decided", reason="the budget was used up by earlier claims")
        elif use == "training":
            found = training(bench, claim, budget)
        else:
            found = KINDS[claim.kind](bench, claim, budget)
    except ZseiError as error:
        found = not_measurable(str(error))
    except (RuntimeError, MemoryError, NotImplementedError) as error:  # a backend that crashed
        found = not_measurable(f"measuring it stopped with {sentence(error)}")
    seconds = time.monotonic() - begin
    return outcome_of(bench.file, claim, found, machine, asked.command(claim.id), seconds)


def outcome_of(
    file: ClaimsFile, claim: Claim, found: Found, machine: Machine, command: str, seconds: float
) -> Outcome:
    """A claim and what was found, with where and how."""
    return Outcome(
        id=claim.id, kind=claim.kind, use=file.use_of(claim), quote=claim.quote,
        source=claim.source, at_least=claim.at_least, at_most=claim.at_most,
        unit=claim.measured_in, verdict=found.verdict, value=found.value, interval=found.interval,
        more_than_claimed=found.more_than_claimed, reason=found.reason, steps=found.steps,
        left_out=found.left_out, measurements=found.measurements, machine=machine, command=command,
        seconds=seconds,
    )  # fmt: skip


def _nothing_here(
    file: ClaimsFile, claims: Sequence[Claim], asked: Asked, why: str, begin: float
) -> ClaimsRecord:
    """The device of the file is not here: no claim can be measured, and each says so."""
    machine = Machine(
        name=processor(), device="cpu", cores=cores(), threads=file.workload.threads or cores()
    )
    found = not_measurable(why)
    outcomes = [
        outcome_of(file, claim, found, machine, asked.command(claim.id), 0.0) for claim in claims
    ]
    return _record(file, outcomes, machine, asked, begin)


def _record(
    file: ClaimsFile, outcomes: Sequence[Outcome], machine: Machine, asked: Asked, begin: float
) -> ClaimsRecord:
    return ClaimsRecord(
        id=digest([file.model_dump(mode="json"), [outcome.id for outcome in outcomes]]),
        file=Path(asked.path).name,
        title=file.title,
        model=file.model,
        seed=file.seed,
        machine=machine,
        baseline=file.baseline,
        versions={
            name: importlib.metadata.version(name) for name in ("zsei", "torch", "transformers")
        },
        outcomes=tuple(outcomes),
        command=asked.command(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.monotonic() - begin,
    )
