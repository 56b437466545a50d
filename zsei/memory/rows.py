"""One analysis as rows of the tables in `schema`, so that questions can be asked as SQL."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from zsei.memory.chunks import COMBINED, Chunk, chunks_of
from zsei.records import AnalysisRecord, Component, Finding, Measurement, Verdict

Cell = str | int | float | None
COUNTED = (("parameters", ""), ("flops", "FLOP"), ("bytes", "B"), ("width", ""), ("units", ""))
"""Fields of a component that can be asked about like measurements, and their units."""


def write(db: sqlite3.Connection, record: AnalysisRecord, body: str) -> None:
    """Insert a whole record; the caller holds the transaction and the id is free."""
    run = record.id
    sequence = db.execute("SELECT COALESCE(MAX(sequence), 0) + 1 FROM runs").fetchone()[0]
    _insert(db, "runs", [_run(record, sequence)])
    sha256 = hashlib.sha256(body.encode()).hexdigest()
    _insert(db, "records", [{"run": run, "body": body, "sha256": sha256}])
    _insert(db, "components", _components(record))
    _insert(db, "measurements", _measurements(record))
    _insert(db, "rankings", _rankings(record))
    findings = {f.id: (f, 1) for f in record.timings.findings}
    findings |= {f.id: (f, 0) for f in record.findings}
    _insert(db, "findings", [_finding(run, f, timed) for f, timed in findings.values()])
    members = [
        {"run": run, "finding": finding.id, "component": component}
        for finding, _ in findings.values()
        for component in dict.fromkeys(finding.components)
    ]
    _insert(db, "finding_components", members)
    _insert(db, "proposals", _proposals(record))
    judged = _judged(record)
    _insert(db, "verdicts", [_verdict(run, i, key, v) for i, (key, v) in enumerate(judged)])
    for position, (key, verdict) in enumerate(judged):
        _insert(db, "verdict_numbers", _numbers(record, position, key, verdict))
    add_chunks(db, chunks_of(record))


def add_chunks(db: sqlite3.Connection, chunks: Iterable[Chunk]) -> None:
    """Insert passages and move the generation on, so that readers of the index notice."""
    names = ("id", "run", "kind", "key", "component", "metric", "text", "gist", "sha256")
    _insert(db, "chunks", [{name: getattr(chunk, name) for name in names} for chunk in chunks])
    moved(db)


def moved(db: sqlite3.Connection) -> None:
    """Passages or vectors changed: the generation number goes up by one."""
    db.execute(
        "INSERT INTO state VALUES ('generation', '1') "
        "ON CONFLICT (key) DO UPDATE SET value = CAST(value AS INTEGER) + 1"
    )


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[Mapping[str, Cell]]) -> None:
    rows = list(rows)
    if rows:
        names = ", ".join(rows[0])
        slots = ", ".join(f":{name}" for name in rows[0])
        db.executemany(f"INSERT INTO {table} ({names}) VALUES ({slots})", rows)


def _run(record: AnalysisRecord, sequence: int) -> dict[str, Cell]:
    provenance, conditions = record.provenance, record.conditions
    layers = {c.layer for c in record.components if c.layer is not None}
    return {
        "id": record.id,
        "sequence": sequence,
        "created": record.timings.created,
        "model": provenance.model,
        "model_class": provenance.model_class,
        "family": provenance.family,
        "model_hash": provenance.model_hash,
        "parameters": provenance.parameters,
        "fidelity": provenance.fidelity,
        "zsei": provenance.zsei,
        "llm": provenance.llm,
        "dtype": provenance.dtype,
        "device": provenance.device,
        "seed": provenance.seed,
        "objective": conditions.objective,
        "metric": conditions.metric,
        "replacement": conditions.replacement,
        "safety": conditions.safety,
        "samples": conditions.calibration_samples + conditions.held_out_samples,
        "layers": len(layers),
        "heads": sum(c.kind == "head" for c in record.components),
    }


def _components(record: AnalysisRecord) -> Iterator[dict[str, Cell]]:
    for component in record.components:
        yield {
            "run": record.id,
            "id": component.id,
            "kind": component.kind,
            "path": component.path,
            "layer": component.layer,
            "parent": component.parent,
            "number": component.index,
        }


def _measurements(record: AnalysisRecord) -> Iterator[dict[str, Cell]]:
    """Measured numbers first, then what was counted or timed under names still free."""
    known = {component.id: component for component in record.components}
    for component in sorted({*known, *record.measurements, *record.timings.components}):
        numbers = list(record.measurements.get(component, ()))
        if component in known:
            numbers += _counted(known[component])
        if component in record.timings.components:
            seconds = record.timings.components[component]
            numbers.append(Measurement(name="seconds", value=seconds, unit="s"))
        # As in `AnalysisRecord.measured`, the first of a name stands.
        for measurement in {m.name: m for m in reversed(numbers)}.values():
            yield {"run": record.id, "component": component, **_number(measurement)}


def _counted(component: Component) -> Iterator[Measurement]:
    for name, unit in COUNTED:
        value = getattr(component, name)
        if value:  # 0 is "none" or "not counted", and the record does not say which
            yield Measurement(name=name, value=value, unit=unit)


def _number(measurement: Measurement) -> dict[str, Cell]:
    return measurement.model_dump(mode="python")


def _rankings(record: AnalysisRecord) -> Iterator[dict[str, Cell]]:
    for ranking in {(r.kind, r.criterion): r for r in record.validation.rankings}.values():
        scored = zip(ranking.components, ranking.scores, strict=False)
        for position, (component, score) in enumerate(scored):
            yield {
                "run": record.id,
                "kind": ranking.kind,
                "criterion": ranking.criterion,
                "position": position,
                "component": component,
                "score": score,
            }


def _finding(run: str, finding: Finding, timed: int) -> dict[str, Cell]:
    return {
        "run": run,
        "id": finding.id,
        "code": finding.code,
        "severity": finding.severity,
        "message": finding.message,
        "components": json.dumps(finding.components),
        "evidence": json.dumps([_number(m) for m in finding.evidence]),
        "timed": timed,
    }


def _proposals(record: AnalysisRecord) -> Iterator[dict[str, Cell]]:
    for proposal in {p.id: p for p in record.proposals}.values():
        yield {
            "run": record.id,
            "id": proposal.id,
            "strategy": proposal.strategy,
            "params": json.dumps(proposal.params, sort_keys=True),
            "components": json.dumps(proposal.components),
            "findings": json.dumps(proposal.finding_ids),
            "rationale": proposal.rationale,
            "source": proposal.source,
            "priority": proposal.priority,
        }


def _judged(record: AnalysisRecord) -> list[tuple[str, Verdict]]:
    judged = [(verdict.proposal_id, verdict) for verdict in record.verdicts]
    return judged + ([(COMBINED, record.combined)] if record.combined else [])


def _verdict(run: str, position: int, key: str, verdict: Verdict) -> dict[str, Cell]:
    return {
        "run": run,
        "position": position,
        "proposal": key,
        "combined": int(key == COMBINED),
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "stages": json.dumps([stage.model_dump(mode="json") for stage in verdict.stages]),
    }


def _numbers(
    record: AnalysisRecord, position: int, key: str, verdict: Verdict
) -> Iterator[dict[str, Cell]]:
    phases = {"before": verdict.before, "after": verdict.after, "bound": verdict.bounds}
    if key in record.timings.latency:
        names = ("latency_ratio", "latency_ratio_low", "latency_ratio_high")
        values = zip(names, record.timings.latency[key], strict=True)
        phases["timed"] = tuple(Measurement(name=name, value=value) for name, value in values)
    for phase, numbers in phases.items():
        for place, measurement in enumerate(numbers):
            head = {"run": record.id, "verdict": position, "phase": phase, "place": place}
            yield {**head, **_number(measurement)}
