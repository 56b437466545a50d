"""`zsei runs`: training runs in memory, and the page of one."""

from pathlib import Path
from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, settings

COLUMNS = ("run", "model", "checkpoints", "first", "last", "parameters")


def training_runs(
    name: Annotated[
        str | None, typer.Argument(help="A training run; without one, all are listed.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the run's page, NAME.html.")
    ] = None,
    as_json: Json = False,
) -> int:
    """List training runs, or write the page of one: its series, findings and cuts over epochs."""
    from zsei.cli.output import console, results
    from zsei.errors import UsageError

    with results() as stdout:
        from zsei.memory.store import Memory, RunRow

        memory = Memory(settings().home)
        runs: dict[str, list[RunRow]] = {}
        for row in memory.runs():
            if row.training:
                runs.setdefault(row.training, []).append(row)
        if name is not None and name not in runs:
            known = ", ".join(sorted(runs)[:8]) or "none is in memory yet"
            raise UsageError(f"No training run is called {name!r}; known: {known}.")
        if out is not None and name is None:
            raise UsageError("A page is of one run; name it: `zsei runs NAME --out FOLDER`.")
        chosen = {name: runs[name]} if name is not None else runs
        rows = [_row(run, found) for run, found in sorted(chosen.items())]
        page = None
        if out is not None and name is not None:
            from zsei.report.run_page import write_run

            out.mkdir(parents=True, exist_ok=True)
            # The last one added of an epoch stands: records come the newest first.
            records = [memory.get(row.id) for row in reversed(runs[name])]
            page = write_run(records, out / f"{Path(name).name}.html")
        if as_json:
            import json

            told = {"runs": rows} | ({"page": str(page)} if page else {})
            stdout.write(json.dumps(told) + "\n")
        else:
            from zsei.report import plain

            screen = console(stdout)
            table = [tuple(str(row[column]) for column in COLUMNS) for row in rows]
            plain.table(screen, plain.columns(*COLUMNS), table)
            if page is not None:
                plain.line(screen, f"Page: {page}")
        return codes.DONE


def _row(run: str, found: list) -> dict[str, object]:  # type: ignore[type-arg]
    """One line: which epochs there are, and how many parameters it began and ended with."""
    by_epoch = sorted(found, key=lambda row: row.epoch)
    first, last = by_epoch[0], by_epoch[-1]
    return {
        "run": run,
        "model": last.model,
        "checkpoints": len({row.epoch for row in found}),
        "first": first.epoch,
        "last": last.epoch,
        "parameters": f"{first.parameters} -> {last.parameters}",
    }
