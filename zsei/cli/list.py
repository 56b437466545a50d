"""`zsei list`: the analyses and measurements in memory."""

from typing import Annotated, Any, Literal

import typer

from zsei.cli import codes
from zsei.cli.options import Json, settings

COLUMNS = ("id", "created", "model", "findings", "proposals", "accepted")
"""What fits on a terminal; --json has everything."""
MEASURED = ("id", "created", "kind", "model")

Kind = Annotated[
    Literal["analysis", "speed", "profile", "claims"] | None,
    typer.Option(help="Only analyses, or only measurements of one kind."),
]


def list_runs(kind: Kind = None, as_json: Json = False) -> int:
    """List the analyses in memory, and the measurements of speed, profiles and claims."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.memory.document_lines import KINDS
        from zsei.memory.documents import documents
        from zsei.memory.store import Memory

        memory = Memory(settings().home)
        body: dict[str, list[dict[str, Any]]] = {}
        if kind in (None, "analysis"):
            body["runs"] = [row.model_dump(mode="json") for row in memory.runs()]
        if kind != "analysis":
            found = documents(memory, KINDS if kind is None else (kind,))
            body["documents"] = [row.model_dump(mode="json") for row in found]
        if as_json:
            import json

            stdout.write(json.dumps(body) + "\n")
            return codes.DONE
        from zsei.report import plain, terminal

        screen = console(stdout)
        if body.get("runs") or not body.get("documents"):
            terminal.runs([_narrow(row, COLUMNS) for row in body.get("runs", ())], screen)
        if body.get("documents"):
            rows = [_narrow(row, MEASURED) for row in body["documents"]]
            plain.table(screen, plain.columns(*MEASURED), [tuple(row.values()) for row in rows])
        return codes.DONE


def _narrow(row: dict[str, Any], columns: tuple[str, ...]) -> dict[str, Any]:
    """What fits on a terminal; the time to the minute."""
    narrow = {name: row[name] for name in columns}
    return narrow | {"created": row["created"][:16].replace("T", " ")}
