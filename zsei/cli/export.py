"""`zsei export`: one file of a saved model, for torch or for ONNX runtimes."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zsei.cli import codes
from zsei.cli.options import Json


def export(
    folder: Annotated[str, typer.Argument(help="A saved model, or what else names a model.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new file.")],
    to: Annotated[
        Literal["pt2", "onnx"] | None,
        typer.Option(help="Format; by default what the file's name ends in."),
    ] = None,
    float32: Annotated[
        bool, typer.Option("--float32", help="In full precision, whatever the model's.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Export a saved model to one .pt2 or ONNX file whose outputs were compared with its own."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.surgery.export_model import export_model

        done = export_model(folder, out, to=to, float32=float32)
        if as_json:
            stdout.write(done.model_dump_json() + "\n")
        else:
            sizes = ", ".join(
                f"{name} [{', '.join('any' if size is None else str(size) for size in own)}]"
                for name, own in done.inputs.items()
            )
            console(stdout).print(
                f"Exported to {done.path} ({done.bytes:,} bytes), which takes {sizes}.\n"
                f"Outputs compared at {len(done.compared)} sizes: largest difference "
                f"{done.difference:.1e} of the largest output.",
                markup=False,
                highlight=False,
            )
        return codes.DONE
