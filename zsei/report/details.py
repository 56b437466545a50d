"""One finding, one proposal, one verdict, whole, in a terminal: what `zsei show` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from zsei.records import AnalysisRecord, Check, Finding, Measurement, Proposal, Verdict
from zsei.report import plain
from zsei.report.rounds import objections_to
from zsei.report.select import by_code
from zsei.report.text import measured, number, one_line, settings, short, spread
from zsei.report.verdicts import changes, in_order, said, scope, verdict_of

COMPONENTS_SHOWN = 30


def everything(record: AnalysisRecord, console: Console) -> None:
    """Every finding and every proposal of a record."""
    for group in by_code(record):
        for found in group.findings:
            finding(found, console)
            _objections(record, found.id, console)
            console.print()
    for proposed in in_order(record):
        proposal(record, proposed, console)
        console.print()
    if record.combined is not None:
        plain.title(console, "All accepted together")
        verdict(record.combined, console)
    if record.validation.checks:
        plain.title(console, "What the analysis tested about itself")
        checks(record.validation.checks, console)


def finding(found: Finding, console: Console) -> None:
    """A finding: message, components, evidence."""
    head = Text(short(found.code, 60), style="bold")
    head.append(f"  severity {found.severity:.2f}  {short(found.id, 40)}", style="not bold dim")
    plain.line(console, head)
    plain.paragraph(console, found.message)
    _components(found.components, console)
    if found.evidence:
        _evidence(found.evidence, console)
    checks(found.checks, console)


def checks(made: Sequence[Check], console: Console) -> None:
    """How the analysis tested what it says: outcome, what was done, what came out."""
    rows = [
        (
            plain.outcome(check.outcome),
            short(f"{check.about} {check.name}".strip(), 40),
            one_line(check.message, 300),
        )
        for check in made
    ]
    if rows:
        plain.table(console, plain.columns("check", "how", "what came out"), rows)


def proposal(record: AnalysisRecord, proposed: Proposal, console: Console) -> None:
    """A proposal: what, why, and what the gate measured and said."""
    judged = verdict_of(record, proposed)
    head = Text(short(proposed.strategy, 60), style="bold")
    head.append("  ")
    head.append_text(plain.outcome(judged.outcome if judged else "not tried"))
    source = "rules" if proposed.source == "rules" else short(proposed.source, 30)
    head.append(f"  {short(proposed.id, 40)}, by {source}", style="not bold dim")
    plain.line(console, head)
    _components(proposed.components, console)
    if proposed.params:
        plain.line(console, f"{scope(proposed)}; {settings(proposed.params)}")
    if proposed.rationale:
        plain.paragraph(console, proposed.rationale)
    _objections(record, proposed.id, console)
    if judged is not None:
        verdict(judged, console)
    latency = record.timings.latency.get(proposed.id)
    if latency:
        middle, low, high = (number(value) for value in latency)
        plain.line(console, f"latency (clock) after over before {middle}, 90 % {low} to {high}")


def _objections(record: AnalysisRecord, about: str, console: Console) -> None:
    for held in objections_to(record, about):
        who = "rules" if held.voice == "rules" else short(held.voice, 30)
        told = f"objection ({held.kind}) of {short(held.agent, 30)}, {who}: {held.text}"
        plain.paragraph(console, told, "yellow")


def verdict(judged: Verdict, console: Console) -> None:
    """A verdict: reason, bounds beside their limits, before and after, stages."""
    plain.paragraph(console, said(judged), "bold")
    if judged.bounds:
        _evidence(judged.bounds, console)
    rows = [
        (
            short(row.name, 40),
            measured(row.before) if row.before else "–",
            measured(row.after) if row.after else "–",
            f"{100 * row.ratio:+.1f} %" if row.ratio is not None else "–",
        )
        for row in changes(judged)
    ]
    if rows:
        plain.table(console, plain.columns("measurement", "before>", "after>", "change>"), rows)
    if judged.stages:
        stages = [
            (short(s.stage, 24), plain.outcome(s.outcome), one_line(s.detail, 200))
            for s in judged.stages
        ]
        plain.table(console, plain.columns("stage", "outcome", "detail"), stages)


def _components(components: Sequence[str], console: Console) -> None:
    listed = ", ".join(short(c, 60) for c in components[:COMPONENTS_SHOWN])
    rest = len(components) - COMPONENTS_SHOWN
    listed += f", and {rest} more" if rest > 0 else ""
    plain.paragraph(console, listed, "cyan", limit=4000)


def _evidence(measurements: Sequence[Measurement], console: Console) -> None:
    rows = [
        (short(m.name, 40), measured(m), spread(m), one_line(m.note, 200)) for m in measurements
    ]
    plain.table(console, plain.columns("measurement", "value>", "spread", "note"), rows)
