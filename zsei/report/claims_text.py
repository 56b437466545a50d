"""What a check of claims shows in a terminal: each claim beside its measurement and verdict."""

from rich.console import Console
from rich.text import Text

from zsei.claims.record import VERDICTS, ClaimsRecord, ClaimVerdict, Outcome
from zsei.report import plain
from zsei.report.text import number, one_line, seconds, short

COLORS: dict[ClaimVerdict, str] = {
    "held": "green", "not held": "red", "not decided": "yellow", "not measurable here": "dim",
}  # fmt: skip


def summary(record: ClaimsRecord, console: Console) -> None:
    """A whole check: a table of the claims, then every verdict in words with its quote."""
    head = Text(short(record.title or record.file, 70), style="bold")
    plain.line(console, head)
    plain.paragraph(console, about(record))
    rows = [
        (
            short(outcome.id, 34),
            Text(worded(outcome), style=COLORS[outcome.verdict]),
            one_line(outcome.claimed, 28),
            measured(outcome),
        )
        for outcome in record.outcomes
    ]
    plain.table(console, plain.columns("claim", "verdict", "claimed>", "measured"), rows)
    for outcome in record.outcomes:
        plain.title(console, f"{short(outcome.id, 60)}: {worded(outcome)}")
        if outcome.quote:
            plain.paragraph(console, f"“{outcome.quote}”", "dim", indent=2, limit=300)
        plain.paragraph(console, outcome.reason, indent=2, limit=900)
        if outcome.steps:
            said = " + ".join(step.text() for step in outcome.steps)
            plain.paragraph(console, f"carried out: {said}", "dim", indent=2, limit=400)
        for failure in outcome.left_out if outcome.value is not None else ():
            plain.paragraph(
                console, f"left out: {failure.what}: {failure.why}", "dim", indent=2, limit=400
            )
        plain.paragraph(
            console, f"{seconds(outcome.seconds)}; {outcome.command}", "dim", indent=2, limit=400
        )
    plain.line(console, Text(f"{counted(record)}; {seconds(record.seconds)}", style="bold"))


def worded(outcome: Outcome) -> str:
    """The verdict, and whether more was measured than claimed."""
    return outcome.verdict + (", more than claimed" if outcome.more_than_claimed else "")


def measured(outcome: Outcome) -> str:
    """The measured value with its interval, as a table shows it."""
    if outcome.value is None:
        return "–"
    unit = "" if outcome.unit in ("1", "share") else f" {outcome.unit}"
    shown = f"{number(outcome.value)}{unit}"
    if outcome.interval is None:
        return shown
    return f"{shown} [{number(outcome.interval.low)}, {number(outcome.interval.high)}]"


def counted(record: ClaimsRecord) -> str:
    """How many claims got each verdict: `3 held, 1 not held`."""
    found = ((record.count(verdict), verdict) for verdict in VERDICTS)
    return ", ".join(f"{count} {verdict}" for count, verdict in found if count)


def about(record: ClaimsRecord) -> str:
    """Model, workload, baseline and machine in a sentence or two."""
    machine = record.machine
    steps = ", ".join(step.text() for step in record.baseline)
    said = f"{short(record.model, 60)}"
    if record.model_class:
        said += f" ({short(record.model_class, 40)}, {record.parameters:,} parameters)"
        said += f", batches of {record.batch_size}, {record.samples} held-out samples; "
        said += f"{record.objective} ({record.metric})"
    said += f". Baseline: {steps or 'eager attention, ' + machine.dtype + ', padded batches'}, "
    said += f"{machine.threads} thread{'s' if machine.threads != 1 else ''} on {machine.name} "
    return said + f"({machine.device}, {machine.cores} core{'s' if machine.cores != 1 else ''})."
