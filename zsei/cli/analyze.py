"""`zsei analyze`: measure a model, explain it, and try what could be changed."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from zsei.cli import codes
from zsei.cli.options import (
    Json,
    Llm,
    LlmCalls,
    LlmCost,
    LlmTokens,
    RemoteCode,
    data_groups,
    llm_budget,
    settings,
)

Objective = Literal[
    "auto", "fidelity", "causal-lm", "masked-lm", "classification", "regression", "similarity"
]
Safety = Literal["conservative", "moderate", "aggressive"]

MODEL_HELP = (
    "demo:minilm, a Hugging Face folder or hub name, package.module:factory, or a .pt2 file."
)


def analyze(
    model: Annotated[str, typer.Argument(help=MODEL_HELP)] = "demo:minilm",
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME=]PATH", help="Data of one group; may be given several times."),
    ] = None,
    objective: Annotated[
        Objective, typer.Option(help="What the model is there to do; auto reads it off its head.")
    ] = "auto",
    safety: Annotated[
        Safety | None, typer.Option(help="How much quality a change may cost. [moderate]")
    ] = None,
    llm: Llm = None,
    llm_calls: LlmCalls = None,
    llm_tokens: LlmTokens = None,
    llm_cost: LlmCost = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time it may take; optional work is left out."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same record. [0]")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write record.json, flow.graphml, flow.json and report.html into this folder.",
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Add where time and memory go, as `zsei profile`.")
    ] = False,
    allow_remote_code: RemoteCode = False,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> int:
    """Measure what inside a model matters, explain it, and try what can safely go."""
    from zsei.cli.folder import check_folder, written_whole
    from zsei.cli.output import console, progress, results

    with results() as stdout:
        chosen = settings(
            safety=safety,
            llm=llm,
            llm_call=llm_budget(llm_calls, llm_tokens, llm_cost),
            budget=budget,
            seed=seed,
            allow_remote_code=allow_remote_code or None,
        )
        groups = data_groups(data or [])
        if out is not None:
            check_folder(out)

        with progress(quiet=quiet) as advance:
            from zsei import pipeline

            record = pipeline.analyze(
                model, groups, objective=objective, settings=chosen, progress=advance,
                profile=profile,
            )  # fmt: skip
        files: list[Path] = []
        if out is not None:
            with written_whole(out) as draft:
                written = sorted(pipeline.save(record, draft).values())
            files = [out / path.relative_to(draft) for path in written]

        if as_json:
            stdout.write(record.model_dump_json() + "\n")
        else:
            from zsei.report import terminal

            terminal.summary(record, console(stdout))
            for path in files:
                stdout.write(f"{path}\n")
        return codes.of_record(record)
