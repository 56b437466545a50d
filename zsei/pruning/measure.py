"""How good a cut is, on samples that neither scored nor repaired it and that do not judge it."""

from dataclasses import dataclass

import numpy as np

from zsei.gate.baseline import run_of
from zsei.gate.criteria import user_criterion
from zsei.gate.quality import Quality, Reference, measure_quality, measure_reference
from zsei.records import Measurement
from zsei.subject.program import Program
from zsei.subject.types import Batch, Subject


@dataclass(frozen=True, kw_only=True)
class Merit:
    """What the search knows of one program."""

    loss: float
    drop: float
    measured: tuple[Measurement, ...]


def reference_of(subject: Subject, batches: tuple[Batch, ...]) -> Reference:
    """The original's answers on the samples set aside for choosing."""
    assert subject.program is not None
    return measure_reference(run_of(subject.program), subject, batches)


def merit_of(program: Program, subject: Subject, reference: Reference) -> Merit:
    """Measure a program beside the original; not finite is infinitely bad."""
    quality = measure_quality(run_of(program), subject, reference.batches, reference)
    if quality.nonfinite or not quality.n:
        return Merit(loss=float("inf"), drop=float("inf"), measured=())
    divergence = quality.divergence
    unit = subject.objective.metric
    measured = [
        Measurement(
            name="divergence", value=float(divergence.mean()), unit=unit,
            std=float(divergence.std()), n=quality.n,
        ),
        Measurement(
            name="divergence_p95", value=float(np.quantile(divergence, 0.95)), unit=unit,
            n=quality.n,
        ),
        Measurement(name="divergence_worst", value=float(divergence.max()), unit=unit, n=quality.n),
    ]  # fmt: skip
    loss = drop = float(divergence.mean())
    if quality.agreement is not None:
        measured.append(
            Measurement(name="agreement", value=float(quality.agreement.mean()), n=quality.n)
        )
    if quality.loss is not None:
        before, after = (float(side.mean()) for side in quality.loss)
        measured.append(Measurement(name="loss", value=after, n=quality.n))
        loss = after - before
        drop = _drop(quality)
    return Merit(loss=loss, drop=drop, measured=tuple(measured))


def _drop(quality: Quality) -> float:
    """What `max_drop` bounds, as it is measured."""
    criterion = user_criterion(quality, 1.0)
    return float(criterion.statistic(np.arange(criterion.n)[None])[0])
