"""What a measurement of speed-ups shows in a terminal."""

from rich.console import Console
from rich.text import Text

from zsei.report import plain
from zsei.report.speed_rows import Row, grouped, row, rows, times
from zsei.report.text import number, one_line, seconds, short
from zsei.speed.record import Combination, SpeedRecord

PARTS_SHOWN = 8


def summary(record: SpeedRecord, console: Console) -> None:
    """Baseline, every trial alone, the combination and its explanation, what cannot be had."""
    title = Text(f"{one_line(record.model, 60)}", style="bold")
    title.append(f"  {record.use} on {one_line(record.device_name, 60)}", style="default")
    plain.line(console, title)
    plain.paragraph(
        console,
        f"baseline: {seconds(record.baseline.median)} a batch of {record.batch_size} "
        f"({seconds(record.baseline.low)} to {seconds(record.baseline.high)}), "
        f"{record.threads} threads; {record.samples} samples{_lengths(record)}; "
        f"{record.objective} ({record.metric})",
        style="dim",
    )
    plain.title(console, "Alone")
    found = rows(record)
    if found:
        heads = plain.columns("speed-up", "times as fast>", "outputs moved", "memory", "verdict")
        plain.table(console, heads, [_cells(r) for r in found])
        for one in found:
            if one.outcome != "accepted":
                plain.paragraph(console, f"{one.name}: {one.why}", "dim", indent=2, limit=300)
    else:
        plain.line(console, "Nothing could be tried.")
    if record.together is not None:
        _together(record.together, console)
    if record.refused:
        plain.title(console, "Not to be had here")
        for names, why in grouped(record.refused):
            plain.paragraph(console, f"{names}: {why}", indent=2, limit=600)


def _lengths(record: SpeedRecord) -> str:
    if not record.lengths:
        return ""
    mean = sum(record.lengths) / len(record.lengths)
    return f" of {min(record.lengths)} to {max(record.lengths)} tokens (mean {number(mean)})"


def _cells(found: Row) -> list[Text | str]:
    return [
        short(found.name, 28), times(found.speed), found.moved, found.memory,
        plain.outcome(found.outcome),
    ]  # fmt: skip


def _together(found: Combination, console: Console) -> None:
    plain.title(console, "Together")
    whole = row(found.trial)
    told = plain.outcome(whole.outcome)
    told.append(f"  {times(whole.speed)} times as fast, measured", style="default")
    plain.line(console, told)
    plain.paragraph(console, " + ".join(step.text() for step in found.order), indent=2)
    plain.paragraph(
        console, f"{whole.moved}; peak memory {whole.memory}; {whole.why}", indent=2, limit=400
    )
    if len(found.order) > 1:
        plain.line(
            console,
            Text(f"  product of the single speed-ups: {found.product:.2f} (no measurement)",
                 style="dim"),
        )  # fmt: skip
    plain.paragraph(console, found.explanation, indent=2)
    if found.parts and len(found.order) > 1:
        heads = plain.columns("part", "baseline>", "predicted>", "together>")
        cells: list[list[Text | str]] = [
            [short(p.component, 34), seconds(p.baseline), seconds(p.predicted),
             "–" if p.combined is None else seconds(p.combined)]
            for p in found.parts[:PARTS_SHOWN]
        ]  # fmt: skip
        plain.table(console, heads, cells)
    for failure in found.left_out:
        plain.paragraph(console, f"left out: {failure.what}: {failure.why}", indent=2, limit=400)
