"""`zsei delete`: forget one analysis or measurement."""

import sys
from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, Run, settings


def delete(
    run: Run,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether it is meant.")] = False,
    as_json: Json = False,
) -> int:
    """Forget one analysis or measurement: record, passages, and vectors that no other uses."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.errors import UsageError
        from zsei.memory import open_memory
        from zsei.memory.documents import delete_document, find_document
        from zsei.memory.rebuild import follow
        from zsei.report import plain

        memory = open_memory(settings())
        with memory.reading() as db:
            document = find_document(db, run)
            found = document or memory.find(db, run)
        if not yes:
            if as_json or not sys.stdin.isatty():
                raise UsageError(
                    f"Deleting {found} cannot be undone, and nobody is there to ask; say --yes."
                )
            if not typer.confirm(f"Forget {found}, for good?", err=True):
                return codes.ERROR
        if document is not None:
            delete_document(memory, document)
        else:
            memory.delete(found)
        notes = follow(memory)
        if as_json:
            import json

            stdout.write(json.dumps({"deleted": found, "notes": notes}) + "\n")
        else:
            screen = console(stdout)
            plain.line(screen, f"Forgotten: {found}.")
            for note in notes:
                plain.paragraph(screen, note)
        return codes.DONE
