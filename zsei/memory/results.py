"""Answers that are results: what was found, what was proposed and judged, all about one place."""

import sqlite3

from pydantic import JsonValue

from zsei.memory import query
from zsei.memory.plan import QueryPlan
from zsei.memory.query import Row, Scope
from zsei.memory.say import (
    Draft,
    because,
    cite,
    measured,
    names,
    number,
    plural,
    refusal,
    source,
    where,
)
from zsei.records import Citation

_SHOWN = 12


def answer_findings(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """Findings with their evidence, the most severe first, or how many components they name."""
    rows = [row for row in query.findings(db, plan, scope) if _holds_evidence(row, plan)]
    if plan.kinds:
        parts = _parts(db, plan, scope)
        rows = [row for row in rows if query.touches(row, parts)] or rows
    looked = scope.runs if scope.whole else scope.runs[:1]
    held = [row for row in rows if row["run"] in looked]
    if plan.findings:
        held = query.newest(rows, scope)
    if not held:
        return _none_found(db, plan, scope, rows)
    if plan.operation == "count":
        return _counted(held, db, plan, scope)
    if plan.operation == "max":
        held = held[: plan.limit or 1]
    shown = held[: plan.limit or _SHOWN]
    lines = [f"In {where(held)}, {len(held)} {'finding' if len(held) == 1 else 'findings'}:"]
    for row in shown:
        lines.append(
            f"{row['code']}: {row['message']} (severity {number(row['severity'])}; "
            f"{names(row['components'])}) {source(row)}"
        )
        if plan.intent == "why" or plan.findings or plan.metrics:
            lines.append(f"  evidence: {_evidence(row)}")
    return Draft(text="\n".join(lines), rows=tuple(shown), citations=cite(shown))


def _holds_evidence(row: Row, plan: QueryPlan) -> bool:
    evidence = row["evidence"] if isinstance(row["evidence"], list) else []
    held = {str(each["name"]) for each in evidence if isinstance(each, dict)}
    return not plan.metrics or plan.subject != "findings" or bool(held & set(plan.metrics)) or bool(plan.codes)  # fmt: skip  # noqa: E501


def _none_found(db: sqlite3.Connection, plan: QueryPlan, scope: Scope, older: list[Row]) -> Draft:
    """Nothing of the kind in the analyses asked about is an answer, and cites them."""
    runs = query.runs(db, scope)
    runs = runs if scope.whole else runs[:1]
    what = " or ".join(plan.codes) or "finding"
    text = f"No {what} in {where(runs)}."
    if older:
        text += f' Earlier analyses have {len(older)}; ask about "all analyses" to see them.'
    beside = _beside(db, plan, Scope(runs=tuple(str(row["run"]) for row in runs), whole=True))
    if beside:
        text += f"\nOther findings that name {' or '.join(map(plural, plan.kinds))}:"
        text += "".join(f"\n{row['code']}: {row['message']} {source(row)}" for row in beside)
    rows: tuple[Row, ...] = ({"operation": "count", "count": 0, "codes": list(plan.codes)},)
    rows = rows if plan.operation == "count" else ()
    return Draft(text=text, rows=rows, citations=(*cite(runs, f"no {what}"), *cite(beside)))


def _beside(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Row]:
    """The most severe findings about the kind asked for alone, under other codes."""
    if not (plan.kinds and plan.codes) or plan.places:
        return []
    parts = _parts(db, plan, scope)
    found = query.findings(db, QueryPlan(intent="list", subject="findings"), scope)
    return [
        row
        for row in found
        if isinstance(row["components"], list)
        and all((row["run"], component) in parts for component in row["components"])
    ][:3]


def _parts(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope
) -> set[tuple[JsonValue, JsonValue]]:
    """(run, id) of all components of the kinds asked for."""
    asked = QueryPlan(intent="list", subject="profile", kinds=plan.kinds)
    return {(row["run"], row["component"]) for row in query.components(db, asked, scope)}


def _counted(rows: list[Row], db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """Distinct components named by the findings, of the kind asked for."""
    kinds = {
        (row["run"], row["component"]): str(row["kind"])
        for row in query.components(db, QueryPlan(intent="list", subject="profile"), scope)
    }
    named = {
        (row["run"], component)
        for row in rows
        if isinstance(row["components"], list)
        for component in row["components"]
    }
    wanted = {key for key in named if kinds.get(key) in plan.kinds} if plan.kinds else set()
    codes = ", ".join(dict.fromkeys(str(row["code"]) for row in rows))
    found = f"{len(rows)} {'finding' if len(rows) == 1 else 'findings'} ({codes})"
    if wanted:
        what = " or ".join(plural(kind) for kind in plan.kinds)
        text = f"{len(wanted)} {what} stand in {found} of {where(rows)}."
        count = len(wanted)
    else:
        text = f"{found} in {where(rows)}."
        count = len(rows)
    lines = [f"{row['message']} {source(row)}" for row in rows[:_SHOWN]]
    head: Row = {"operation": "count", "count": count, "findings": len(rows)}
    head["components"] = [*sorted(str(component) for _, component in wanted)]
    return Draft(text="\n".join((text, *lines)), rows=(head, *rows[:_SHOWN]), citations=cite(rows))


def _evidence(row: Row) -> str:
    evidence = row["evidence"]
    if not isinstance(evidence, list) or not evidence:
        return "none recorded"
    return "; ".join(f"{m['name']} {measured(m)}" for m in evidence if isinstance(m, dict))


def answer_verdicts(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """What was proposed, what the gate decided, why, and what it measured."""
    rows = query.verdicts(db, plan, scope)
    looked = scope.runs if scope.whole else scope.runs[:1]
    held = [row for row in rows if row["run"] in looked]
    if plan.proposals:  # an id names an edit, which several analyses may have tried
        held = rows
    if plan.operation == "count" and not plan.combined:
        held = [row for row in held if not row["combined"]]
    if plan.operation in ("max", "min") and plan.metrics:
        held = _extreme(held, plan)
    if plan.operation in ("mean", "sum") and plan.metrics and not plan.proposals:
        return refusal(
            f"No such number: {' or '.join(plan.metrics)} was measured before and after changes, "
            f"and is not added up over them; ask about one change, or what it was."
        )
    what = " or ".join(plan.outcomes) or "judged"
    if not held:
        return _none_judged(db, plan, scope, what, len(rows))
    counted: tuple[Row, ...] = ()
    head = f"In {where(held)}, {len(held)} {'change' if len(held) == 1 else 'changes'}"
    head += f" {what}:" if plan.outcomes else ":"
    if plan.operation == "count":
        counted = ({"operation": "count", "count": len(held)},)
    lines = [head]
    for row in held[: plan.limit or _SHOWN]:
        lines += _told(row, plan)
    return Draft(
        text="\n".join(lines),
        rows=(*counted, *held[: plan.limit or _SHOWN]),
        citations=tuple(
            dict.fromkeys(_cite(row) for row in (held if counted else held[: plan.limit or _SHOWN]))
        ),
    )


def _told(row: Row, plan: QueryPlan) -> list[str]:
    on = f" on {names(row['components'])}" if row["components"] else ""
    outcome = row["outcome"] or "not judged"
    reason = f": {because(outcome, row['reason'])}" if row["reason"] else ""
    lines = [f"{row['strategy']}{on} ({row['id']}) was {outcome}{reason} {source(row)}"]
    if row["rationale"] and (plan.intent == "why" or plan.proposals):
        lines.append(f"  proposed because: {row['rationale']}")
    stages = row["stages"] if isinstance(row["stages"], list) else []
    lines += [
        f"  {stage['stage']} {stage['outcome']}: {stage['detail']}"
        for stage in stages
        if isinstance(stage, dict) and stage["outcome"] in ("failed", "inconclusive")
    ]
    if plan.proposals or plan.metrics or plan.intent == "why":
        lines += [f"  {phase}: {told}" for phase, told in _phases(row)]
    return lines


def _phases(row: Row) -> list[tuple[str, str]]:
    told: dict[str, list[str]] = {}
    numbers = row["numbers"] if isinstance(row["numbers"], list) else []
    for measurement in numbers:
        if isinstance(measurement, dict):
            note = measurement["note"] if measurement["phase"] == "bound" else ""
            text = f"{measurement['metric']} {measured(measurement)}{f' [{note}]' if note else ''}"
            told.setdefault(str(measurement["phase"]), []).append(text)
    order = ("before", "after", "bound", "timed")
    return [(phase, "; ".join(told[phase])) for phase in order if phase in told]


def _extreme(rows: list[Row], plan: QueryPlan) -> list[Row]:
    """Verdicts whose value after the change is the largest or smallest."""
    valued = [(value, row) for row in rows if (value := _after(row)) is not None]
    valued.sort(key=lambda pair: pair[0], reverse=plan.operation == "max")
    return [row for _, row in valued[: plan.limit or 1]]


def _after(row: Row) -> float | None:
    numbers = row["numbers"] if isinstance(row["numbers"], list) else []
    for measurement in numbers:
        if isinstance(measurement, dict) and measurement["phase"] == "after":
            value = measurement["value"]
            return value if isinstance(value, int | float) else None
    return None


def _none_judged(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope, what: str, older: int
) -> Draft:
    runs = query.runs(db, scope)
    runs = runs if scope.whole else runs[:1]
    on = f" by {' or '.join(plan.strategies)}" if plan.strategies else ""
    text = f"No change{on} was {what} in {where(runs)}."
    if older:
        text += f' Earlier analyses have {older}; ask about "all analyses" to see them.'
    rows: tuple[Row, ...] = (
        ({"operation": "count", "count": 0},) if plan.operation == "count" else ()
    )
    return Draft(text=text, rows=rows, citations=cite(runs, f"nothing {what}"))


def _cite(row: Row) -> Citation:
    findings = row["findings"]
    finding = str(findings[0]) if isinstance(findings, list) and findings else None
    return Citation(run=str(row["run"]), finding=finding, text=f"verdict on {row['id']}")


def answer_profile(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """All that is known of a place, or which components there are."""
    rows = query.newest(query.components(db, plan, scope), scope)
    if not rows:
        what = ", ".join((*plan.components, *plan.kinds)) or "place"
        return refusal(f"No such component: nothing in memory fits {what}.")
    if plan.operation == "count":
        head: Row = {"operation": "count", "count": len(rows)}
        kind = plural(plan.kinds[0]) if plan.kinds else "components"
        text = f"{len(rows)} {kind} in {where(rows)}."
        return Draft(
            text=text, rows=(head,), citations=cite([{"run": r["run"]} for r in rows], kind)
        )
    whole = [row for row in rows if row["kind"] == "layer"]
    if whole and not (plan.kinds or plan.heads or plan.components):
        rows = whole  # "layer 3" is the layer, not all that is in it
    if not plan.places:
        text = f"{len(rows)} in {where(rows)}: {names([str(row['component']) for row in rows])}."
        return Draft(text=text, rows=tuple(rows), citations=cite([rows[0]], "components"))
    return _known(db, plan, Scope(runs=(str(rows[0]["run"]),), whole=True), rows)


def _known(db: sqlite3.Connection, plan: QueryPlan, scope: Scope, rows: list[Row]) -> Draft:
    """Measurements and findings of the first few components of a place."""
    lines, shown = [], []
    for row in rows[:3]:
        one = QueryPlan(intent="lookup", subject="profile", components=(str(row["component"]),))
        numbers = query.measurements(db, one, scope)
        found = query.findings(db, one, scope)
        told = "; ".join(f"{each['metric']} {measured(each)}" for each in numbers)
        lines.append(f"{row['component']} ({row['kind']}): {told or 'not measured'} {source(row)}")
        lines += [f"  {each['code']}: {each['message']} {source(each)}" for each in found]
        ranked = query.ranking(db, one, scope)
        lines += [
            f"  place {r['place']} among the {plural(r['kind'])} by {r['criterion']}"
            for r in ranked
        ]
        shown += [*numbers, *found, *ranked]
    if len(rows) > 3:
        lines.append(f"... and {len(rows) - 3} more components there.")
    return Draft(text="\n".join(lines), rows=tuple(shown), citations=cite(shown or rows[:1]))
