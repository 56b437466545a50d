"""Prune a model to a budget: search, repair, judge. The gate alone says whether it counts."""

import hashlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from zsei.clock import Clock, Progress
from zsei.errors import DataError, ModelError
from zsei.gate.audit import audit_key
from zsei.gate.baseline import Baseline, measure_baseline
from zsei.gate.breaker import decide_once
from zsei.gate.sandbox import Trial, try_edits, verify_unchanged
from zsei.pruning.budget import check_kinds
from zsei.pruning.measure import reference_of
from zsei.pruning.records import ALL_KINDS, Budget, Point, PruneKind, PruneRecord
from zsei.pruning.resume import Kept
from zsei.pruning.task import Found, Task
from zsei.pruning.walk import Walk, again, kept_by, origin, walk
from zsei.records import Proposal, Verdict, digest
from zsei.settings import Settings
from zsei.subject.prepare import prepare
from zsei.subject.program import parameter_count
from zsei.subject.seeded import seeded
from zsei.subject.types import Batch, Subject
from zsei.surgery.apply import EditedModel, apply_edits
from zsei.trace.precision import check_precision

SAMPLES = 1024
"""Samples when no settings say otherwise: half fit and choose, half judge."""
BATCH = 16
"""Samples to a batch: the way back keeps the values of one batch per thread."""
CHOOSING = 4
"""One of so many calibration batches is set aside for choosing between cuts."""
SMALLER = 3
"""Smaller cuts, at most, that go before the gate when the one asked for is refused."""
SHARES = {"prepare": 0.1, "search": 0.7, "gate": 0.15, "apply": 0.05}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pruned:
    """What came of a prune."""

    record: PruneRecord
    edited: EditedModel | None
    """The smaller model, to be saved; None when the gate accepted nothing that fits the budget."""
    subject: Subject


def prune_settings(**given: Any) -> Settings:
    """Settings with the number of samples that fitting needs, where nothing else is said."""
    settings = Settings(**given)
    defaults = {"samples": SAMPLES, "batch_size": BATCH}
    missing = {k: v for k, v in defaults.items() if k not in settings.model_fields_set}
    return settings.model_copy(update=missing)


def prune(
    model: str | nn.Module | None = None,
    data: Any = None,
    *,
    budget: Budget,
    objective: str = "auto",
    kinds: Sequence[PruneKind] = ALL_KINDS,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Pruned:
    """The largest, or the asked-for, cut that the gate accepts; the model itself is never changed.

    Args:
        model: As for `analyze`.
        data: As for `analyze`; half of it scores and repairs, the other half judges.
        budget: How small, and how much may be lost.
        objective: As for `analyze`.
        kinds: What may go.
        keep: Components, by id or module path, that stay as they are.
        only: Components outside of which everything stays; empty: any may be cut.
        settings: As for `analyze`; None takes 1024 samples.
        progress: Called with (stage, share done, seconds remaining or None, note).

    Raises:
        ZseiError: With the rule, what arrived and the likely fix.
    """
    settings = settings or prune_settings()
    settings = settings.model_copy(
        update={"max_drop": budget.max_drop, "latency_limit": budget.latency}
    )
    clock = Clock(progress, settings.budget, SHARES)
    with seeded(settings):
        with clock.stage("prepare"):
            subject = prepare(model, data, objective=objective, settings=settings)
            task = task_of(subject, kinds, settings, keep=keep, only=only)
        with clock.stage("search") as report:
            way, kept = _search(task, budget, report)
        with clock.stage("gate") as report:
            trials = _judge(way, report)
        verify_unchanged(subject)
        fitting = [f for f, verdict in trials if verdict.outcome == "accepted" and _fits(f, way)]
        accepted = min(fitting, key=lambda found: found.point.parameters, default=None)
        with clock.stage("apply"):
            edited = None
            if accepted is not None and accepted.cut is not None:
                edited = apply_edits(subject, accepted.edits, None, accepted.cut.weights)
    kept.forget()
    record = _record(way, trials, accepted, clock)
    return Pruned(record=record, edited=edited, subject=subject)


def task_of(
    subject: Subject,
    kinds: Sequence[PruneKind],
    settings: Settings,
    *,
    keep: Sequence[str] = (),
    only: Sequence[str] = (),
) -> Task:
    """The search with its samples parted.

    Raises:
        ModelError: The model could not be exported, or is in half precision.
        UsageError: An unknown kind, or a component that the model has not.
        DataError: Too few samples to part them.
    """
    check_kinds(kinds)
    if subject.program is None:
        raise ModelError(
            "Pruning works on the exported program, and this model could not be exported: "
            f"{' '.join(subject.notes)}"
        )
    check_precision(subject.model)
    batches = subject.calibration
    aside = max(1, len(batches) // CHOOSING)
    if len(batches) < 2:
        raise DataError(
            f"Pruning parts the calibration samples into some that fit and some that choose; there "
            f"is one batch of {sum(batch.size for batch in batches)}. Give more data, or set a "
            f"smaller batch_size."
        )
    task = Task(
        subject=subject,
        fit=batches[:-aside],
        choose=reference_of(subject, batches[-aside:]),
        kinds=tuple(kinds),
        settings=settings,
        keep=tuple(keep),
        only=tuple(only),
    )
    _ = task.spared  # so that a name the model has not is refused now
    return task


def _search(task: Task, budget: Budget, report: Callable[..., None]) -> tuple[Walk, Kept]:
    """Walk to the budget, from where an interrupted search of the same question stopped."""
    key = digest([
        task.subject.model_hash, budget.model_dump(), list(task.kinds), sorted(task.spared),
        task.settings.model_dump(mode="json", exclude={"home", "threads", "budget", "llm"}),
        [_fingerprint(batch) for batch in (*task.fit, *task.choose.batches)],
    ])  # fmt: skip
    kept = Kept(task.settings.home, key)
    steps = kept.read()
    points = list(steps.points)

    def keep(point: Point) -> None:
        points.append(point)
        kept.write(points, way.refused)

    way = Walk(
        task=task, budget=budget, found=[origin(task)], keep=keep, progress=report,
        known=list(steps.points), resumed=len(steps.points), refused=dict(steps.refused),
    )  # fmt: skip
    walk(way)
    return way, kept


def _judge(way: Walk, report: Callable[..., None]) -> list[tuple[Found, Verdict]]:
    """The last cut before the gate; when it is refused, the largest smaller one that is not.

    A refusal halves the cuts that are left, on the side where the gate may still say yes.
    """
    if way.last.cut is None:
        return []
    baseline = measure_baseline(way.task.subject, way.task.settings)
    cuts = way.found[1:]
    found: list[tuple[Found, Verdict]] = []
    low, high, place = 0, len(cuts) - 1, len(cuts) - 1
    while low <= high and len(found) <= SMALLER:
        one = cuts[place]
        report(len(found) / (SMALLER + 1), f"cut {one.point.number}")
        whole = one if one.cut is not None else again(way.task, one.point)
        verdict = _decide(way, whole, baseline)
        found.append((whole, verdict))
        if verdict.outcome == "failed":
            break
        if verdict.outcome == "accepted":
            low = place + 1
        else:
            high = place - 1
        place = (low + high + 1) // 2
    return found


def _decide(way: Walk, found: Found, baseline: Baseline) -> Verdict:
    """One cut through gate, breaker and audit log."""
    settings, subject, cut = way.task.settings, way.task.subject, found.cut
    assert cut is not None
    proposal = Proposal.make(
        strategy="prune",
        components=tuple(dict.fromkeys(taken.component for taken in found.point.taken)),
        params={
            "cut": digest([t.model_dump() for t in found.point.taken]),
            "repair": found.point.repair,
        },
    )
    trials: list[Trial] = []

    def decide() -> Verdict:
        trials.append(try_edits(
            subject, proposal, "layers", found.edits, baseline, settings, edit=cut.edit,
            latency_pairs=7,
        ))  # fmt: skip
        return trials[0].verdict

    decision = digest([proposal.id, way.budget.model_dump(), settings.seed, settings.samples])
    key = audit_key(
        epoch=0, model_hash=subject.model_hash, decision_id=decision, level=settings.safety
    )
    verdict = decide_once(settings.home, key, proposal.id, decide)
    if trials and trials[0].latency is not None:
        way.latency[str(found.point.number)] = trials[0].latency
    return verdict


def _fits(found: Found, way: Walk) -> bool:
    """Whether a cut is as small as the budget asks; a limit in time is the gate's to judge."""
    budget, point = way.budget, found.point
    small = budget.parameters is None or point.parameters <= budget.parameters + 1e-9
    return small and (budget.flops is None or point.flops <= budget.flops + 1e-9)


def _record(
    way: Walk, trials: Sequence[tuple[Found, Verdict]], accepted: Found | None, clock: Clock
) -> PruneRecord:
    task = way.task
    subject, settings = task.subject, task.settings
    sizes = [
        sum(b.size for b in part) for part in (task.fit, task.choose.batches, subject.held_out)
    ]
    body = {
        "model": subject.source.name,
        "model_class": type(subject.model).__name__,
        "model_hash": subject.model_hash,
        "parameters": parameter_count(subject.model),
        "versions": {
            name: importlib.metadata.version(name) for name in ("zsei", "torch", "transformers")
        },
        "seed": settings.seed,
        "budget": way.budget,
        "safety": settings.safety,
        "objective": subject.objective.name,
        "metric": subject.objective.metric,
        "kinds": task.kinds,
        "keep": task.keep,
        "only": task.only,
        "samples": dict(zip(("fit", "choose", "judge"), sizes, strict=True)),
        "points": tuple(found.point for found in way.found),
        "tried": tuple(found.point.number for found, _ in trials),
        "verdicts": tuple(verdict for _, verdict in trials),
        "accepted": None if accepted is None else accepted.point.number,
        "refused": dict(sorted(way.refused.items())),
        "notes": (*subject.notes, *way.notes()),
        "refusal": "" if accepted else " ".join((*way.notes(), _advice(trials, way))),
    }
    draft = PruneRecord(id="", **body)  # type: ignore[arg-type]
    name = digest(draft.model_dump(mode="json", exclude={"id"}))
    # What a clock said, and whether there was an interruption, is no part of the id.
    return draft.model_copy(
        update={
            "id": name,
            "timings": dict(clock.seconds),
            "latency": dict(way.latency),
            "resumed": way.resumed,
        }
    )


def _advice(trials: Sequence[tuple[Found, Verdict]], way: Walk) -> str:
    """What could be done instead, where nothing fits."""
    smaller = sorted(
        (found.point for found, verdict in trials if verdict.outcome == "accepted"),
        key=lambda point: point.parameters,
    )
    if not trials:
        return f"Nothing is changed: there is no unit to cut; what there is {kept_by(way.task)}."
    if not smaller:
        return (
            f"Nothing is changed: the gate accepted none of the {len(trials)} cuts it tried. The "
            f"smallest leaves {trials[-1][0].point.parameters:.1%} of the parameters and was "
            f"{trials[-1][1].reason}. Ask for less, or allow a larger loss."
        )
    point = smaller[0]
    return (
        f"Nothing is changed: the budget asks for {way.budget.text()}. The gate accepts the cut "
        f"that leaves {point.parameters:.1%} of the parameters and {point.flops:.1%} of the "
        f"operations; ask for that size, or allow a larger loss."
    )


def _fingerprint(batch: Batch) -> str:
    """Hash of a batch's inputs."""
    hasher = hashlib.sha256()
    for tensor in batch.inputs:
        hasher.update(f"{tuple(tensor.shape)}:{tensor.dtype}".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()
