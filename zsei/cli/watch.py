"""`zsei watch`: follow a folder of checkpoints, and analyse each as it comes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from zsei.cli import codes
from zsei.cli.analyze import MODEL_HELP, Objective
from zsei.cli.options import RemoteCode, data_groups, settings

if TYPE_CHECKING:
    from zsei.checkpoint.job import Job
    from zsei.checkpoint.run_folder import RunFolder
    from zsei.checkpoint.watch import Pace, Watch
    from zsei.cli.watch_lines import Lines
    from zsei.errors import UsageError


def watch(
    folder: Annotated[Path, typer.Argument(help="Folder that training writes checkpoints into.")],
    model: Annotated[
        str | None,
        typer.Option(help=f"{MODEL_HELP} Not needed where checkpoints have a config.json."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="Data of one group; may be given several times."),
    ] = None,
    objective: Annotated[Objective, typer.Option(help="What the model is there to do.")] = "auto",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML or TOML with the sections elesh, run.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run. [the folder's]")
    ] = None,
    mode: Annotated[
        Literal["observe", "mask", "remove"] | None,
        typer.Option(help="What training may do with the decisions. [observe]"),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="What runs the analyses.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. [as the configuration says]")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Only what lies there now.")] = False,
    until_idle: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", min=0, help="End when nothing new has come for so long."),
    ] = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Time between two looks.")
    ] = 2.0,
    patience: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0, help="How long a half-written one is waited for."),
    ] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Same seed, same record. [0]")] = None,
    allow_remote_code: RemoteCode = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a line for each checkpoint.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No estimate, notes or skipped checkpoints.")
    ] = False,
) -> int:
    """Analyse every checkpoint that training writes into a folder, beside it and without its help.

    The folder is only read. Decisions lie in the run's folder, HOME/runs/NAME; unless --mode says
    otherwise they are for looking only. Given again, the command goes on where it was.
    """
    import sys

    from zsei.cli.output import results
    from zsei.cli.watch_lines import Lines

    with results() as stdout:
        from zsei.checkpoint.read_config import read_config
        from zsei.checkpoint.run_folder import RunFolder
        from zsei.checkpoint.watch import Pace
        from zsei.checkpoint.weights.find import find_checkpoints

        found = find_checkpoints(folder)
        if once and not found:
            raise _nothing_there(folder)
        chosen = settings(seed=seed, allow_remote_code=allow_remote_code or None)
        chosen = chosen.model_copy(update={"home": chosen.home.resolve()})
        read = read_config(config)
        if mode is not None:
            read = read.model_copy(update={"run": read.run.model_copy(update={"mode": mode})})
        groups = {
            name: str(Path(path).resolve())
            for name, path in (data_groups(data or []) or {}).items()
        }
        name = _run_name(run, folder)
        home = RunFolder(path=chosen.home / "runs" / name)
        lines = Lines(stdout, sys.stderr, as_json=as_json, quiet=quiet)
        pace = Pace(once=once, until_idle=until_idle, every=every)

        from zsei.checkpoint.job import Job

        job = Job(
            run=name, model=_named(model) or _first_model(folder, home, pace, lines, patience),
            data=groups or None,
            objective=objective, settings=chosen, config=read,
        )  # fmt: skip
        return _watch(folder, home, job, pace, lines, (engine, address, workers, patience))


def _watch(
    folder: Path, home: "RunFolder", job: "Job", pace: "Pace", lines: "Lines", how: tuple[Any, ...]
) -> int:
    from dataclasses import replace

    from zsei.checkpoint.analyst import Analyst
    from zsei.checkpoint.outlook import look_ahead
    from zsei.checkpoint.watch import Watch
    from zsei.checkpoint.watch import watch as follow
    from zsei.checkpoint.weights.settle import Settling
    from zsei.checkpoint.worker import OpenWorker
    from zsei.engines.open import open_engine

    name, address, workers, patience = how
    frame, seen = look_ahead(job, workers)
    lines.noted(seen.text())
    count = workers or seen.workers
    job = replace(job, threads=seen.threads)
    engine = open_engine(
        name, OpenWorker(job=job), workers=count, address=address,
        priority=job.config.run.priority, threads=job.threads,
    )  # fmt: skip
    try:
        watched = Watch(
            folder=folder, run=home, job=job, analyst=Analyst(home, job, engine), frame=frame,
            listener=lines, settling=Settling(patience=patience),
        )  # fmt: skip
        try:
            follow(watched, pace)
        except KeyboardInterrupt:
            lines.always(f"{_far(watched)} The same command goes on from there.")
            raise
        lines.noted(_far(watched))
        return _code(watched, pace.once, lines)
    finally:
        engine.close()


def _run_name(given: str | None, folder: Path) -> str:
    """Name of the run: as given, or the folder's own in letters that may name one.

    Raises:
        UsageError: A name is given that cannot be one.
    """
    import re

    from pydantic import TypeAdapter, ValidationError

    from zsei.checkpoint.contracts import RunName
    from zsei.errors import UsageError

    if given is None:
        own = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip("._-")[:100]
        return own or "run"
    try:
        return TypeAdapter[str](RunName).validate_python(given)
    except ValidationError:
        raise UsageError(
            f"--run names a folder, of letters, digits, `.`, `_` and `-`; {given!r} cannot. Choose "
            "another name."
        ) from None


def _first_model(
    folder: Path, home: "RunFolder", pace: "Pace", lines: "Lines", patience: float
) -> str:
    """The model as the first whole checkpoint says it is; with --once only a half-written one is
    waited for.

    Raises:
        UsageError: None came in time.
    """
    import time

    from zsei.checkpoint.weights.find import find_checkpoints
    from zsei.checkpoint.weights.first_model import first_model
    from zsei.errors import UsageError

    told = False
    began = time.monotonic()
    while True:
        path = first_model(folder, home)
        if path is not None:
            return str(path)
        limit = patience if pace.once else pace.until_idle
        if limit is not None and time.monotonic() - began >= limit:
            found = find_checkpoints(folder)
            if not found:
                raise _nothing_there(folder)
            raise UsageError(
                f"Without --model the model is read from a checkpoint that is whole, and none in "
                f"{str(folder)!r} was within {limit:g} s ({found[0].name} is not). Name the model "
                "with --model, or wait until one is written."
            )
        if not told:
            lines.noted(f"Waiting for the first checkpoint in {folder}.")
            told = True
        time.sleep(0.5 if pace.once else pace.every)


def _named(model: str | None) -> str | None:
    """The model's name; a folder's as workers find it, wherever they run."""
    if model is None or not Path(model).expanduser().is_dir():
        return model
    return str(Path(model).expanduser().resolve())


def _nothing_there(folder: Path) -> "UsageError":
    from zsei.checkpoint.weights.first_model import has_checkpoints_below
    from zsei.checkpoint.weights.weight_files import SUFFIXES
    from zsei.errors import UsageError

    below = has_checkpoints_below(folder)
    fix = f"There are some in {below}: name that." if below else "Name the folder they are in."
    return UsageError(
        f"Checkpoints are files ending in {', '.join(SUFFIXES)}, or folders as save_pretrained "
        f"writes them, and {str(folder)!r} has none. {fix}"
    )


def _far(watched: "Watch") -> str:
    """How far it came, in words."""
    done = f"{watched.analysed} {'checkpoint' if watched.analysed == 1 else 'checkpoints'}"
    left = f", {watched.skipped} left out" if watched.skipped else ""
    last = f", the last of epoch {watched.counted.epoch}" if watched.counted.epoch else ""
    return f"Analysed {done}{left}{last}; all of it is in {watched.run.path}."


def _code(watched: "Watch", once: bool, lines: "Lines") -> int:
    """Exit code: an error where there was something to analyse, and nothing could be."""
    if once and watched.skipped and not watched.analysed:
        lines.always("zsei: No checkpoint could be analysed; the lines above say why.")
        return codes.ERROR
    return codes.DONE
