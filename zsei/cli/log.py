"""`zsei log`: the steps of an edited model's history."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsei.cli import codes
from zsei.cli.options import Json

if TYPE_CHECKING:
    from zsei.surgery.history import History

Log = Annotated[Path, typer.Argument(help="Folder of a modification log.")]


def log(folder: Log, as_json: Json = False) -> int:
    """Show what was done to a model, step by step."""
    from zsei.cli.output import console, results

    with results() as stdout:
        import json

        from rich.table import Table

        from zsei.surgery.history import read_history

        history = read_history(folder)
        rows = _rows(history)
        if as_json:
            body = {"source": history.source, "model_class": history.model_class, "steps": rows}
            stdout.write(json.dumps(body) + "\n")
            return codes.DONE
        table = Table("step", "made", "edits", "parameters", "verdict", "note", box=None)
        for row in rows:
            cells = (row["step"], row["made"], len(row["edits"]), f"{row['parameters']:,}")
            table.add_row(*map(str, cells), row["verdict"] or "", row["note"])
        screen = console(stdout)
        screen.print(f"{history.source} ({history.model_class})", markup=False, highlight=False)
        screen.print(table)
        return codes.DONE


def _rows(history: "History") -> list[dict[str, Any]]:
    from dataclasses import asdict

    from zsei.surgery.history import changes

    rows = []
    for before, step, made in zip(
        (history.steps[0], *history.steps), history.steps, history.times, strict=False
    ):
        rows.append(
            {
                "step": step.number,
                "made": made,
                "form": step.form,
                "edits": [edit.model_dump(mode="json") for edit in step.edits],
                "changed": asdict(changes(before, step)),
                "parameters": step.parameters_after,
                "state": step.state,
                "verdict": step.verdict.outcome if step.verdict else None,
                "note": step.note,
            }
        )
    return rows
