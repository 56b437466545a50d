"""`zsei ask`: a question about the analyses in memory."""

from typing import Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, Llm, settings


def ask(
    question: Annotated[str, typer.Argument(help="In plain language.")],
    llm: Llm = None,
    as_json: Json = False,
) -> int:
    """Answer a question about the analyses in memory, with the rows and runs behind the answer."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei import pipeline

        answer = pipeline.ask(question, settings=settings(llm=llm))
        if as_json:
            stdout.write(answer.model_dump_json() + "\n")
        else:
            from zsei.report import terminal

            terminal.answer(answer, console(stdout))
        return codes.of_answer(answer)
