"""How one analysis went, in words and numbers, and its record in memory."""

from collections.abc import Iterator, Sequence

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import (
    AnalysisReport,
    ChannelImportanceData,
    StructuralAnalysisRequest,
    StructuralPruningDecision,
)
from zsei.checkpoint.decide.deciding import stage_of
from zsei.checkpoint.ledger import Ledger, next_due
from zsei.checkpoint.measure.combine import Combined
from zsei.checkpoint.measure.measuring import Measured
from zsei.checkpoint.measure.window import Window
from zsei.gate.phases import ALLOWED
from zsei.memory.store import Memory
from zsei.records import AnalysisRecord, Measurement
from zsei.settings import Settings


def report_of(
    request: StructuralAnalysisRequest,
    decision: StructuralPruningDecision,
    measured: Measured,
    window: Window,
    ledger: Ledger,
    config: CheckpointConfig,
    *,
    record: AnalysisRecord | None,
    accuracy: Measurement | None,
    fallbacks: tuple[str, ...],
) -> AnalysisReport:
    """How an analysis went."""
    combined = measured.combined
    return AnalysisReport(
        request_id=request.request_id,
        idempotency_key=request.idempotency_key,
        run=decision.run,
        epoch=decision.epoch,
        depth=measured.depth,
        confidence=measured.confidence,
        fallbacks=fallbacks,
        record_id=record.id if record else ledger.record_id,
        finding_ids=ledger.finding_ids,
        ranking_accuracy=accuracy,
        seconds=window.used,
        peak_memory_bytes=window.peak_memory_bytes,
        retries=window.retries,
        cached=combined.cached if combined else 0,
        importance=tuple(_importance(combined)) if combined else (),
        recommendations=tuple(_outlook(ledger, decision.epoch, config)),
    )


def _importance(combined: Combined) -> Iterator[ChannelImportanceData]:
    """What was measured, to six digits: a report of many thousand units stays a few megabytes."""
    for site in combined.sites:
        yield ChannelImportanceData(
            layer_name=site.component,
            kind=site.kind,
            importance=_rounded(combined.importance.get(site.key, ())),
            parts={name: _rounded(values) for name, values in site.parts.items()},
            correlations=tuple((a, b, float(f"{r:.6g}")) for a, b, r in site.pairs),
        )


def _rounded(values: Sequence[float | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else float(f"{value:.6g}") for value in values)


def _outlook(ledger: Ledger, epoch: int, config: CheckpointConfig) -> list[str]:
    """What the next checkpoints will bring."""
    then = next_due(ledger, epoch + 1, config.run.decide_every)
    now, later = stage_of(ledger, epoch, config), stage_of(ledger, then, config)
    told = []
    if ALLOWED[later.phase] and config.run.mode != "observe":
        told.append(
            f"the next cut is chosen at epoch {then}, in the phase {later.phase!r}, where "
            f"{later.wanted:.2%} of the parameters should be gone"
        )
    elif later.phase != now.phase:
        told.append(f"the phase {later.phase!r} has begun by epoch {then}")
    if ledger.delay:
        told.append(f"the schedule lies {ledger.delay} epochs behind, because of what was put back")
    return told


def record_before(name: str, settings: Settings) -> AnalysisRecord | None:
    """A record that was kept; None when there is none."""
    if not name:
        return None
    try:
        return Memory(settings.home, settings.embedder, chroma_url=settings.chroma_url).get(name)
    except Exception:  # as below; what is missing then is only what it would have said again
        return None


def kept_in_memory(record: AnalysisRecord, settings: Settings) -> str:
    """Keep a record where `ask` and `compare` find it; why that failed, or ""."""
    try:
        Memory(settings.home, settings.embedder, chroma_url=settings.chroma_url).add(record)
    except Exception as error:  # a store of others' making; a run must not end because of it
        return f"the analysis was not kept in memory ({type(error).__name__}: {error})"
    return ""
