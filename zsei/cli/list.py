"""`zsei list`: the analyses in memory."""

from zsei.cli import codes
from zsei.cli.options import Json, settings

COLUMNS = ("id", "created", "model", "findings", "proposals", "accepted")
"""What fits on a terminal; --json has everything."""


def list_runs(as_json: Json = False) -> int:
    """List the analyses in memory."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.memory.store import Memory

        rows = [row.model_dump(mode="json") for row in Memory(settings().home).runs()]
        if as_json:
            import json

            stdout.write(json.dumps({"runs": rows}) + "\n")
        else:
            from zsei.report import terminal

            narrow = [{name: row[name] for name in COLUMNS} for row in rows]
            for row in narrow:
                row["created"] = row["created"][:16].replace("T", " ")
            terminal.runs(narrow, console(stdout))
        return codes.DONE
