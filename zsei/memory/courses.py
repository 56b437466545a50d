"""Answers about a training run over its epochs: exact rows, one for each checkpoint."""

import json
import sqlite3
from collections.abc import Sequence

from zsei.memory import query
from zsei.memory.numbers import reduce_exactly
from zsei.memory.plan import QueryPlan
from zsei.memory.query import Row, Scope
from zsei.memory.results import answer_verdicts
from zsei.memory.say import Draft, cite, measured, names, number, refusal
from zsei.memory.vocabulary import Vocabulary
from zsei.records import Citation

RUN = "training run"
"""What the numbers of a run as a whole stand under, as `zsei.checkpoint.record` writes them."""
OF_RUN = (
    "training_loss", "training_accuracy", "parameters_left", "sparsity_real", "sparsity_wanted",
    "analysis_confidence", "cuts_standing", "ranking_accuracy",
)  # fmt: skip
_SHOWN = 12


def answer_course(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope, vocabulary: Vocabulary
) -> Draft:
    """A number over the epochs of a run, or the epoch at which it was highest or lowest."""
    rows = _rows(db, plan, scope, vocabulary)
    if not rows:
        what = " or ".join(plan.metrics)
        at = f" at epoch {', '.join(map(str, plan.epochs))}" if plan.epochs else ""
        return refusal(
            f"No such measurement: {what} of that place is in no checkpoint of "
            f"{_named(scope, vocabulary)}{at}."
        )
    series: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        key = str(row["training"]), str(row["component"]), str(row["metric"])
        series.setdefault(key, []).append(row)
    lines: list[str] = []
    chosen: list[Row] = []
    for key in list(series)[:_SHOWN]:
        told, shown = _told(key, series[key], plan)
        lines.append(told)
        chosen += shown
    if len(series) > _SHOWN:
        lines.append(f"... and {len(series) - _SHOWN} more series.")
    return Draft(text="\n".join(lines), rows=tuple(chosen), citations=cite(chosen))


def _rows(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope, vocabulary: Vocabulary
) -> list[Row]:
    """Rows of measurements in the order of epochs."""
    whole = set(plan.metrics) <= set(OF_RUN)
    update: dict[str, object] = {"codes": (), "condition": None}
    if whole and not plan.places:
        update |= {"components": (RUN,), "kinds": ()}
    elif plan.layers and not plan.kinds and not plan.heads:
        update["kinds"] = ("layer",)
    found = query.measurements(db, plan.model_copy(update=update), scope)
    training = {run: name for name, runs in vocabulary.trainings.items() for run in runs}
    rows: list[Row] = [
        {"training": training[str(r["run"])], "epoch": vocabulary.epochs[str(r["run"])], **r}
        for r in found
        if str(r["run"]) in training and (whole or r["component"] != RUN)
    ]
    # An epoch that was analysed twice counts once, as it was analysed last.
    latest = {
        (r["training"], r["component"], r["metric"], r["epoch"]): r
        for r in sorted(rows, key=lambda r: -scope.runs.index(str(r["run"])))
    }
    order = sorted(latest, key=lambda key: (str(key[0]), int(str(key[3]))))
    return [latest[key] for key in order]


def _told(key: tuple[str, str, str], rows: list[Row], plan: QueryPlan) -> tuple[str, list[Row]]:
    training, component, metric = key
    valued = [row for row in rows if isinstance(row["value"], int | float)]
    of = f"{metric} of {component}" if component != RUN else metric
    span = f"epochs {rows[0]['epoch']} to {rows[-1]['epoch']}"
    head = f"Run {training}, {len(rows)} checkpoints ({span}), {of}: "
    if not valued:
        return f"{head}could not be told at any of them. {_cited(rows[-1])}", rows
    lowest = min(valued, key=lambda row: (_value(row), row["epoch"]))
    highest = max(valued, key=lambda row: (_value(row), -_epoch(row)))
    if plan.operation in ("max", "min"):
        best = highest if plan.operation == "max" else lowest
        word = "highest" if plan.operation == "max" else "lowest"
        return f"{head}{word} at epoch {best['epoch']}: {measured(best)}. {_cited(best)}", [best]
    if plan.operation in ("mean", "sum"):
        value = reduce_exactly([_value(row) for row in valued], plan.operation)
        text = f"{head}{plan.operation} {number(value)} over {len(valued)} of them."
        row: Row = {"training": training, "component": component, "metric": metric,
                    "operation": plan.operation, "value": value, "n": len(valued),
                    "run": rows[-1]["run"]}  # fmt: skip
        return text, [row, *rows]
    first, last = valued[0], valued[-1]
    text = (
        f"{head}{measured(first)} at epoch {first['epoch']} {_cited(first)} -> {measured(last)} at "
        f"epoch {last['epoch']} {_cited(last)}, difference "
        f"{number(_value(last) - _value(first))}; highest {number(highest['value'])} at epoch "
        f"{highest['epoch']}, lowest {number(lowest['value'])} at epoch {lowest['epoch']}."
    )
    missing = [str(row["epoch"]) for row in rows if row["value"] is None]
    return text + (f" Could not be told at epoch {', '.join(missing)}." if missing else ""), rows


def _value(row: Row) -> float:
    value = row["value"]
    assert isinstance(value, int | float)
    return value


def _epoch(row: Row) -> int:
    return int(str(row["epoch"]))


def _cited(row: Row) -> str:
    return f"[{row['run']}]"


def answer_found_in_run(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope, vocabulary: Vocabulary
) -> Draft:
    """Findings of a run, each once, with the epochs at which it stands."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in query.findings(db, plan, scope):
        groups.setdefault((str(row["code"]), str(row["message"])), []).append(row)
    run = _named(scope, vocabulary)
    if not groups:
        what = " or ".join(plan.codes) or "finding"
        cited = (Citation(run=scope.runs[0], text=f"no {what}"),)
        text = f"No {what} in {run}: {len(scope.runs)} checkpoints were looked at."
        return Draft(text=text, citations=cited)
    lines = [f"In {run}:"]
    rows: list[Row] = []
    for (code, message), found in groups.items():
        found.sort(key=lambda row: vocabulary.epochs[str(row["run"])])
        epochs = [vocabulary.epochs[str(row["run"])] for row in found]
        last = found[-1]
        rows.append({**last, "epochs": [*epochs], "training": run})
        when = f"epoch {epochs[0]}" if len(epochs) == 1 else f"epochs {epochs[0]} to {epochs[-1]}"
        lines.append(
            f"{code}: {message} (said at {when}; {names(last['components'])}) "
            f"[{last['run']}, {last['finding']}]"
        )
    return Draft(text="\n".join(lines), rows=tuple(rows), citations=cite(rows))


def answer_cuts(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope, vocabulary: Vocabulary
) -> Draft:
    """What was put before the gate at the epochs asked about, and why; or why nothing was."""
    whole = Scope(runs=scope.runs, whole=True)
    asked = plan.model_copy(update={"intent": "why", "subject": "verdicts", "operation": None})
    draft = answer_verdicts(db, asked, whole)
    when = {run: vocabulary.epochs[run] for run in scope.runs}
    reasons = [
        (when[run], run, note) for run in sorted(scope.runs, key=lambda run: when[run])
        for note in _notes(db, run)
    ]  # fmt: skip
    said = [f"Epoch {epoch}: {note} [{run}]" for epoch, run, note in reasons[:_SHOWN]]
    rows: tuple[Row, ...] = tuple(
        {"run": run, "epoch": epoch, "note": note} for epoch, run, note in reasons[:_SHOWN]
    )
    told = tuple({**row, "epoch": when[str(row["run"])]} if "run" in row else row
                 for row in draft.rows)  # fmt: skip
    return Draft(
        text="\n".join((draft.text, *said)),
        rows=(*told, *rows),
        citations=tuple(dict.fromkeys((*draft.citations, *cite(rows, "why nothing was approved")))),
        answered=draft.answered,
    )


def _notes(db: sqlite3.Connection, run: str) -> list[str]:
    found = db.execute(
        "SELECT json_extract(body, '$.validation.notes') AS notes FROM records WHERE run = ?",
        (run,),
    ).fetchone()
    return [str(note) for note in json.loads(found["notes"] or "[]")] if found else []


def answer_fallbacks(
    db: sqlite3.Connection, plan: QueryPlan, scope: Scope, vocabulary: Vocabulary
) -> Draft:
    """At which epochs something stood in for the whole analysis, and for what."""
    rows: list[Row] = []
    for run in sorted(scope.runs, key=lambda run: vocabulary.epochs[run]):
        found = db.execute(
            "SELECT json_extract(body, '$.failures') AS failures FROM records WHERE run = ?", (run,)
        ).fetchone()
        for failure in json.loads(found["failures"] or "[]") if found else ():
            if failure["stage"] == "fallback":
                row: Row = {"run": run, "epoch": vocabulary.epochs[run]}
                rows.append({**row, "why": failure["why"], "instead": failure["fix"]})
    run = _named(scope, vocabulary)
    if not rows:
        text = f"No fallback in {run}: {len(scope.runs)} checkpoints were looked at."
        return Draft(text=text, citations=(Citation(run=scope.runs[0], text="no fallback"),))
    epochs = list(dict.fromkeys(row["epoch"] for row in rows))
    lines = [f"Fallbacks in {run}, at {len(epochs)} of {len(scope.runs)} checkpoints:"]
    lines += [f"epoch {r['epoch']}: {r['why']}. {r['instead']} [{r['run']}]" for r in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"... and {len(rows) - _SHOWN} more.")
    return Draft(text="\n".join(lines), rows=tuple(rows), citations=cite(rows, "a fallback"))


def _named(scope: Scope, vocabulary: Vocabulary) -> str:
    found: Sequence[str] = [
        name for name, runs in vocabulary.trainings.items() if set(runs) & set(scope.runs)
    ]
    return f"run {found[0]}" if len(found) == 1 else f"the runs {', '.join(found)}"
