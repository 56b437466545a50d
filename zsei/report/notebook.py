"""How a record, a graph, a finding and a verdict show themselves in a notebook.

Fragments of escaped HTML: no script, no style sheet and no id, so that nothing leaks into the page
around them. Colours come from the notebook (`inherit`, translucent greys) or read on both white and
black. Each has a text fallback for consoles.
"""

from collections.abc import Callable, Sequence
from html import escape
from io import StringIO

from rich.console import Console

from zsei.records import AnalysisRecord, Finding, FlowData, Measurement, Verdict
from zsei.report import details, terminal
from zsei.report.flow_svg import Detail, flow_svg
from zsei.report.rounds import counted, objections_to, turns
from zsei.report.select import by_code
from zsei.report.summary import answered, effect
from zsei.report.text import clean, count, describe, measured, number, one_line, short, spread
from zsei.report.verdicts import accepted_first, changes, limits, said, scope, verdict_of

FONT = "font-family:system-ui,sans-serif;font-size:13px;line-height:1.45;color:inherit"
MUTED = "opacity:.72"
RULE = "1px solid rgba(128,128,128,.35)"
COLORS = {
    "accepted": "#1c8a52",
    "agrees": "#1c8a52",
    "disagrees": "#c4452c",
    "rejected": "#c4452c",
    "failed": "#c4452c",
}
OPEN = "#9a6a00"
GRAPH = Detail(max_nodes=2500)
WIDTH = 100
"""Columns of the text fallbacks."""
ROWS = 12


def _text(text: str, limit: int = 400) -> str:
    """Clean, clip and escape."""
    return escape(clean(text, limit))


def _name(text: str, limit: int = 48) -> str:
    style = "background:none;color:inherit;white-space:nowrap"
    return f'<code style="{style}">{escape(short(text, limit))}</code>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of ready-made cells; a head that ends in `>` stands over numbers."""
    cell = f"padding:2px 14px 2px 0;border:0;border-bottom:{RULE};background:none;"
    aligns = ["right" if head.endswith(">") else "left" for head in heads]
    top = "".join(
        f'<th scope="col" style="{cell}text-align:{align};font-weight:400;{MUTED}">'
        f"{escape(head.rstrip('>'))}</th>"
        for head, align in zip(heads, aligns, strict=True)
    )
    body = "".join(
        "<tr style='background:none'>"
        + "".join(
            f'<td style="{cell}text-align:{align};font-variant-numeric:tabular-nums">{text}</td>'
            for text, align in zip(row, aligns, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<table style="border-collapse:collapse;margin:4px 0 8px;{FONT}"><thead><tr>{top}</tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


def _frame(body: str) -> str:
    return f'<div style="{FONT};max-width:1100px;overflow-x:auto">{body}</div>'


def _outcome(outcome: str) -> str:
    color = COLORS.get(outcome, OPEN)
    return f'<span style="color:{color};font-weight:600">{escape(outcome)}</span>'


def _measure(measurement: Measurement | None) -> str:
    if measurement is None:
        return "–"
    return f'<span title="{escape(describe(measurement))}">{escape(measured(measurement))}</span>'


def record_html(record: AnalysisRecord) -> str:
    """A record in a notebook: what it is of, the three answers, findings, verdicts."""
    provenance, conditions = record.provenance, record.conditions
    parts = [
        f'<div style="font-size:16px;font-weight:600">{escape(short(provenance.model, 80))}</div>'
        f'<div style="{MUTED}">{_text(provenance.model_class, 60)}, '
        f"{count(provenance.parameters)} parameters; {_text(conditions.objective, 40)} measured as "
        f"{_text(conditions.metric, 40)}; {conditions.calibration_samples} + "
        f"{conditions.held_out_samples} samples; fidelity {provenance.fidelity}; "
        f"{escape(short(record.id, 40))}</div>"
    ]
    for part in answered(record):
        facts = "".join(f"<li>{_text(fact.text, 300)}</li>" for fact in part.facts[:5])
        parts.append(
            f'<div style="font-weight:600;margin-top:8px">{part.question}</div>'
            f'<ul style="margin:2px 0;padding-left:20px">{facts}</ul>'
        )
    if told := counted(record):
        parts.append(f'<div style="{MUTED}">{escape(told)}</div>')
    groups = by_code(record)
    if groups:
        rows = [
            (f"{g.severity:.2f}", _name(g.code), f"{len(g.findings)}{' clock' if g.clock else ''}",
             _text(g.findings[0].message, 160))
            for g in groups[:ROWS]
        ]  # fmt: skip
        parts.append(_table(("worst>", "finding", "n>", "the worst one"), rows))
    proposals = accepted_first(record)
    if proposals:
        rows = []
        for proposal in proposals[:ROWS]:
            verdict = verdict_of(record, proposal)
            rows.append(
                (_outcome(verdict.outcome if verdict else "not tried"), _name(proposal.strategy),
                 _text(scope(proposal), 60), _text(_said(verdict), 200),
                 _objected(record, proposal.id))
            )  # fmt: skip
        heads = ("verdict", "proposal", "of", "change or reason", "objections")
        parts.append(_table(heads, rows))
    if len(record.rounds) > 1:
        rows = [
            (str(t.number), escape(t.who), str(t.tried), str(t.accepted), str(t.rejected),
             str(t.other), t.gain)
            for t in turns(record)[-ROWS:]
        ]  # fmt: skip
        heads = ("round>", "proposed by", "tried>", "accepted>", "rejected>", "other>", "gain>")
        parts.append(_table(heads, rows))
    return _frame("".join(parts))


def _objected(record: AnalysisRecord, about: str) -> str:
    return "<br>".join(
        f"{escape(held.kind)}: {_text(one_line(held.text), 160)}"
        for held in objections_to(record, about)[:3]
    )


def _said(verdict: Verdict | None) -> str:
    """What an accepted edit changes; why another was not accepted."""
    if verdict is None:
        return ""
    changed = effect(verdict) if verdict.outcome == "accepted" else ""
    return changed or one_line(said(verdict), 160)


def graph_html(flow: FlowData) -> str:
    """A flow graph in a notebook: the drawing of the report, in a box that scrolls."""
    drawn = flow_svg(flow, detail=GRAPH)
    size = f"{len(flow.nodes)} nodes, {len(flow.edges)} edges"
    if not drawn:
        return _frame(f"Flow graph, {size}" + (", too many to draw" if flow.nodes else ""))
    return (
        f'<div style="{FONT}"><div style="{MUTED}">Flow graph, {size}; line width is the share of '
        "its target's sum, colour of boxes importance</div>"
        f'<div style="overflow:auto;max-height:720px">{drawn}</div></div>'
    )


def finding_html(finding: Finding) -> str:
    """A finding in a notebook, with its evidence."""
    named = " ".join(_name(c) for c in finding.components[:ROWS])
    rest = len(finding.components) - ROWS
    named += f" … {rest} more" if rest > 0 else ""
    rows = [
        (_name(m.name), _measure(m), escape(spread(m)), _text(m.note, 160))
        for m in finding.evidence[:30]
    ]
    return _frame(
        f"<div><strong>{_name(finding.code)}</strong> severity {finding.severity:.2f}, "
        f"{escape(short(finding.id, 30))}</div><div>{_text(finding.message, 1500)}</div>"
        f"<div>{named}</div>"
        + (_table(("measurement", "value>", "spread", "note"), rows) if rows else "")
        + "".join(
            f"<div>{_outcome(check.outcome)} {_text(check.name, 40)}: "
            f"{_text(check.message, 400)}</div>"
            for check in finding.checks[:6]
        )
    )


def verdict_html(verdict: Verdict) -> str:
    """A verdict in a notebook: reason, bounds against limits, before and after, stages."""
    bounds = [
        (_name(row.bound.name), _measure(row.bound), number(row.limit),
         {True: "inside", False: "outside", None: ""}[row.holds])
        for row in limits(verdict)[:ROWS]
    ]  # fmt: skip
    moved = [
        (_name(row.name), _measure(row.before), _measure(row.after),
         f"{100 * row.ratio:+.1f} %" if row.ratio is not None else "–")
        for row in changes(verdict)[:ROWS]
    ]  # fmt: skip
    stages = ", ".join(
        f"{escape(short(s.stage, 24))} {escape(s.outcome)}" for s in verdict.stages[:ROWS]
    )
    return _frame(
        f"<div>{_outcome(verdict.outcome)} {escape(short(verdict.proposal_id, 30))}</div>"
        f"<div>{_text(said(verdict), 1500)}</div>"
        + (_table(("95 % bound", "value>", "limit>", ""), bounds) if bounds else "")
        + (_table(("measurement", "before>", "after>", "change>"), moved) if moved else "")
        + (f'<div style="{MUTED}">{stages}</div>' if stages else "")
    )


def _as_text(draw: Callable[[Console], None]) -> str:
    file = StringIO()
    draw(Console(file=file, width=WIDTH, color_system=None, force_terminal=False))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def record_text(record: AnalysisRecord) -> str:
    """The record as the terminal's summary."""
    return _as_text(lambda console: terminal.summary(record, console))


def graph_text(flow: FlowData) -> str:
    """Counts of nodes by kind, and of edges."""
    kinds: dict[str, int] = {}
    for node in flow.nodes:
        kinds[node.kind] = kinds.get(node.kind, 0) + 1
    listed = ", ".join(f"{n} {short(kind, 20)}" for kind, n in sorted(kinds.items()))
    return f"Flow graph, {len(flow.nodes)} nodes ({listed}), {len(flow.edges)} edges"


def finding_text(finding: Finding) -> str:
    """A finding with its evidence."""
    return _as_text(lambda console: details.finding(finding, console))


def verdict_text(verdict: Verdict) -> str:
    """A verdict with its bounds."""
    return _as_text(lambda console: details.verdict(verdict, console))
