"""`zsei profile`: where the time and the memory of a model go."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.analyze import MODEL_HELP, Objective
from zsei.cli.keep import kept
from zsei.cli.options import Json, RemoteCode, data_groups, settings


def profile(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "demo:minilm",
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="Data of one group; may be given several times."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    batch: Annotated[int | None, typer.Option(metavar="N", help="Samples of a batch. [16]")] = None,
    length: Annotated[int | None, typer.Option(metavar="N", help="Tokens per text. [64]")] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads. [torch's choice]")] = None,
    objective: Annotated[Objective, typer.Option(help="What the model is there to do.")] = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="New or empty folder for profile.json, trace.json, profile.html."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows of each table.")] = 12,
    seed: Annotated[int | None, typer.Option(help="Decides which samples are run. [0]")] = None,
    no_growth: Annotated[
        bool, typer.Option("--no-growth", help="Leave out how time and memory grow with size.")
    ] = False,
    allow_remote_code: RemoteCode = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Where time and memory go: hot spots, the machine's ceilings, memory along the way, growth."""
    from zsei.cli.folder import check_folder, written_whole
    from zsei.cli.output import console, progress, results

    with results() as stdout:
        chosen = settings(
            batch_size=batch, length=length, seed=seed, threads=threads,
            allow_remote_code=allow_remote_code or None,
        )  # fmt: skip
        groups = data_groups(data or [])
        if out is not None:
            check_folder(out)
            _check_empty(out)

        from zsei.profiling.profile import one_batch
        from zsei.profiling.profile import profile as profiled
        from zsei.report.profile_files import save_profile
        from zsei.report.profile_text import summary

        with progress(quiet=quiet) as advance:
            record = profiled(
                model, groups, device=device, objective=objective,
                settings=one_batch(chosen), grow=not no_growth, progress=advance,
                command=_command(model, data, device, batch, length, threads),
            )  # fmt: skip
        if out is not None:
            with written_whole(out) as draft:
                save_profile(record, draft)
        kept(record, chosen)
        if as_json:
            stdout.write(record.model_dump_json() + "\n")
        else:
            summary(record, console(stdout), top)
            if out is not None:
                stdout.write(f"{out / 'profile.html'}\n{out / 'trace.json'}\n")
        return codes.DONE


def _check_empty(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        UsageError: It does.
    """
    from zsei.errors import UsageError

    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--out must be new or empty, but {folder} holds files; name another.")


def _command(
    model: str, data: list[str] | None, device: str, batch: int | None, length: int | None,
    threads: int | None,
) -> str:  # fmt: skip
    """The call in words that give the same workload again."""
    words = ["zsei", "profile", model, *(word for path in data or [] for word in ("--data", path))]
    words += [] if device == "cpu" else ["--device", device]
    for option, value in (("--batch", batch), ("--length", length), ("--threads", threads)):
        words += [] if value is None else [option, str(value)]
    return shlex.join(words)
