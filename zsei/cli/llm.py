"""`zsei llm`: what was asked of language models, the answers kept, and whether one answers."""

from typing import TYPE_CHECKING, Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, Llm, settings

if TYPE_CHECKING:
    from rich.console import Console

    from zsei.llm.tally import Totals
    from zsei.llm.types import CallRecord

llm = typer.Typer(
    help="Language models: the log of calls, the cache of answers, a check.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
MaybeRun = Annotated[
    str | None, typer.Argument(metavar="[RUN]", help="Id of an analysis; all calls without one.")
]
Clear = Annotated[bool, typer.Option("--clear", help="Forget all answers.")]


@llm.command("log")
def show_log(run: MaybeRun = None, as_json: Json = False) -> int:
    """List the calls to language models: tokens, cost, and why an answer was rejected."""
    from zsei.cli.output import console, results

    with results() as stdout:
        import json

        from zsei.llm.tally import totals
        from zsei.memory.store import Memory

        memory = Memory(settings().home)
        name = None if run is None else memory.get(run).id
        calls = memory.calls(name)
        total = totals(calls)
        if as_json:
            rows = [call.model_dump(mode="json") for call in calls]
            body = {"run": name, "calls": rows, "totals": total.model_dump(mode="json")}
            stdout.write(json.dumps(body) + "\n")
        elif not calls:
            stdout.write("No call to a language model is in memory.\n")
        else:
            _draw(console(stdout), calls, total)
        return codes.DONE


@llm.command("cache")
def show_cache(clear: Clear = False, as_json: Json = False) -> int:
    """Show how many answers are kept and how much room they take, or forget them."""
    from zsei.cli.output import results

    with results() as stdout:
        import json

        from zsei.errors import OutputError
        from zsei.llm.cache import cache_of
        from zsei.report.text import one_line

        chosen = settings()
        cache = cache_of(chosen)
        try:
            removed = cache.clear() if clear else 0
        except OSError as error:
            raise OutputError(
                f"Answers must be removable to be forgotten, but {cache.folder} holds one that is "
                f"not: {error.strerror}; mend its permissions."
            ) from None
        entries, size = cache.size()
        if as_json:
            body = {
                "folder": str(cache.folder), "on": chosen.llm_call.cache, "entries": entries,
                "bytes": size, "limit_bytes": int(cache.megabytes * 1e6), "removed": removed,
            }  # fmt: skip
            stdout.write(json.dumps(body) + "\n")
            return codes.DONE
        forgotten = f"{_answers(removed)} forgotten. " if clear else ""
        state = "" if chosen.llm_call.cache else " The cache is switched off."
        stdout.write(
            f"{forgotten}{_answers(entries)} kept in {one_line(str(cache.folder), 1000)}: "
            f"{size / 1e6:.3f} of {cache.megabytes:g} MB.{state}\n"
        )
        return codes.DONE


@llm.command("check")
def check_model(llm: Llm = None, as_json: Json = False) -> int:
    """Ask the language model one tiny question and say what works; exit code 4 when it does not."""
    from zsei.cli.output import results

    with results() as stdout:
        from zsei.llm.check import check
        from zsei.report.text import one_line

        found = check(settings(llm=llm))
        if as_json:
            stdout.write(found.model_dump_json() + "\n")
        else:
            stdout.write(one_line(found.sentence, 2000) + "\n")
        return codes.DONE if found.ok else codes.RULES_STOOD_IN


def _draw(screen: "Console", calls: "tuple[CallRecord, ...]", total: "Totals") -> None:
    from rich.markup import escape
    from rich.table import Table

    from zsei.report.text import one_line

    table = Table("agent", "model", "read", "written", "cost", "requests", "outcome", box=None)
    for call in calls:
        counted = (call.input_tokens, call.output_tokens)
        cells = ("?" if number is None else f"{number:,}" for number in counted)
        requests = "?" if call.attempts is None else str(call.attempts)
        why = f": {call.problem}" if call.problem else ""
        words = (escape(one_line(word, 300)) for word in (call.agent, call.model))
        outcome = escape(one_line(f"{call.outcome}{why}", 300))
        table.add_row(*words, *cells, _dollars(call.cost), requests, outcome)
    screen.print(table)
    unpriced = f", {total.unpriced} without a known price" if total.unpriced else ""
    screen.print(
        f"{total.calls} calls ({total.requests} requests, {total.cached} more from the cache): "
        f"{total.input_tokens:,} tokens read, {total.output_tokens:,} written, "
        f"{total.tokens:,} counted against budgets, cost {_dollars(total.cost)}{unpriced}",
        markup=False,
        highlight=False,
    )


def _dollars(cost: float | None) -> str:
    return "unknown" if cost is None else f"${cost:.6f}"


def _answers(count: int) -> str:
    return f"{count} answer{'' if count == 1 else 's'}"
