"""One analysis as rows of the tables in `schema`, so that questions can be asked as SQL."""

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from zsei.memory.chunks import COMBINED, Chunk, chunks_of
from zsei.records import AnalysisRecord, Component, Finding, Measurement, Verdict

Cell = str | int | float | None
Row = dict[str, Cell]
COUNTED = (("parameters", ""), ("flops", "FLOP"), ("bytes", "B"), ("width", ""), ("units", ""))
"""Fields of a component that can be asked about like measurements, and their units."""


def write(
    db: sqlite3.Connection, record: AnalysisRecord, body: str, sequence: int | None = None
) -> None:
    """Insert a whole record, as the last one unless its place is given.

    The caller holds the transaction, and the id is free.
    """
    if sequence is None:
        newest = "SELECT COALESCE(MAX(sequence), 0) + 1 FROM runs"
        sequence = int(db.execute(newest).fetchone()[0])
    for table, rows in tables(record, body, sequence).items():
        _insert(db, table, rows)
    add_chunks(db, chunks_of(record))


def tables(record: AnalysisRecord, body: str, sequence: int) -> dict[str, list[Row]]:
    """Every row that a record makes, table by table in the order of insertion; passages apart."""
    run = record.id
    sha256 = hashlib.sha256(body.encode()).hexdigest()
    findings = {f.id: (f, 1) for f in record.timings.findings}
    findings |= {f.id: (f, 0) for f in record.findings}
    judged = list(enumerate(_judged(record)))
    return {
        "runs": [_run(record, sequence)],
        "records": [{"run": run, "body": body, "sha256": sha256}],
        "components": list(_components(record)),
        "measurements": list(_measurements(record)),
        "rankings": list(_rankings(record)),
        "findings": [_finding(run, finding, timed) for finding, timed in findings.values()],
        "finding_components": [
            {"run": run, "finding": finding.id, "component": component}
            for finding, _ in findings.values()
            for component in dict.fromkeys(finding.components)
        ],
        "proposals": list(_proposals(record)),
        "verdicts": [_verdict(run, position, *pair) for position, pair in judged],
        "verdict_numbers": [
            row for position, pair in judged for row in _numbers(record, position, *pair)
        ],
    }


def add_chunks(db: sqlite3.Connection, chunks: Iterable[Chunk]) -> None:
    """Insert passages and move the generation on, so that readers of the index notice."""
    _insert(db, "chunks", [passage(chunk) for chunk in chunks])
    moved(db)


def passage(chunk: Chunk) -> Row:
    """One passage as a row of `chunks`, without the number that the table gives it."""
    names = ("id", "run", "kind", "key", "component", "metric", "text", "gist", "sha256")
    return {name: getattr(chunk, name) for name in names}


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


def _run(record: AnalysisRecord, sequence: int) -> Row:
    provenance, conditions = record.provenance, record.conditions
    stands = provenance.checkpoint
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
        "training": stands.run if stands else "",
        "epoch": stands.epoch if stands else None,
        "step": stands.step if stands else None,
    }


def _components(record: AnalysisRecord) -> Iterator[Row]:
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


def _measurements(record: AnalysisRecord) -> Iterator[Row]:
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


def _number(measurement: Measurement) -> Row:
    return measurement.model_dump(mode="python")


def _rankings(record: AnalysisRecord) -> Iterator[Row]:
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


def _finding(run: str, finding: Finding, timed: int) -> Row:
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


def _proposals(record: AnalysisRecord) -> Iterator[Row]:
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


def _verdict(run: str, position: int, key: str, verdict: Verdict) -> Row:
    return {
        "run": run,
        "position": position,
        "proposal": key,
        "combined": int(key == COMBINED),
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "stages": json.dumps([stage.model_dump(mode="json") for stage in verdict.stages]),
    }


def _numbers(record: AnalysisRecord, position: int, key: str, verdict: Verdict) -> Iterator[Row]:
    phases = {"before": verdict.before, "after": verdict.after, "bound": verdict.bounds}
    if key in record.timings.latency:
        names = ("latency_ratio", "latency_ratio_low", "latency_ratio_high")
        values = zip(names, record.timings.latency[key], strict=True)
        phases["timed"] = tuple(Measurement(name=name, value=value) for name, value in values)
    for phase, numbers in phases.items():
        for place, measurement in enumerate(numbers):
            head = {"run": record.id, "verdict": position, "phase": phase, "place": place}
            yield {**head, **_number(measurement)}
