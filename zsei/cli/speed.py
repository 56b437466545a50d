"""`zsei speed`: what makes a model faster, measured alone and together, and saved as settings."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsei.cli import codes
from zsei.cli.analyze import MODEL_HELP, Objective, Safety
from zsei.cli.keep import kept
from zsei.cli.options import Json, Llm, RemoteCode, data_groups, settings

if TYPE_CHECKING:
    from zsei.settings import Settings
    from zsei.speed.together import Order

Names = Annotated[
    list[str] | None,
    typer.Option(metavar="SPEED-UP", help="Measure only this; may be given several times."),
]


def speed(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "demo:minilm",
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="Data of one group; may be given several times."),
    ] = None,
    objective: Annotated[Objective, typer.Option(help="What the model is there to do.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    batch: Annotated[int | None, typer.Option(metavar="N", help="Samples of a batch. [16]")] = None,
    length: Annotated[int | None, typer.Option(metavar="N", help="Tokens per text. [64]")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples; one half is timed and judged. [128]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads. [torch's choice]")] = None,
    safety: Annotated[
        Safety | None, typer.Option(help="How much quality a speed-up may cost. [moderate]")
    ] = None,
    max_divergence: Annotated[
        float | None,
        typer.Option(
            help="Largest mean divergence of what is not exact. [0.001 of 1 - cos, 0.01 nats, 0.01 "
            "relative L2]"
        ),
    ] = None,
    only: Names = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEED-UP", help="Leave this out; may be given several times."),
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=5, help="Timed rounds of each. [11]")] = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time it may take; what has no turn is listed."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Steps of training rather than forwards.")
    ] = False,
    save_memory: Annotated[
        bool, typer.Option("--save-memory", help="With --train: combine what saves memory too.")
    ] = False,
    llm: Llm = None,
    seed: Annotated[int | None, typer.Option(help="Decides which samples are run. [0]")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for speed.json, speed-record.json, speed.html."),
    ] = None,
    allow_remote_code: RemoteCode = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Measure what makes a model faster, each alone and all together, with its outputs kept.

    What is accepted is written as speed.json; `zsei.load("speed.json")` runs the model so.
    """
    from zsei.cli.folder import check_folder, written_whole
    from zsei.cli.output import console, progress, results

    with results() as stdout:
        chosen = settings(
            batch_size=batch, length=length, samples=samples, threads=threads, safety=safety,
            max_divergence=max_divergence, budget=budget, llm=llm, seed=seed,
            allow_remote_code=allow_remote_code or None,
        )  # fmt: skip
        groups = data_groups(data or [])
        if out is not None:
            check_folder(out)
        if save_memory and not train:
            _refuse("--save-memory is about training; give --train with it, or leave it out.")
        command = _command(
            model, data, objective=objective, device=device, batch=batch, length=length,
            samples=samples, threads=threads, safety=safety, max_divergence=max_divergence,
            only=only, without=without, rounds=rounds, train=train, save_memory=save_memory,
            seed=seed,
        )  # fmt: skip

        from zsei.report.speed_files import save_speed
        from zsei.report.speed_text import summary
        from zsei.speed.measure import ROUNDS
        from zsei.speed.speed_up import speed_up

        order = _order(chosen)
        with progress(quiet=quiet) as advance:
            if train:
                from zsei.speed.training_trials import ROUNDS as TRAINING_ROUNDS
                from zsei.speed.training_up import speed_up_training

                record = speed_up_training(
                    model, groups, objective=objective, settings=chosen, device=device,
                    threads=threads, only=only, without=without, save_memory=save_memory,
                    order=order, rounds=rounds or TRAINING_ROUNDS, progress=advance,
                    command=command,
                )  # fmt: skip
            else:
                record = speed_up(
                    model, groups, objective=objective, settings=chosen, device=device,
                    threads=threads, only=only, without=without, order=order,
                    rounds=rounds or ROUNDS, progress=advance, command=command,
                )  # fmt: skip
        if out is not None:
            with written_whole(out) as draft:
                save_speed(record, draft)
        kept(record, chosen)
        if as_json:
            stdout.write(record.model_dump_json() + "\n")
        else:
            summary(record, console(stdout))
            stdout.write(_where(record.settings is not None, train, out))
        return codes.of_speed(record)


def _order(chosen: "Settings") -> "Order | None":
    """The strategist's order where a language model is set; None follows the measurement."""
    if chosen.llm is None:
        return None
    from zsei.advice.speed_order import order_by_strategist
    from zsei.llm import open_line
    from zsei.resources import load_cards

    cards, line = load_cards(chosen), open_line(chosen)
    return lambda trials: order_by_strategist(trials, cards, line)


def _refuse(sentence: str) -> None:
    from zsei.errors import UsageError

    raise UsageError(sentence)


def _where(accepted: bool, train: bool, out: Path | None) -> str:
    """Where the results lie, and how they are used."""
    if out is None:
        return "Give --out DIR to save the settings.\n" if accepted else ""
    lines = [str(out / "speed.html")]
    if accepted and not train:
        lines.insert(0, f"zsei.load({str(out / 'speed.json')!r}) runs the model so.")
    return "\n".join(lines) + "\n"


def _command(model: str, data: list[str] | None, **given: object) -> str:
    """The call in words that measures the same again."""
    words = ["zsei", "speed", model, *(word for path in data or [] for word in ("--data", path))]
    usual = {"objective": "auto", "device": "cpu"}
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        if value is None or value is False or usual.get(name) == value:
            continue
        if isinstance(value, list):
            words += [word for one in value for word in (option, str(one))]
        else:
            words += [option] if value is True else [option, str(value)]
    return shlex.join(words)
