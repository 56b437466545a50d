"""`zsei rollback`: the model of an earlier step, to the byte."""

from pathlib import Path
from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.log import Log
from zsei.cli.options import Json, RemoteCode, settings


def rollback(
    folder: Log,
    to: Annotated[int, typer.Option(metavar="N", help="Step, as `zsei log` shows it.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for that step's model.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The original, if the log was made without it."),
    ] = None,
    allow_remote_code: RemoteCode = False,
    as_json: Json = False,
) -> int:
    """Write the model of any step of a modification log; the log stays as it is."""
    from zsei.cli.output import console, results

    with results() as stdout:
        chosen = settings(allow_remote_code=allow_remote_code or None)

        import json

        from zsei.surgery.modification_log import ModificationLog

        step = ModificationLog.open(folder).rollback(to, out, model=model, settings=chosen)
        if as_json:
            body = {
                "step": step.number,
                "out": str(out),
                "form": step.form,
                "parameters": step.parameters_after,
                "state": step.state,
            }
            stdout.write(json.dumps(body) + "\n")
        else:
            console(stdout).print(
                f"Step {step.number} with {step.parameters_after:,} parameters is in {out}; "
                f"zsei.load({str(out)!r}) gives the model.",
                markup=False,
                highlight=False,
            )
        return codes.DONE
