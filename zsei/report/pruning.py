"""What a prune shows in a terminal: the trade-off curve, what goes, and the verdict."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from zsei.pruning.outlook import Outlook
from zsei.pruning.records import Point, PruneRecord, Taken
from zsei.report import plain
from zsei.report.text import count, number, one_line, percent, seconds, short
from zsei.report.verdicts import limits, said
from zsei.settings import LIMITS

TAKEN_SHOWN = 16
REFUSED_SHOWN = 3
BAR = 16
"""Characters of the longest bar."""


def limit_of(record: PruneRecord) -> float:
    """What the loss of a point (`Point.drop`) is compared with: the user's limit or the level's."""
    if record.budget.max_drop is not None:
        return record.budget.max_drop
    name = "_drop" if labelled(record) else "divergence"
    bounds = (row for verdict in record.verdicts for row in limits(verdict))
    said_by_gate = [row.limit for row in bounds if row.bound.name.endswith(name) and row.limit]
    drop, divergence = LIMITS["channels"][record.safety]  # type: ignore[index]
    return next(iter(said_by_gate), drop if labelled(record) else divergence)


def labelled(record: PruneRecord) -> bool:
    """Whether there were labels, so that a loss and a score could be measured."""
    return any(m.name == "loss" for point in record.points for m in point.measured)


def mark(record: PruneRecord, point: Point) -> str:
    """What became of a point: empty when it was not tried, "too large" when the gate accepted
    it but the budget asks for less.
    """
    if point.number not in record.tried:
        return ""
    outcome = record.verdicts[record.tried.index(point.number)].outcome
    asked = record.budget.size is not None
    if asked and outcome == "accepted" and point.number != record.accepted:
        return "too large"
    return outcome


def summary(record: PruneRecord, console: Console) -> None:
    """A whole prune: curve, what goes, verdict, notes."""
    _head(record, console)
    samples = ", ".join(f"{n} {name}" for name, n in record.samples.items())
    plain.line(
        console,
        Text(f"samples: {samples}; {record.objective} ({record.metric})", style="dim"),
    )
    _curve(record, console)
    point = record.chosen or (record.points[-1] if len(record.points) > 1 else None)
    if point is not None:
        plain.title(
            console, f"What goes (step {point.number})" if record.chosen else "What was tried last"
        )
        _taken(point.taken, console)
    for number_, verdict in zip(record.tried, record.verdicts, strict=True):
        if number_ == record.accepted or record.accepted is None:
            plain.title(console, f"Verdict on step {number_}")
            line = plain.outcome(verdict.outcome)
            line.append(f"  {one_line(said(verdict), 600)}", style="default")
            console.print(line, highlight=False)
            rows = [
                (
                    short(row.bound.name, 34),
                    number(row.bound.value),
                    ("≥ " if row.floor else "≤ ") + number(row.limit) if row.limit else "–",
                    one_line(row.rest, 80),
                )
                for row in limits(verdict)
            ]
            if rows:
                plain.table(console, plain.columns("95 % bound", "value>", "limit>", ""), rows)
    chosen = record.chosen
    if chosen is not None:
        after = round(record.parameters * chosen.parameters)
        text = f"{record.parameters:,} parameters became {after:,}; {_time(record, chosen)}"
        plain.line(console, text.removesuffix("; "))
    for note in record.notes:
        plain.paragraph(console, note, "yellow", limit=500)
    _refused(record.refused, console)
    spent = ", ".join(f"{name} {seconds(own)}" for name, own in record.timings.items())
    plain.line(console, Text(f"{seconds(sum(record.timings.values()))}: {spent}", style="dim"))


def outlook(found: Outlook, console: Console) -> None:
    """What would go, as far as that can be predicted."""
    _head(found, console)
    plain.title(console, "Predicted (nothing is cut, nothing is judged)")
    rows = [
        (percent(p.parameters), percent(p.flops), number(p.predicted), str(_units(p.taken)))
        for p in found.points
    ]
    titles = (
        "parameters left>",
        "operations left>",
        f"divergence ({found.metric})>",
        "units that go>",
    )
    plain.table(console, plain.columns(*titles), rows)
    if found.points:
        plain.title(console, "What would go")
        _taken(found.points[-1].taken, console)
    for note in found.notes:
        plain.paragraph(console, note, "yellow", limit=500)
    _refused(found.refused, console)


def _head(record: PruneRecord | Outlook, console: Console) -> None:
    head = Text(short(record.model, 60), style="bold")
    head.append(
        f"  {short(record.model_class, 40)}, {count(record.parameters)} parameters",
        style="not bold",
    )
    plain.line(console, head)
    asked = f"asked for: {record.budget.text()}"
    if isinstance(record, PruneRecord) and record.budget.max_drop is None:
        asked += f", within the limits of the safety level {record.safety}"
    asked += f"; of {', '.join(record.kinds)}"
    asked += f"; kept: {', '.join(record.keep)}" if record.keep else ""
    asked += f"; only: {', '.join(record.only)}" if record.only else ""
    plain.paragraph(console, asked)


def _curve(record: PruneRecord, console: Console) -> None:
    plain.title(console, "Trade-off, on the samples set aside for choosing")
    limit, with_labels = limit_of(record), labelled(record)
    highest = max([limit, *(point.drop for point in record.points)]) or 1.0
    rows = []
    for point in record.points:
        inside = point.drop <= limit
        bar = Text(
            "█" * max(0, round(BAR / 2 * point.drop / highest)), "green" if inside else "red"
        )
        cells: list[Text | str] = [
            f"{'>' if point.number == record.accepted else ' '} {point.number}",
            percent(point.parameters),
            percent(point.flops),
            _ratio(record, point),
        ]
        cells += [number(point.loss)] if with_labels else []
        cells += [number(point.drop), bar, plain.outcome(mark(record, point)), _how(point)]
        rows.append(cells)
    loss = ["loss by>"] if with_labels else []
    drop = "score drop>" if with_labels else f"{short(record.metric, 24)}>"
    titles = ("step>", "params>", "flops>", "time>", *loss, drop, "", "gate", "how")
    plain.table(console, plain.columns(*titles), rows)
    plain.line(console, Text(f"  limit: {number(limit)}", style="dim"))


def _how(point: Point) -> str:
    if not point.taken:
        return "the original"
    return one_line(f"{point.variant}; repair: {point.repair}", 80)


def _ratio(record: PruneRecord, point: Point) -> str:
    """Median share of the time, where it was measured and the interval leaves 1 out."""
    found = record.latency.get(str(point.number))
    if found is None:
        return ""
    return "unclear" if found[1] < 1 < found[2] else percent(found[0])


def _time(record: PruneRecord, point: Point) -> str:
    found = record.latency.get(str(point.number))
    if found is None:
        return ""
    unclear = ", which does not exclude 1" if found[1] < 1 < found[2] else ""
    return (
        f"time {found[0]:.2f} of what it was, 90 % interval {found[1]:.2f} to {found[2]:.2f}"
        f"{unclear}"
    )


def _taken(taken: Sequence[Taken], console: Console) -> None:
    """Per component and kind how many units of how many."""
    rows = [
        (
            short(one.component, 34),
            _what(one),
            f"{one.count} of {one.of}",
            Text("█" * max(1, round(BAR * one.count / max(one.of, 1))), "cyan"),
        )
        for one in taken[:TAKEN_SHOWN]
    ]
    plain.table(console, plain.columns("component", "kind", "goes>", ""), rows)
    if len(taken) > TAKEN_SHOWN:
        plain.line(console, f"  {len(taken) - TAKEN_SHOWN} more, in --json and prune.html")


def _what(one: Taken) -> str:
    """The kind in words; of a layer also what stands in its place."""
    if one.kind != "layer":
        return f"{one.kind}s"
    return f"layer, now a {one.instead} map" if one.instead else "layer"


def _units(taken: Sequence[Taken]) -> int:
    return sum(one.count for one in taken)


def _refused(refused: dict[str, str], console: Console) -> None:
    """Places that cannot be cut, and why."""
    if not refused:
        return
    plain.title(console, f"Cannot be cut ({len(refused)})")
    for component, why in list(refused.items())[:REFUSED_SHOWN]:
        plain.line(console, f"  {short(component, 40)}: {one_line(why, 300)}")
    if len(refused) > REFUSED_SHOWN:
        plain.line(console, f"  {len(refused) - REFUSED_SHOWN} more")
