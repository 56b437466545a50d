"""Two or more sides next to each other: analyses, models, or places of one analysis."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from zsei.memory import query
from zsei.memory.numbers import reduce_exactly
from zsei.memory.plan import QueryPlan
from zsei.memory.query import Row, Scope
from zsei.memory.say import Draft, cite, number, refusal
from zsei.memory.vocabulary import Vocabulary

Value = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Side:
    """One thing compared: a place in one analysis, or a whole analysis."""

    label: str
    run: str
    plan: QueryPlan


def answer_comparison(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope, vocabulary: Vocabulary
) -> Draft:
    """One row per quantity, with a column per side and, of two numbers, the difference."""
    sides = _places(db, plan, scope) or _analyses(plan, scope, vocabulary)
    if len(sides) < 2:
        return refusal(
            "No such comparison: it takes two analyses, models or components that are in memory, "
            f"and {len(sides)} fit."
        )
    models = {str(row["run"]): str(row["model"]) for row in query.runs(db, scope)}
    whole = not (plan.metrics or plan.places)
    tables = [_whole(db, side) if whole else _numbers(db, side) for side in sides]
    if whole and plan.fields:
        tables = [{n: v for n, v in table.items() if n in plan.fields} for table in tables]
    if not (whole or any(tables)):  # layers were not measured: what is in them was
        inside = [replace(side, plan=side.plan.model_copy(update={"kinds": ()})) for side in sides]
        tables = [_numbers(db, side) for side in inside]
    quantities = list(dict.fromkeys(name for table in tables for name in table))
    rows = [_row(name, sides, tables) for name in quantities]
    if not rows:
        return refusal("No such measurement: neither side has a number of that name.")
    lines = [f"Compared: {' with '.join(_named(side, models) for side in sides)}."]
    unlike = [row for row in rows if not _same(row, sides)]
    lines += [_line(row, sides) for row in unlike]
    if len(unlike) < len(rows):
        equal = [str(row["quantity"]) for row in rows if _same(row, sides)]
        lines.append(f"The same on every side: {', '.join(equal)}.")
    lines += [_winner(row, sides, plan) for row in rows if plan.operation in ("max", "min")]
    cited: list[Row] = [{"run": side.run, "model": models.get(side.run, "")} for side in sides]
    return Draft(text="\n".join(lines), rows=tuple(rows), citations=cite(cited, "compared"))


def _places(db: sqlite3.Connection, plan: QueryPlan, scope: Scope) -> list[Side]:
    """Components, layers or heads of the newest analysis that holds them all."""
    fields: tuple[tuple[str, Sequence[object]], ...] = (
        ("components", plan.components),
        ("heads", plan.heads),
        ("layers", plan.layers),
    )
    for field, values in fields:
        if len(values) > 1:
            parts = [(value, plan.model_copy(update={field: (value,)})) for value in values]
            for run in scope.runs:
                here = Scope(runs=(run,), whole=True)
                if all(query.components(db, part, here) for _, part in parts):
                    return [
                        Side(label=_label(field, value), run=run, plan=_itself(field, part))
                        for value, part in parts
                    ]
    return []


def _label(field: str, value: object) -> str:
    return str(value) if field == "components" else f"{field.removesuffix('s')} {value}"


def _itself(field: str, part: QueryPlan) -> QueryPlan:
    """Layer 3 is the layer itself, unless a kind inside it was named."""
    kinds = {"layers": ("layer",), "heads": ("head",)}
    bare = field in kinds and not part.kinds
    return part.model_copy(update={"kinds": kinds[field]}) if bare else part


def _analyses(plan: QueryPlan, scope: Scope, vocabulary: Vocabulary) -> list[Side]:
    """The newest of each model named, the analyses named, or the last two; oldest first."""
    if len(plan.models) > 1:
        newest = {
            label: next((r for r in scope.runs if r in vocabulary.models[label]), None)
            for label in plan.models
        }
        return [Side(label=label, run=r, plan=plan) for label, r in newest.items() if r is not None]
    named = plan.runs or plan.offsets or plan.everywhere
    if not named and len(scope.runs) > 2:
        scope = Scope(runs=scope.runs[:2], whole=True)
    return [Side(label=run, run=run, plan=plan) for run in reversed(scope.runs)]


def _numbers(db: sqlite3.Connection, side: Side) -> dict[str, Value]:
    """The metrics of one side; several components are reduced to one number."""
    rows = query.measurements(db, side.plan, Scope(runs=(side.run,), whole=True))
    values: dict[str, list[int | float]] = {}
    for row in rows:
        if isinstance(row["value"], int | float):
            values.setdefault(str(row["metric"]), []).append(row["value"])
    operation = side.plan.operation if side.plan.operation in ("sum", "mean") else "mean"
    return {
        metric if len(each) == 1 else f"{operation} {metric}": each[0]
        if len(each) == 1
        else reduce_exactly(each, operation)
        for metric, each in values.items()
    }


def _whole(db: sqlite3.Connection, side: Side) -> dict[str, Value]:
    """What an analysis was and what came of it."""
    scope = Scope(runs=(side.run,), whole=True)
    everything = QueryPlan(intent="list", subject="findings")
    (run,) = query.runs(db, scope)
    table: dict[str, Value] = {}
    for name in ("model", "family", "parameters", "layers", "heads", "objective", "safety", "samples", "seed"):  # fmt: skip  # noqa: E501
        value = run[name]
        table[name] = value if isinstance(value, str | int | float) else None
    found = query.findings(db, everything, scope)
    judged = [row for row in query.verdicts(db, everything, scope) if not row["combined"]]
    table["findings"] = len(found)
    for code in sorted({str(row["code"]) for row in found}):
        table[f"findings: {code}"] = sum(row["code"] == code for row in found)
    table["proposals"] = len(judged)
    for outcome in sorted({str(row["outcome"]) for row in judged if row["outcome"]}):
        table[f"proposals {outcome}"] = sum(row["outcome"] == outcome for row in judged)
    return table


def _row(name: str, sides: Sequence[Side], tables: Sequence[Mapping[str, Value]]) -> Row:
    counted = name.startswith(("findings", "proposals"))
    values = [table.get(name, 0 if counted else None) for table in tables]
    row: Row = {"quantity": name}
    row |= {side.label: value for side, value in zip(sides, values, strict=True)}
    if len(values) == 2:
        first, second = values
        if isinstance(first, int | float) and isinstance(second, int | float):
            row["difference"] = second - first
    return row


def _line(row: Row, sides: Sequence[Side]) -> str:
    told = [number(row[side.label]) if row[side.label] is not None else "not measured" for side in sides]  # fmt: skip  # noqa: E501
    text = f"{row['quantity']}: {' -> '.join(told)}"
    return text + (f" (difference {number(row['difference'])})" if row.get("difference") else "")


def _same(row: Row, sides: Sequence[Side]) -> bool:
    values = [row[side.label] for side in sides]
    return all(value == values[0] for value in values)


def _winner(row: Row, sides: Sequence[Side], plan: QueryPlan) -> str:
    """Which side is ahead, where the question asks for it."""
    valued = [(row[side.label], side.label) for side in sides]
    told = [(value, label) for value, label in valued if isinstance(value, int | float)]
    if len(told) < 2:
        return f"Fewer than two sides have {row['quantity']}."
    best = max(told)[0] if plan.operation == "max" else min(told)[0]
    ahead = [label for value, label in told if value == best]
    word = "highest" if plan.operation == "max" else "lowest"
    return f"The {word} {row['quantity']}: {' and '.join(ahead)}."


def _named(side: Side, models: Mapping[str, str]) -> str:
    if side.label == side.run:
        return f"{side.run} ({models.get(side.run, '')})"
    return f"{side.label} [{side.run}]"
