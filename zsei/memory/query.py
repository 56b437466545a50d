"""Carry out a plan as parameterised SQL over the records: rows of exact stored numbers.

Nothing here is written by a language model; the plan only chooses among the clauses below.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from zsei.memory.dates import contains
from zsei.memory.plan import QueryPlan
from zsei.memory.vocabulary import Vocabulary

Row = dict[str, JsonValue]
_NEWEST = "runs.created DESC, runs.sequence DESC"
IMPORTANCE = ("ablation_effect", "sensitivity", "taylor", "magnitude")
"""What orders components where an analysis holds no ranking: the exact effect first."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The analyses a plan looks at."""

    runs: tuple[str, ...]
    """The last first."""
    whole: bool
    """All of them were asked for, rather than the newest that answers."""
    missing: tuple[str, ...] = ()
    """Models named of which there is no analysis."""


def scope(plan: QueryPlan, vocabulary: Vocabulary) -> Scope:
    """The analyses that the names in a plan leave."""
    missing = tuple(label for label in plan.models if not vocabulary.models.get(label))
    fitting = vocabulary.runs
    if plan.models:
        chosen = {run for label in plan.models for run in vocabulary.models.get(label, ())}
        fitting = tuple(run for run in fitting if run in chosen)
    if plan.runs:
        fitting = tuple(run for run in fitting if run in plan.runs)
    if plan.trainings:
        chosen = {run for name in plan.trainings for run in vocabulary.trainings.get(name, ())}
        fitting = tuple(run for run in fitting if run in chosen)
    if plan.epochs:
        fitting = tuple(run for run in fitting if vocabulary.epochs.get(run) in plan.epochs)
    if plan.spans:
        fitting = tuple(
            run
            for run in fitting
            if any(contains(span, vocabulary.created[run]) for span in plan.spans)
        )
    if plan.among and not plan.runs:
        fitting = tuple(run for run in fitting if run in plan.among) or fitting
    if plan.offsets:
        count = len(fitting)
        chosen = (fitting[offset] for offset in plan.offsets if -count <= offset < count)
        fitting = tuple(dict.fromkeys(chosen))
    named = bool(plan.runs or plan.offsets or plan.spans or plan.epochs)
    return Scope(runs=fitting, whole=plan.everywhere or named, missing=missing)


def newest(rows: Sequence[Row], scope: Scope) -> list[Row]:
    """The rows of the newest analysis that has any, unless all analyses were asked for."""
    if scope.whole or not rows:
        return list(rows)
    holding = {str(row["run"]) for row in rows}
    first = next(run for run in scope.runs if run in holding)
    return [row for row in rows if row["run"] == first]


def measurements(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Row]:
    """Measurements that fit the plan, in natural order of components."""
    clauses, values = _places(plan, "m")
    for column, allowed in (("m.run", scope.runs), ("m.name", plan.metrics)):
        if allowed or column == "m.run":
            clauses.append(f"{column} IN ({_marks(allowed)})")
            values += allowed
    if plan.codes:
        clauses.append(
            "EXISTS (SELECT 1 FROM finding_components AS f JOIN findings ON findings.run = f.run "
            "AND findings.id = f.finding WHERE f.run = m.run AND f.component = m.component "
            f"AND findings.code IN ({_marks(plan.codes)}))"
        )
        values += plan.codes
    if plan.condition:
        comparison, limit = plan.condition
        clauses.append(f"m.value {comparison} ?")
        values.append(limit)
    found = db.execute(
        "SELECT m.run, runs.model, m.component, c.kind, c.layer, m.name AS metric, m.value, "
        "m.unit, m.std, m.n, m.state, m.note FROM measurements AS m "
        "JOIN runs ON runs.id = m.run "
        "LEFT JOIN components AS c ON c.run = m.run AND c.id = m.component "
        f"WHERE {' AND '.join(clauses)} ORDER BY {_NEWEST}, m.component, m.name",
        values,
    )
    return _natural(counted(dict(row)) for row in found)


def ranking(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Row]:
    """Components in order of importance, most important first unless the plan says otherwise."""
    clauses, values = _places(plan.model_copy(update={"kinds": ()}), "m")
    clauses.append(f"m.run IN ({_marks(scope.runs)})")
    values += scope.runs
    if plan.kinds:
        clauses.append(f"m.kind IN ({_marks(plan.kinds)})")
        values += plan.kinds
    found = db.execute(
        "SELECT m.run, runs.model, m.kind, m.criterion, m.position + 1 AS place, m.component, "
        "m.score AS value FROM rankings AS m JOIN runs ON runs.id = m.run "
        "LEFT JOIN components AS c ON c.run = m.run AND c.id = m.component "
        f"WHERE {' AND '.join(clauses)} ORDER BY {_NEWEST}, m.kind, m.criterion, "
        f"m.position {'DESC' if plan.ascending else 'ASC'}",
        values,
    )
    return [dict(row) for row in found]


def findings(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Row]:
    """Findings that fit the plan, the most severe first."""
    clauses, values = [f"findings.run IN ({_marks(scope.runs)})"], list[object](scope.runs)
    for column, allowed in (("findings.code", plan.codes), ("findings.id", plan.findings)):
        if allowed:
            clauses.append(f"{column} IN ({_marks(allowed)})")
            values += allowed
    inner, more = _places(plan.model_copy(update={"kinds": ()}), "m")
    if inner:
        clauses.append(
            "EXISTS (SELECT 1 FROM finding_components AS m JOIN components AS c ON c.run = m.run "
            "AND c.id = m.component WHERE m.run = findings.run AND m.finding = findings.id "
            f"AND {' AND '.join(inner)})"
        )
        values += more
    found = db.execute(
        "SELECT findings.run, runs.model, findings.id AS finding, findings.code, "
        "findings.severity, findings.components, findings.message, findings.evidence, "
        "findings.timed FROM findings JOIN runs ON runs.id = findings.run "
        f"WHERE {' AND '.join(clauses)} "
        f"ORDER BY {_NEWEST}, findings.severity DESC, findings.code, findings.id",
        values,
    )
    rows = [_opened(row, "components", "evidence") for row in found]
    for row in rows:
        evidence = row["evidence"] if isinstance(row["evidence"], list) else []
        row["evidence"] = [counted(each) for each in evidence if isinstance(each, dict)]
    return rows


def verdicts(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Row]:
    """Proposals with what the gate decided and measured, in the order they were tried."""
    clauses, values = [f"p.run IN ({_marks(scope.runs)})"], list[object](scope.runs)
    if plan.combined:
        clauses.append("p.combined")
    for column, allowed in (
        ("p.id", plan.proposals),
        ("p.strategy", plan.strategies),
        ("p.outcome", plan.outcomes),
    ):
        if allowed:
            clauses.append(f"{column} IN ({_marks(allowed)})")
            values += allowed
    found = db.execute(
        f"SELECT p.*, runs.model FROM ({_JUDGED}) AS p JOIN runs ON runs.id = p.run "
        f"WHERE {' AND '.join(clauses)} ORDER BY {_NEWEST}, p.combined, p.priority, p.id",
        values,
    )
    rows = [_opened(row, "components", "findings", "params", "stages") for row in found]
    if plan.places or plan.kinds:
        fitting = _fitting_components(db, plan, scope)
        rows = [row for row in rows if touches(row, fitting)]
    for row in rows:
        row["numbers"] = _numbers(db, row, plan.metrics)
    return rows


_JUDGED = """
    SELECT proposals.run, proposals.id, strategy, params, components, findings, rationale, source,
           priority, COALESCE(combined, 0) AS combined, outcome, reason, stages, position
    FROM proposals LEFT JOIN verdicts
         ON verdicts.run = proposals.run AND verdicts.proposal = proposals.id
    UNION ALL
    SELECT run, proposal, 'all accepted together', '{}', '[]', '[]', '', '', 0, combined, outcome,
           reason, stages, position
    FROM verdicts
    WHERE NOT EXISTS (SELECT 1 FROM proposals AS p
                      WHERE p.run = verdicts.run AND p.id = verdicts.proposal)"""


def runs(db: sqlite3.Connection, scope: Scope) -> list[Row]:
    """What each analysis was, the last first."""
    found = db.execute(
        "SELECT id AS run, created, model, model_class, family, parameters, layers, heads, "
        "objective, metric, replacement, safety, samples, seed, llm, dtype, device, fidelity, zsei "
        f"FROM runs WHERE id IN ({_marks(scope.runs)}) ORDER BY {_NEWEST}",
        scope.runs,
    )
    return [dict(row) for row in found]


def components(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Row]:
    """The components that a plan's places and kinds leave."""
    clauses, values = _places(plan, "m")
    clauses.append(f"m.run IN ({_marks(scope.runs)})")
    values += scope.runs
    found = db.execute(
        "SELECT m.run, runs.model, m.component, c.kind, c.layer FROM "
        "(SELECT run, id AS component FROM components) AS m JOIN runs ON runs.id = m.run "
        "JOIN components AS c ON c.run = m.run AND c.id = m.component "
        f"WHERE {' AND '.join(clauses)} ORDER BY {_NEWEST}",
        values,
    )
    return _natural(dict(row) for row in found)


def _places(plan: QueryPlan, table: str) -> tuple[list[str], list[object]]:
    """Clauses on a component: `table` has run and component, `c` is the components table."""
    clauses: list[str] = []
    values: list[object] = []
    allowed: tuple[tuple[str, Iterable[object]], ...] = (
        (f"{table}.component", plan.components),
        ("c.kind", plan.kinds),
        ("c.layer", plan.layers),
        ("c.number", plan.heads),
    )
    for column, names in allowed:
        chosen = list(names)
        if chosen:
            clauses.append(f"{column} IN ({_marks(chosen)})")
            values += chosen
    for edge in plan.edges:
        extreme = "MIN" if edge == "first" else "MAX"
        clauses.append(
            f"c.layer = (SELECT {extreme}(layer) FROM components WHERE run = {table}.run)"
        )
    return clauses, values


def _fitting_components(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope
) -> set[tuple[JsonValue, JsonValue]]:
    return {(row["run"], row["component"]) for row in components(db, plan, scope)}


def touches(row: Row, fitting: set[tuple[JsonValue, JsonValue]]) -> bool:
    """Whether a finding or an edit names one of the components."""
    named = row["components"]
    return isinstance(named, list) and any((row["run"], name) in fitting for name in named)


def _numbers(db: sqlite3.Connection, row: Row, metrics: Sequence[str]) -> list[JsonValue]:
    """Everything the gate measured for one verdict, or only the metrics asked for."""
    clause = f"AND name IN ({_marks(metrics)})" if metrics else ""
    found = db.execute(
        "SELECT phase, name AS metric, value, unit, std, n, state, note FROM verdict_numbers "
        f"WHERE run = ? AND verdict = ? {clause} ORDER BY phase, place",
        (row["run"], row.pop("position"), *metrics),
    )
    return [counted(dict(number)) for number in found]


def _opened(row: sqlite3.Row, *columns: str) -> Row:
    opened = dict(row)
    for column in columns:
        opened[column] = json.loads(opened[column]) if opened[column] else []
    return opened


def counted(row: Row) -> Row:
    """What was counted rather than sampled (n = 0) is a whole number again."""
    value = row["value"]
    if isinstance(value, float) and not row["n"] and value.is_integer():
        return {**row, "value": int(value)}
    return row


def _marks(values: Iterable[object]) -> str:
    return ", ".join("?" for _ in values)


def _natural(rows: Iterable[Row]) -> list[Row]:
    """Order components as people count, keeping analyses in the order they come."""
    rows = list(rows)
    age = {run: place for place, run in enumerate(dict.fromkeys(str(row["run"]) for row in rows))}
    names = {str(row["component"]) for row in rows}
    parts = {
        name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
        for name in names
    }
    return sorted(
        rows,
        key=lambda row: (
            age[str(row["run"])],
            parts[str(row["component"])],
            str(row.get("metric", "")),
        ),
    )
