"""The commands, gathered into one application."""

from typing import Annotated

import typer

from zsei import __version__
from zsei.cli.agents import agents
from zsei.cli.analyze import analyze
from zsei.cli.apply import apply
from zsei.cli.ask import ask
from zsei.cli.breaker import breaker
from zsei.cli.chat import chat
from zsei.cli.claims import claims
from zsei.cli.compare import compare
from zsei.cli.contracts import contracts
from zsei.cli.delete import delete
from zsei.cli.doctor import doctor
from zsei.cli.explain import explain
from zsei.cli.export import export
from zsei.cli.list import list_runs
from zsei.cli.llm import llm
from zsei.cli.log import log
from zsei.cli.mcp import mcp
from zsei.cli.memory import memory
from zsei.cli.profile import profile
from zsei.cli.prune import prune
from zsei.cli.rollback import rollback
from zsei.cli.runs import training_runs
from zsei.cli.serve import serve
from zsei.cli.show import show
from zsei.cli.similar import similar
from zsei.cli.speed import speed
from zsei.cli.watch import watch

EPILOG = (
    "Exit codes: 0 done, 1 error, 2 usage, 3 nothing accepted or a claim not held, "
    "4 the language model failed and rules stood in, 5 memory damaged, 130 interrupted."
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"zsei {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """What inside a PyTorch model matters, what is waste, and what can safely go."""


app = typer.Typer(
    callback=_options,
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in (
    analyze, ask, chat, list_runs, show, compare, similar, delete, explain, apply, prune,
    profile, speed, claims, export, log, rollback, breaker, doctor, mcp, watch, serve, contracts,
):  # fmt: skip
    app.command(_command.__name__.removesuffix("_runs"))(_command)
app.command("runs")(training_runs)
app.add_typer(agents, name="agents")
app.add_typer(llm, name="llm")
app.add_typer(memory, name="memory")
