"""`zsei prune`: make a model smaller to a budget, and save it when the gate accepts it."""

from pathlib import Path
from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.analyze import MODEL_HELP, Objective, Safety
from zsei.cli.options import Json, RemoteCode, data_groups, settings_of_prune

KEPT = "Share that may be left, such as 0.8."


def prune(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "demo:minilm",
    params: Annotated[float | None, typer.Option(help=f"Parameters. {KEPT}")] = None,
    flops: Annotated[float | None, typer.Option(help=f"Operations. {KEPT}")] = None,
    latency: Annotated[
        float | None, typer.Option(help=f"Time of one forward, one thread. {KEPT}")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest loss: drop of the score with labels, mean divergence without. Stands in "
            "place of the safety level's limits; alone, it makes the cut as large as it allows."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="New folder for the smaller model, prune.json and prune.html."
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Modification log, for `zsei log` and `zsei rollback`."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="Data of one group; may be given several times."),
    ] = None,
    objective: Annotated[Objective, typer.Option(help="What the model is there to do.")] = "auto",
    kinds: Annotated[
        str, typer.Option(help="What may go, of heads, neurons, channels, experts, layers.")
    ] = "heads,neurons,channels,experts,layers",
    keep: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT", help="Never cut there; may be given several times."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="COMPONENT", help="Cut only there; may be given several times."),
    ] = None,
    safety: Annotated[
        Safety | None, typer.Option(help="Limits of the gate without --max-drop. [moderate]")
    ] = None,
    samples: Annotated[
        int | None, typer.Option(help="Samples: half fit and choose, half judge. [1024]")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Tokens per text. [64]")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same cut. [0]")] = None,
    threads: Annotated[int | None, typer.Option(help="Torch threads. [torch's choice]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would go; nothing is cut or judged.")
    ] = False,
    allow_remote_code: RemoteCode = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Make a model smaller to a budget: search what loses least, repair it, and let the gate judge.

    An interrupted search goes on where it stopped when the same command is given again.
    """
    from zsei.cli.folder import check_folder, written_whole
    from zsei.cli.output import console, progress, results

    with results() as stdout:
        from zsei.pruning.budget import budget_of, kinds_of

        budget = budget_of(parameters=params, flops=flops, latency=latency, max_drop=max_drop)
        what = kinds_of(kinds)
        chosen = settings_of_prune(
            safety=safety, samples=samples, length=length, seed=seed, threads=threads,
            allow_remote_code=allow_remote_code or None,
        )  # fmt: skip
        groups = data_groups(data or [])
        for option, folder in (("--out", out), ("--log", log)):
            if folder is not None:
                check_folder(folder, option)

        from zsei.pruning.outlook import Outlook, look_ahead
        from zsei.pruning.prune import prune as pruned_to
        from zsei.report import pruning as report
        from zsei.report.pruning_files import save_pruned

        work = look_ahead if dry_run else pruned_to
        with progress(quiet=quiet) as advance:
            found = work(
                model, groups, budget=budget, objective=objective, kinds=what, keep=keep or (),
                only=only or (), settings=chosen, progress=advance,
            )  # fmt: skip
        if isinstance(found, Outlook):
            if as_json:
                stdout.write(found.model_dump_json() + "\n")
            else:
                report.outlook(found, console(stdout))
            return codes.of_outlook(found)
        if out is not None:
            with written_whole(out) as draft:
                save_pruned(found, draft)
        save_pruned(found, None, log)
        if as_json:
            stdout.write(found.record.model_dump_json() + "\n")
        else:
            report.summary(found.record, console(stdout))
            stdout.write(_where(found.edited is not None, out, log))
        return codes.of_prune(found.record)


def _where(made: bool, out: Path | None, log: Path | None) -> str:
    """Where the results lie."""
    if not made:
        return "" if out is None else f"{out / 'prune.html'}\n"
    if out is None:
        lines = ["Give --out DIR to save it."]
    else:
        lines = [f"Saved in {out}; zsei.load({str(out)!r}) gives the model back."]
        lines.append(str(out / "prune.html"))
    if log is not None:
        lines.append(f"Logged in {log}; `zsei log {log}` shows the steps.")
    return "\n".join(lines) + "\n"
