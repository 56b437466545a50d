"""`zsei show`: one analysis out of memory."""

from zsei.cli import codes
from zsei.cli.options import Json, Run, settings


def show(run: Run, as_json: Json = False) -> int:
    """Show one analysis out of memory."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.memory.store import Memory

        record = Memory(settings().home).get(run)
        if as_json:
            stdout.write(record.model_dump_json() + "\n")
        else:
            from zsei.report import terminal

            terminal.summary(record, console(stdout))
        return codes.DONE
