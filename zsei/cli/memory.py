"""`zsei memory`: look after what is kept: check it, rebuild it, carry it elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, settings

if TYPE_CHECKING:
    from rich.console import Console

    from zsei.memory.check import Health

memory = typer.Typer(
    help="Look after what is kept: check it, rebuild it, carry it elsewhere.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@memory.command()
def check(as_json: Json = False) -> int:
    """Look at every record, row and vector a second time; exit code 5 when something is wrong."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.errors import MemoryDamaged
        from zsei.memory.check import check as look

        chosen = settings()
        health = look(chosen.home, chosen.chroma_url)
        if as_json:
            import json

            body = {"damaged": health.damaged, **health.model_dump(mode="json")}
            stdout.write(json.dumps(body) + "\n")
        else:
            _show(health, console(stdout))
        return MemoryDamaged.exit_code if health.damaged else codes.DONE


def _show(health: "Health", screen: "Console") -> None:
    from zsei.report import plain

    looked_at = (*health.runs, *health.documents)
    fine = [run for run in looked_at if not run.problem]
    wrong = [run for run in looked_at if run.problem]
    whole = sum(not run.problem for run in health.runs)
    plain.paragraph(screen, f"{health.path}: {whole} of {len(health.runs)} analyses are whole.")
    if health.documents:
        kept = sum(not one.problem for one in health.documents)
        plain.paragraph(screen, f"{kept} of {len(health.documents)} measurements are whole.")
    for problem in health.problems:
        plain.paragraph(screen, problem)
    for run in wrong:
        mend = "; `zsei memory rebuild` mends it" if run.mendable else ""
        plain.paragraph(screen, f"{run.run}: {run.problem}{mend}")
    if wrong and fine:
        plain.paragraph(screen, f"Whole: {', '.join(run.run for run in fine)}")
    for space in health.spaces:
        told = f"{space.vectors} vectors of {space.fingerprint}"
        told += f", {space.missing} passages without one yet" if space.missing else ""
        plain.paragraph(screen, f"{told}; index: {space.index}")


def _measured(count: int) -> str:
    """Part of a sentence about documents; nothing where there are none."""
    return f"{count} measurements, " if count else ""


@memory.command()
def rebuild(
    embed: Annotated[
        bool, typer.Option("--embed", help="Make the vectors anew too, which takes longest.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Make tables, passages and the search index again from the records and vectors."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.errors import MemoryDamaged
        from zsei.memory import open_memory
        from zsei.memory.rebuild import rebuild as make_again
        from zsei.report import plain

        done = make_again(open_memory(settings()), embed=embed)
        if as_json:
            stdout.write(done.model_dump_json() + "\n")
        else:
            screen = console(stdout)
            told = f"{done.runs} analyses made again, {_measured(done.documents)}"
            told += f"{done.passages} passages, "
            told += f"{done.embedded} embedded anew, {done.indexed} in the index."
            plain.paragraph(screen, told)
            for note in done.notes:
                plain.paragraph(screen, note)
        return MemoryDamaged.exit_code if done.damaged else codes.DONE


@memory.command("export")
def export_(
    file: Annotated[Path, typer.Argument(help="The new file.")],
    run: Annotated[
        list[str] | None,
        typer.Option(help="Only this analysis or measurement; may be given several times."),
    ] = None,
    vectors: Annotated[
        bool, typer.Option("--vectors/--no-vectors", help="Whether vectors travel along.")
    ] = True,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Of a damaged memory, whatever is still whole.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Write analyses to one file that another memory can import."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.errors import MemoryDamaged
        from zsei.memory.portable import export_runs
        from zsei.report import plain

        done = export_runs(settings().home, file, run or (), vectors=vectors, salvage=salvage)
        if as_json:
            stdout.write(done.model_dump_json() + "\n")
        else:
            screen = console(stdout)
            told = f"{len(done.runs)} analyses, {_measured(done.documents)}"
            told += f"{done.vectors} vectors in {done.path}."
            plain.paragraph(screen, told)
            for left in done.left_out:
                plain.paragraph(screen, f"Left out: {left}")
        return MemoryDamaged.exit_code if done.left_out else codes.DONE


@memory.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="What `zsei memory export` wrote.")],
    as_json: Json = False,
) -> int:
    """Add the analyses of an export that are missing here: all of them, or none."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.memory import open_memory
        from zsei.memory.portable import import_runs
        from zsei.report import plain

        done = import_runs(open_memory(settings()), file)
        if as_json:
            stdout.write(done.model_dump_json() + "\n")
        else:
            screen = console(stdout)
            told = f"{len(done.added)} analyses added, {_measured(done.documents)}"
            told += f"{len(done.kept)} were there before."
            plain.paragraph(screen, told)
            if done.different:
                plain.paragraph(
                    screen,
                    f"{', '.join(done.different)}: here with other content, which stayed.",
                )
        return codes.DONE
