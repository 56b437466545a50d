"""`zsei explain`: what a finding code means, how it is measured, when it misleads."""

from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import settings


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            help="A finding's code, a measure, a technique; without one, all are listed."
        ),
    ] = None,
) -> int:
    """Print what is known about a finding code: its meaning, its measurement, its sources."""
    from zsei.cli.output import results
    from zsei.errors import UsageError

    with results() as stdout:
        from zsei.analyzers import ANALYZERS
        from zsei.analyzers import explain as documentation
        from zsei.measures import MEASURES
        from zsei.measures import explain as how_measured
        from zsei.resources import load_cards

        measured = {analyzer.code for analyzer in ANALYZERS}
        measures = {measure.name for measure in MEASURES}
        cards = load_cards(settings()).knowledge
        known = sorted(measured | measures | cards.keys())
        if code is None:
            for name in known:
                stdout.write(f"{name}: {cards[name].title if name in cards else ''}\n")
            return codes.DONE
        if code not in known:
            raise UsageError(f"What can be explained is {', '.join(known)}, but not {code!r}.")
        if code in cards:
            card = cards[code]
            sources = "".join(f"- {source}\n" for source in card.sources)
            stdout.write(f"{card.title}\n\n{card.body.strip()}\n\nSources:\n{sources}")
        if code in measured:
            stdout.write(f"\nHow {code} is measured:\n\n{documentation(code)}\n")
        if code in measures:
            stdout.write(f"\nHow {code} is measured:\n\n{how_measured(code)}\n")
        return codes.DONE
