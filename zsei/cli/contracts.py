"""`zsei contracts`: the messages between training and analysis, as JSON schemas."""

from pathlib import Path
from typing import Annotated

import typer

from zsei.cli import codes


def contracts(
    name: Annotated[
        str | None, typer.Argument(help="A message or a part of one; none: list them all.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write NAME.schema.json files into this folder."),
    ] = None,
) -> int:
    """Print the JSON schemas (2020-12) of the messages about checkpoints."""
    from zsei.cli.output import results
    from zsei.service.schemas import PUBLISHED, schema_of, text_of, write_schemas

    with results() as stdout:
        if name is not None:
            schema_of(name)  # refuses what is none before a folder is made
        if out is not None:
            for path in write_schemas(out, [name] if name else list(PUBLISHED)):
                stdout.write(f"{path}\n")
        elif name is not None:
            stdout.write(text_of(schema_of(name)))
        else:
            for known, kind in PUBLISHED.items():
                said = (kind.__doc__ or "").strip().splitlines()[0]
                stdout.write(f"{known:28} {said}\n")
    return codes.DONE
