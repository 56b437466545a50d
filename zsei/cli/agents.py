"""`zsei agents`: who speaks, whether all cards fit, and what an agent is asked."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsei.cli import codes
from zsei.cli.options import Json, settings

if TYPE_CHECKING:
    from zsei.cards import AgentCard
    from zsei.settings import Settings

agents = typer.Typer(
    help="Agents, prompts and knowledge: what there is, whether it fits, what is asked.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SHIPPED = "shipped"
Name = Annotated[str, typer.Argument(help="Name of an agent, as `zsei agents list` shows it.")]
AboutRun = Annotated[
    str | None,
    typer.Option("--run", metavar="RUN", help="Show the prompt as sent for this analysis, whole."),
]
Folder = Annotated[
    Path | None,
    typer.Argument(
        metavar="[FOLDER]",
        help="A folder with agents/, prompts/ or knowledge/; without one, the setting `cards`.",
    ),
]


@agents.command("list")
def list_agents(as_json: Json = False) -> int:
    """List the agents: when each speaks, where its card comes from, what it is shown."""
    from zsei.cli.output import results

    with results() as stdout:
        from zsei.resources import load_cards

        chosen = settings()
        cards = load_cards(chosen)
        rows = [_row(card, chosen) for _, card in sorted(cards.agents.items())]
        if as_json:
            import json

            stdout.write(json.dumps({"agents": rows}) + "\n")
        else:
            stdout.write("".join(map(_listed, rows)))
        return codes.DONE


@agents.command()
def check(folder: Folder = None, as_json: Json = False) -> int:
    """Check that all cards load and fit together; exit code 1 and one sentence when one does not.

    Checked are front matter, slots, references, output types, and that every provider takes the
    schemas of the answers.
    """
    from zsei.cli.output import results

    with results() as stdout:
        from zsei.errors import CardError
        from zsei.llm.schema_rules import faults
        from zsei.report.text import one_line
        from zsei.resources import load_cards

        chosen = settings(cards=folder)
        cards = load_cards(chosen)
        for output in _outputs().values():
            for fault in faults(output):
                raise CardError(f"An answer must be one that every provider takes, but {fault}.")
        body = {
            "folder": None if chosen.cards is None else str(chosen.cards),
            "agents": len(cards.agents),
            "prompts": len(cards.prompts),
            "knowledge": len(cards.knowledge),
            "metrics": len(cards.metrics),
            "strategies": len(cards.strategies),
            "speedups": len(cards.speedups),
        }
        if as_json:
            import json

            stdout.write(json.dumps(body) + "\n")
        else:
            counted = ", ".join(f"{n} {name}" for name, n in body.items() if name != "folder")
            whose = f", those in {one_line(str(chosen.cards), 1000)} included" if folder else ""
            stdout.write(f"All cards fit{whose}: {counted}.\n")
        return codes.DONE


@agents.command()
def show(name: Name, run: AboutRun = None, as_json: Json = False) -> int:
    """Show an agent's card, whole; with --run, what it is sent about a stored analysis."""
    from zsei.cli.output import results

    with results() as stdout:
        from zsei.errors import UsageError
        from zsei.resources import load_cards

        chosen = settings()
        cards = load_cards(chosen)
        if name not in cards.agents:
            raise UsageError(
                f"An agent must have a name that `zsei agents list` shows, but {name!r} is none of "
                f"{', '.join(sorted(cards.agents))}."
            )
        card = cards.agents[name]
        body: dict[str, Any] = {
            **card.model_dump(mode="json"),
            "from": _source(card, chosen),
            "template": cards.prompts[card.prompt].template,
        }
        if run is not None:
            from zsei.advice.preview import preview
            from zsei.memory.store import Memory

            record = Memory(chosen.home).get(run)
            request = preview(card, record, cards, chosen.llm_call)
            body = {"run": record.id, "hash": request.hash, **request.model_dump(mode="json")}
        if as_json:
            import json

            stdout.write(json.dumps(body) + "\n")
        else:
            stdout.write(_told(body))
        return codes.DONE


def _row(card: "AgentCard", chosen: "Settings") -> dict[str, Any]:
    return {
        "name": card.name,
        "stage": card.stage,
        "version": card.version,
        "from": _source(card, chosen),
        "hash": card.hash,
        "evidence": list(card.evidence),
        "purpose": card.purpose,
    }


def _listed(row: dict[str, Any]) -> str:
    """An agent in two lines: who it is, and what it does and is shown."""
    from zsei.report.text import one_line

    head = f"{row['name']:<14}{row['stage']:<11}v{row['version']}  {row['hash']}"
    told = f"{row['purpose']} Shown: {', '.join(row['evidence'])}."
    return f"{head}  {one_line(row['from'], 1000)}\n    {one_line(told, 1000)}\n"


def _source(card: "AgentCard", chosen: "Settings") -> str:
    """Where a card comes from: shipped, or the file in the user's folder that stands for it."""
    own = None if chosen.cards is None else chosen.cards / "agents" / f"{card.name}.md"
    return str(own) if own is not None and own.is_file() else SHIPPED


def _told(body: dict[str, Any]) -> str:
    """Short fields on a line each, long texts below under their names."""
    import json

    from zsei.report.text import clean, one_line

    long = [name for name in ("system", "template", "prompt") if "\n" in str(body.get(name, ""))]
    lines = []
    for name, value in body.items():
        if name not in long:
            told = value if isinstance(value, str) else json.dumps(value)
            lines.append(f"{name}: {one_line(told, 100_000)}")
    texts = [f"\n--- {name} ---\n{clean(body[name], 1_000_000)}" for name in long]
    return "\n".join([*lines, *texts]) + "\n"


def _outputs() -> dict[str, Any]:
    """Every type that an agent may answer with, by its name in a card."""
    from zsei.advice.schemas import OUTPUTS, SpeedOrder
    from zsei.chat.voice import NextStep
    from zsei.memory.librarian import Wording
    from zsei.memory.planner import QuestionPlan

    others = (QuestionPlan, Wording, NextStep, SpeedOrder)
    return {**OUTPUTS, **{output.__name__: output for output in others}}
