"""The record of a measurement of speed-ups, of inference or of training."""

import datetime
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

from zsei.records import digest
from zsei.settings import Settings
from zsei.speed.alone import Alone
from zsei.speed.record import Combination, SpeedRecord, Trial
from zsei.speed.settings_file import settings_of
from zsei.speedups.speedup import Use
from zsei.speedups.workload import Workload
from zsei.subject.program import parameter_count
from zsei.subject.types import Batch
from zsei.timing.interval import Interval

PACKAGES = ("zsei", "torch", "transformers", "onnxruntime", "torchao")


def record_of(
    workload: Workload,
    settings: Settings,
    *,
    use: Use,
    measured: Sequence[Batch],
    asked: Mapping[str, Any],
    baseline: Interval,
    alone: Alone,
    together: Combination | None,
    applied: Trial | None,
    command: str,
) -> SpeedRecord:
    """All that was measured; its id is that of the question, so that asking again gives the same.

    Args:
        workload: Model, device and threads.
        settings: Seed and safety.
        use: Inference or training.
        measured: The batches that were run.
        asked: What else makes the question another one.
        baseline: Time of the baseline by itself.
        alone: What came of each speed-up by itself.
        together: What came of them together.
        applied: The trial whose steps the settings file holds; None makes none.
        command: What repeats this measurement.
    """
    subject = workload.subject
    versions = versions_here()
    question = dict(asked) | {
        "model": subject.model_hash, "objective": subject.objective.name, "seed": settings.seed,
        "safety": settings.safety, "device": workload.device.name, "threads": workload.threads,
        "shapes": [list(t.shape) for batch in measured for t in batch.inputs],
        "steps": sorted(digest(s.model_dump(mode="json")) for t in alone.trials for s in t.steps),
    }  # fmt: skip
    chosen = None
    if applied is not None:
        chosen = settings_of(workload, applied, versions).model_copy(update={"use": use})
    return SpeedRecord(
        id=f"s-{digest(question)}",
        model=subject.source.name,
        model_class=type(subject.model).__name__,
        model_hash=subject.model_hash,
        parameters=parameter_count(subject.model),
        versions=versions,
        seed=settings.seed,
        objective=subject.objective.name,
        metric=subject.objective.metric,
        safety=settings.safety,
        device=str(workload.device.torch),
        device_name=workload.device.name,
        threads=workload.threads,
        use=use,
        samples=sum(batch.size for batch in measured),
        batch_size=max(batch.size for batch in measured),
        lengths=tuple(
            int(length)
            for batch in measured
            if batch.mask is not None
            for length in batch.mask.sum(1).tolist()
        ),
        baseline=baseline,
        alone=alone.trials,
        together=together,
        refused=alone.refused,
        settings=chosen,
        command=command,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def versions_here() -> dict[str, str]:
    """Of the packages that are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
