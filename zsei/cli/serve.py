"""`zsei serve`: the analysis of checkpoints over HTTP.

It needs the optional packages: `pip install "zsei[service]"`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from zsei.cli import codes
from zsei.cli.analyze import MODEL_HELP, Objective
from zsei.cli.options import RemoteCode, data_groups, settings

if TYPE_CHECKING:
    pass


def serve(
    model: Annotated[str, typer.Argument(help=f"{MODEL_HELP} As training began with it.")],
    checkpoints: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of checkpoints; uploads go into it.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="Data of one group; may be given several times."),
    ] = None,
    objective: Annotated[Objective, typer.Option(help="What the model is there to do.")] = "auto",
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="YAML or TOML with the sections elesh, run.")
    ] = None,
    host: Annotated[str, typer.Option(help="Any but loopback needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8321,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that all must send. [$ZSEI_TOKEN]")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="What runs the analyses.")
    ] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Worker processes. [as the configuration says]")
    ] = None,
    worker_id: Annotated[
        str, typer.Option(help="Name of this service among others; its health is asked by it.")
    ] = "worker-0",
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait.")] = 64,
    upload_limit: Annotated[
        float, typer.Option(min=0.001, metavar="GB", help="Largest checkpoint that is taken.")
    ] = 32.0,
    allow_remote_code: RemoteCode = False,
) -> int:
    """Analyse checkpoints that are sent or named over HTTP, and decide what may be cut."""
    from dataclasses import replace

    from zsei.checkpoint.config import CheckpointConfig
    from zsei.checkpoint.job import Job
    from zsei.checkpoint.logs import Event
    from zsei.checkpoint.outlook import look_ahead
    from zsei.checkpoint.read_config import read_config
    from zsei.cli.output import results

    checked_packages()
    from zsei.service.app import build_app
    from zsei.service.checkpoints import Checkpoints
    from zsei.service.guard import check_exposure
    from zsei.service.serve import Workers, listen, make_service, only_one, read_token, run, say

    with results() as stdout:
        token = read_token(token_file)
        check_exposure(host, token)
        chosen = settings(allow_remote_code=allow_remote_code or None)
        job = Job(
            run=worker_id, model=model, data=data_groups(data or []), objective=objective,
            settings=chosen.model_copy(update={"home": chosen.home.resolve()}),
            config=CheckpointConfig() if config is None else read_config(config),
        )  # fmt: skip
        folder = checked_folder(checkpoints)
        with only_one(job.settings.home), listen(host, port) as listener:
            _, expected = look_ahead(job, workers)
            say(None, Event(event="estimate", why=expected.text()))
            count = workers or expected.workers
            job = replace(job, threads=expected.threads)
            service = make_service(
                job, Checkpoints(folder=folder, largest=int(upload_limit * 1e9)),
                Workers(engine=engine, count=count, address=address),
                worker_id=worker_id, token=token, most=queue,
            )  # fmt: skip
            bound = listener.getsockname()[1]
            shown = f"[{host}]" if ":" in host else host
            where = f"http://{shown}:{bound}"
            stdout.write(f"ZSEI analyses checkpoints of {model} at {where} (see {where}/docs).\n")
            stdout.flush()
            numbers = {"port": bound, "workers": count, "parameters": expected.parameters}
            say(None, Event(event="serving", why=where, numbers=numbers))
            run(build_app(service), listener)
    return codes.DONE


def checked_packages() -> None:
    """Raises UsageError when an optional package is missing."""
    from zsei.errors import UsageError

    try:
        import fastapi
        import prometheus_client
        import uvicorn

        _ = fastapi, prometheus_client, uvicorn
    except ImportError as error:
        raise UsageError(
            f"`zsei serve` needs {error.name}, but it is not installed; "
            'pip install "zsei[service]" brings it.'
        ) from None


def checked_folder(path: Path) -> Path:
    """The folder of checkpoints, made if it is not there.

    Raises:
        UsageError: It is no folder, and cannot be made one.
    """
    from zsei.errors import UsageError

    try:
        path.mkdir(parents=True, exist_ok=True)
        return path.resolve()
    except OSError as error:
        raise UsageError(
            f"--checkpoints is a folder, and {path} is none ({error.strerror or error})."
        ) from None
