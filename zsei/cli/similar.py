"""`zsei similar`: which analyses in memory are most like one, and why."""

from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, Run, settings


def similar(
    run: Run,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 5,
    as_json: Json = False,
) -> int:
    """Show the analyses most like one: by findings, by structure, by measured profile."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.memory import open_memory
        from zsei.memory.similar import similar_runs

        memory = open_memory(settings())
        with memory.reading() as db:
            found = memory.find(db, run)
        alike = similar_runs(memory, found, limit)
        if as_json:
            import json

            body = {"run": found, "similar": [each.model_dump(mode="json") for each in alike]}
            stdout.write(json.dumps(body) + "\n")
            return codes.DONE
        from zsei.report import plain

        screen = console(stdout)
        if not alike:
            plain.line(screen, f"{found} is the only analysis in memory.")
        for each in alike:
            plain.title(screen, f"{each.run} ({each.model}): {each.score:.2f}")
            for reason in each.reasons:
                told = f"{reason.by} {reason.score:.2f}: {reason.why}"
                plain.paragraph(screen, told, indent=2)
        return codes.DONE
