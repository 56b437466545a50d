"""Answers that are numbers: measurements, extremes, means, counts, rankings, what a run was."""

import math
import sqlite3
import statistics
from collections.abc import Sequence

from zsei.memory import query
from zsei.memory.plan import QueryPlan
from zsei.memory.query import Row, Scope
from zsei.memory.say import Draft, cite, measured, number, plural, refusal, source, where

_SHOWN = 20
_FIELDS = ("model", "family", "parameters", "objective", "safety", "created")


def answer_measurements(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """Look measurements up, or reduce them to an extreme, a mean, a sum or a count."""
    rows = query.newest(_fitting(db, plan, scope), scope)
    if not rows:
        return _nothing(db, plan, scope)
    if plan.operation is None:
        return _listed(rows, plan)
    drafts = [
        _reduced([row for row in rows if row["metric"] == metric], metric, plan)
        for metric in dict.fromkeys(str(row["metric"]) for row in rows)
    ]
    return Draft(
        text="\n".join(draft.text for draft in drafts),
        rows=tuple(row for draft in drafts for row in draft.rows),
        citations=tuple(
            dict.fromkeys(citation for draft in drafts for citation in draft.citations)
        ),
        answered=any(draft.answered for draft in drafts),
    )


def _fitting(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Row]:
    """What fits; "layer 3" is the layer itself where it was measured, else what is in it."""
    if (plan.layers or plan.edges) and not (plan.kinds or plan.heads or plan.components):
        whole = plan.model_copy(update={"kinds": ("layer",)})
        return query.measurements(db, whole, scope) or query.measurements(db, plan, scope)
    rows = query.measurements(db, plan, scope)
    if not rows and plan.kinds == ("layer",):
        inside = query.measurements(db, plan.model_copy(update={"kinds": ()}), scope)
        rows = [row for row in inside if row["layer"] is not None]
    return rows


def _listed(rows: list[Row], plan: QueryPlan) -> Draft:
    """One line per number in natural order; where there are too many, the largest."""
    limit = plan.limit or _SHOWN
    shown = rows
    if len(rows) > limit:
        told = [row for row in rows if row["value"] is not None]
        shown = sorted(told, key=_value, reverse=True)[:limit]
    lines = [
        f"{row['metric']} of {row['component']}: {measured(row)} {source(row)}" for row in shown
    ]
    if len(rows) > limit:
        lines.insert(0, f"The largest {len(shown)} of {len(rows)} in {where(rows)}:")
    elif len(lines) > 1:
        lines.insert(0, f"From {where(shown)}:")
    return Draft(text="\n".join(lines), rows=tuple(shown), citations=cite(shown))


def _reduced(rows: list[Row], metric: str, plan: QueryPlan) -> Draft:
    told = [row for row in rows if row["value"] is not None]
    if plan.group is not None:
        return _grouped(told, metric, plan)
    if plan.operation == "count":
        return _counted(rows, metric, plan)
    if not told:
        return refusal(
            f"No such number: {metric} could not be told for any of {len(rows)} components."
        )
    if plan.operation in ("max", "min"):
        return _extreme(told, metric, plan)
    value = reduce_exactly([_value(row) for row in told], plan.operation)
    text = (
        f"The {plan.operation} of {metric} over {len(told)} {_what(told)} in {where(told)} is "
        f"{number(value)}{_unit(told)}."
    )
    row: Row = {"operation": plan.operation, "metric": metric, "value": value, "count": len(told)}
    row["runs"] = list(dict.fromkeys(str(each["run"]) for each in told))
    return Draft(text=text, rows=(row,), citations=_cite_runs(told, metric))


def _extreme(rows: list[Row], metric: str, plan: QueryPlan) -> Draft:
    largest = plan.operation == "max"
    ordered = sorted(rows, key=_value, reverse=largest)
    limit = plan.limit or sum(_value(row) == _value(ordered[0]) for row in ordered)
    word = "largest" if largest else "smallest"
    lines = [f"{row['component']} with {measured(row)} {source(row)}" for row in ordered[:limit]]
    head = f"The {word} {metric} among {len(rows)} {_what(rows)} of {where(rows)}"
    text = f"{head}: {lines[0]}." if limit == 1 else "\n".join((f"{head}:", *lines))
    return Draft(text=text, rows=tuple(ordered[:limit]), citations=cite(ordered[:limit]))


def _counted(rows: list[Row], metric: str, plan: QueryPlan) -> Draft:
    if plan.condition:
        comparison, limit = plan.condition
        rule = f"with {metric} {comparison} {number(int(limit) if limit.is_integer() else limit)}"
    else:
        rule = f"with a measured {metric}"
    row: Row = {"operation": "count", "metric": metric, "count": len(rows)}
    text = f"{len(rows)} {_what(rows)} {rule} in {where(rows)}."
    return Draft(text=text, rows=(row, *rows[:_SHOWN]), citations=_cite_runs(rows, metric))


def _grouped(rows: list[Row], metric: str, plan: QueryPlan) -> Draft:
    group = plan.group or "layer"
    values: dict[object, list[int | float]] = {}
    for row in rows:
        if row[group] is not None:
            values.setdefault(row[group], []).append(_value(row))
    operation = plan.operation or "mean"
    reduced: list[Row] = [
        {
            group: key,
            "operation": operation,
            "metric": metric,
            "value": reduce_exactly(each, operation),
            "count": len(each),
        }
        for key, each in values.items()
        if isinstance(key, str | int)
    ]
    lines = [f"{group} {row[group]}: {number(row['value'])} over {row['count']}" for row in reduced]
    text = "\n".join((f"The {operation} of {metric} per {group} in {where(rows)}:", *lines))
    return Draft(text=text, rows=tuple(reduced), citations=_cite_runs(rows, metric))


def answer_ranking(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """Components by importance, from the analysis's own ranking or the best score it has."""
    rows = query.newest(query.ranking(db, plan, scope), scope)
    if not rows:
        return _ranked_by_score(db, plan, scope)
    lists: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        lists.setdefault((row["run"], row["kind"], row["criterion"]), []).append(row)
    limit, end = plan.limit or 5, "least" if plan.ascending else "most"
    lines, shown = [], []
    for (_, kind, criterion), ranked in lists.items():
        lines.append(f"{plural(kind)} that matter {end} in {where(ranked)}, by {criterion}:")
        lines += [f"{r['component']} ({number(r['value'])}) {source(r)}" for r in ranked[:limit]]
        shown += ranked[:limit]
    return Draft(text="\n".join(lines), rows=tuple(shown), citations=cite(shown, "ranking"))


def _ranked_by_score(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    for metric in query.IMPORTANCE:
        asked = plan.model_copy(
            update={"metrics": (metric,), "operation": "min" if plan.ascending else "max"}
        )
        rows = query.newest(_fitting(db, asked, scope), scope)
        told = [row for row in rows if row["value"] is not None]
        if told:
            return _extreme(told, metric, asked)
    what = ", ".join(plan.kinds) or "component"
    return refusal(f"No such ranking: no importance of any {what} was measured there.")


def answer_runs(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """What the analyses were: how many, of which models, under which conditions."""
    rows = query.runs(db, scope)
    if plan.operation == "count" and not plan.metrics:
        counted: Row = {"operation": "count", "count": len(rows)}
        text = f"{len(rows)} {'analysis' if len(rows) == 1 else 'analyses'}."
        return Draft(text=text, rows=(counted, *rows[:_SHOWN]), citations=cite(rows, "analysis"))
    fields = plan.fields or plan.metrics or _FIELDS
    if plan.operation in ("max", "min") and plan.metrics:
        rows = sorted(rows, key=lambda row: _as_number(row["parameters"]), reverse=plan.operation == "max")[:1]  # fmt: skip  # noqa: E501
    elif not scope.whole and (plan.fields or plan.metrics):
        rows = rows[:1]
    lines = [
        f"{row['model']}: "
        + ", ".join(f"{name} {row[name] if row[name] is not None else 'none'}" for name in fields)
        + f" {source(row)}"
        for row in rows[:_SHOWN]
    ]
    text = "\n".join(lines)
    return Draft(text=text, rows=tuple(rows[:_SHOWN]), citations=cite(rows[:_SHOWN], "analysis"))


def reduce_exactly(values: Sequence[int | float], operation: str | None) -> int | float:
    """A mean, sum, extreme or count of stored numbers, exact and rounded once at the end."""
    if operation == "count":
        return len(values)
    if operation in ("max", "min"):
        return max(values) if operation == "max" else min(values)
    if operation == "mean":
        return statistics.mean(values)
    # Whole numbers add up exactly by themselves, and stay whole.
    return sum(values) if all(isinstance(value, int) for value in values) else math.fsum(values)


def _nothing(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> Draft:
    """Why no measurement fits: the place, the metric, or the condition."""
    what = " or ".join(plan.metrics) or "measurement"
    everything = plan.model_copy(update={"metrics": (), "condition": None})
    other = _fitting(db, everything, scope)
    if plan.condition and _fitting(db, plan.model_copy(update={"condition": None}), scope):
        rows = _fitting(db, plan.model_copy(update={"condition": None}), scope)
        row: Row = {"operation": "count", "metric": what, "count": 0}
        text = f"None of {len(rows)} components in {where(rows)} fits that condition on {what}."
        return Draft(text=text, rows=(row,), citations=_cite_runs(rows, what))
    if other:
        known = sorted({str(row["metric"]) for row in other})
        return refusal(
            f"No such measurement: {what} was not measured there; {', '.join(known)} were."
        )
    return refusal(f"No such component: nothing in memory fits that place, so there is no {what}.")


def _cite_runs(rows: Sequence[Row], text: str) -> tuple:
    return cite([{"run": row["run"]} for row in rows], text)


def _what(rows: Sequence[Row]) -> str:
    """What the rows are of: one kind, or components of several."""
    kinds = {str(row["kind"]) for row in rows}
    return f"{kinds.pop()} components" if len(kinds) == 1 else "components"


def _value(row: Row) -> int | float:
    return _as_number(row["value"])


def _as_number(value: object) -> int | float:
    assert isinstance(value, int | float)
    return value


def _unit(rows: Sequence[Row]) -> str:
    units = {str(row["unit"]) for row in rows}
    return f" {units.pop()}" if len(units) == 1 and "" not in units else ""
