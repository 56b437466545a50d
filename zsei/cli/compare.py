"""`zsei compare`: what is different between two analyses."""

from typing import TYPE_CHECKING, Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import Json, Run, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from zsei.memory.differences import Differences, Moved

MOST = 20
"""Rows of a table on a terminal; --json has all."""


def compare(
    first: Run,
    second: Annotated[str, typer.Argument(help="Id of the other analysis.")],
    as_json: Json = False,
) -> int:
    """Compare two analyses: model, conditions, numbers that moved, findings, verdicts."""
    from zsei.cli.output import console, results

    with results() as stdout:
        from zsei.memory import open_memory
        from zsei.memory.differences import differences

        memory = open_memory(settings())
        found = differences(memory.get(first), memory.get(second))
        if as_json:
            stdout.write(found.model_dump_json() + "\n")
        else:
            _show(found, console(stdout))
        return codes.DONE


def _show(found: "Differences", screen: "Console") -> None:
    from zsei.report import plain
    from zsei.report.text import one_line, short

    names = " and ".join(
        f"{run} ({short(model, 40)})"
        for run, model in zip((found.first, found.second), found.models, strict=True)
    )
    plain.paragraph(screen, f"{names}: {found.model}.")
    if found.conditions:
        plain.title(screen, "Conditions that differ")
        rows = [(c.name, short(c.first), short(c.second)) for c in found.conditions[:MOST]]
        plain.table(screen, plain.columns("condition", "first", "second"), rows)
    only = {"first": found.only_first, "second": found.only_second}
    for side, components in only.items():
        if components:
            told = ", ".join(components[:6]) + (" …" if len(components) > 6 else "")
            plain.paragraph(screen, f"{len(components)} components in the {side} alone: {told}")
    plain.title(
        screen, f"Moved beyond their spread: {len(found.moved)} of {found.compared} numbers"
    )
    _numbers(found.moved, screen)
    for title, numbers in (("Counted, and not equal", found.counted), ("Not equal, spread unknown", found.untold)):  # fmt: skip  # noqa: E501
        if numbers:
            plain.title(screen, f"{title}: {len(numbers)}")
            _numbers(numbers, screen)
    plain.title(screen, f"Findings: {found.stayed} in both")
    for sign, here in (("+", found.came), ("-", found.went)):
        for finding in here[:MOST]:
            told = f"{sign} {finding.code}: {finding.message}"
            plain.paragraph(screen, one_line(told, 300), indent=2)
    if found.verdicts:
        plain.title(screen, "Verdicts that differ")
        rows = [
            (v.strategy, short(", ".join(v.components)), v.first or "–", v.second or "–")
            for v in found.verdicts[:MOST]
        ]
        plain.table(screen, plain.columns("strategy", "on", "first", "second"), rows)


def _numbers(numbers: "Sequence[Moved]", screen: "Console") -> None:
    from zsei.report import plain
    from zsei.report.text import number

    if not numbers:
        return
    rows = [
        (m.component, m.name, number(m.first), number(m.second), number(m.difference), number(m.z))
        for m in numbers[:MOST]
    ]
    plain.table(screen, plain.columns("component", "number", "first>", "second>", "difference>", "z>"), rows)  # fmt: skip  # noqa: E501
    if len(numbers) > MOST:
        plain.line(screen, f"{len(numbers) - MOST} more; --json has all.")
