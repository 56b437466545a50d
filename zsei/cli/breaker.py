"""`zsei breaker`: the gate's circuit breaker, shown or closed."""

from typing import Annotated, Literal

import typer

from zsei.cli import codes
from zsei.cli.options import Json, settings

Action = Annotated[
    Literal["status", "close"],
    typer.Argument(help="status shows it; close lets the gate decide again."),
]


def breaker(action: Action = "status", as_json: Json = False) -> int:
    """Show the circuit breaker, which opens after three failures in a row, or close it."""
    from zsei.cli.output import results

    with results() as stdout:
        from zsei.gate.breaker import close_breaker, read_breaker
        from zsei.report.text import one_line

        home = settings().home
        before = close_breaker(home) if action == "close" else None
        state = read_breaker(home)
        if as_json:
            stdout.write(state.model_dump_json() + "\n")
        else:
            was = "it was open; " if before is not None and before.open else ""
            sentence = was + state.text()
            stdout.write(one_line(sentence[0].upper() + sentence[1:], 2000) + ".\n")
        return codes.DONE
