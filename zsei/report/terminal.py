"""What a terminal shows: a summary of a record, an answer, a list of runs."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from zsei.records import AnalysisRecord, Answer, Interpretation, Verdict
from zsei.report import plain
from zsei.report.details import everything, finding, proposal
from zsei.report.rounds import counted, objections_to, turns
from zsei.report.select import by_code, slowest
from zsei.report.summary import answered, effect
from zsei.report.text import (
    aligned,
    brief,
    correlation,
    count,
    number,
    one_line,
    percent,
    plural,
    seconds,
    short,
)
from zsei.report.trust import is_yardstick
from zsei.report.verdicts import accepted_first, limits, said, scope, verdict_of

__all__ = ["answer", "everything", "finding", "proposal", "runs", "summary"]

GROUPS_SHOWN = 7
PROPOSALS_SHOWN = 7
CHECKS_SHOWN = 6
ROUNDS_SHOWN = 4
FACTS_SHOWN = 4
WORDS = 230
"""Characters of an interpretation; the report has the rest."""


def summary(record: AnalysisRecord, console: Console) -> None:
    """The whole analysis in at most about 45 lines."""
    provenance, conditions = record.provenance, record.conditions
    head = Text(short(provenance.model, 60), style="bold")
    head.append(
        f"  {short(provenance.model_class, 40)}, {count(provenance.parameters)} parameters, "
        f"{conditions.calibration_samples} + {conditions.held_out_samples} samples, "
        f"{short(conditions.objective, 24)} ({short(conditions.metric, 20)})",
        style="not bold",
    )
    plain.line(console, head)
    voices = sorted({_voice(i.voice) for i in record.interpretations})
    if voices:
        words = ", ".join(v if v != "rules" else "rules, no language model" for v in voices[:4])
        also = counted(record)
        plain.line(console, Text(f"words by {words}{'; ' if also else ''}{also}", style="dim"))
    if provenance.fidelity == "modules":
        plain.line(console, Text("coarse: the model could not be exported", style="yellow"))
    matters, waste, go = answered(record)
    plain.title(console, matters.question)
    for fact in matters.facts[:FACTS_SHOWN]:
        plain.paragraph(console, fact.text, indent=2, limit=400)
    _words(record, matters.words, console)
    _findings(record, console)
    _words(record, waste.words, console)
    _verdicts(record, console)
    _words(record, go.words, console)
    _trust(record, console)
    _time(record, console)
    for failure in record.failures[:2]:
        text = f"{short(failure.stage, 20)}: {one_line(failure.what, 90)}"
        text += f", because {one_line(failure.why, 120)}" if failure.why else ""
        plain.line(console, Text(text, style="yellow"))


def _words(record: AnalysisRecord, spoken: Sequence[Interpretation], console: Console) -> None:
    """The first of the texts, with its voice, what was struck out of it and held against it."""
    for interpretation in spoken[:1]:
        line = brief(interpretation.text, WORDS)
        if interpretation.voice != "rules":
            line = f"{_voice(interpretation.voice)}: {line}"
        if interpretation.struck:
            line += f" (struck out: {interpretation.struck})"
        if held := objections_to(record, interpretation.id):
            line += f" (objection: {', '.join(dict.fromkeys(o.kind for o in held))})"
        plain.paragraph(console, line, "dim", indent=2)


def _voice(voice: str) -> str:
    return "rules" if voice == "rules" else short(voice, 30)


def _findings(record: AnalysisRecord, console: Console) -> None:
    groups = by_code(record)
    plain.title(console, f"Findings ({sum(len(g.findings) for g in groups)})")
    if not groups:
        return plain.line(console, "  none")
    rows = [
        (
            f"{group.severity:.2f}",
            f"{short(group.code, 26)}{' (clock)' if group.clock else ''}",
            str(len(group.findings)),
            one_line(group.findings[0].message, 200),
        )
        for group in groups[:GROUPS_SHOWN]
    ]
    plain.table(console, plain.columns("worst>", "code", "n>", "the worst one"), rows)
    if len(groups) > GROUPS_SHOWN:
        plain.line(console, f"  {len(groups) - GROUPS_SHOWN} more of other codes")
    return None


def _verdicts(record: AnalysisRecord, console: Console) -> None:
    proposals = accepted_first(record)
    plain.title(console, f"Proposals ({len(proposals)}), safety {record.conditions.safety}")
    if not proposals:
        return plain.line(console, "  none")
    rows: list[Sequence[Text | str]] = []
    for proposed in proposals[:PROPOSALS_SHOWN]:
        verdict = verdict_of(record, proposed)
        rows.append(_judged(verdict, f"{short(proposed.strategy, 18)}, {scope(proposed)}"))
    if record.combined is not None:
        rows.append(_judged(record.combined, "all accepted together"))
    plain.table(console, plain.columns("verdict", "what", "bound>", "limit>", "change"), rows)
    if len(proposals) > PROPOSALS_SHOWN:
        plain.line(console, f"  {len(proposals) - PROPOSALS_SHOWN} more of them")
    return _rounds(record, console)


def _rounds(record: AnalysisRecord, console: Console) -> None:
    """How turns were taken, where they were: the first and the last ones."""
    told = turns(record)
    if len(told) < 2:
        return
    rows = [
        (
            str(turn.number),
            turn.who,
            *(str(n) for n in (turn.tried, turn.accepted, turn.rejected, turn.other)),
            turn.gain,
        )
        for turn in (told if len(told) <= ROUNDS_SHOWN else (told[0], *told[1 - ROUNDS_SHOWN :]))
    ]
    heads = ("round>", "proposed by", "tried>", "accepted>", "rejected>", "other>", "gain so far>")
    plain.table(console, plain.columns(*heads), rows)


def _judged(verdict: Verdict | None, what: str) -> Sequence[Text | str]:
    """A row of the verdicts: the bound nearest its limit or furthest over it, and the change."""
    if verdict is None:
        return plain.outcome("not tried"), what, "–", "–", ""
    rows = [r for r in limits(verdict) if r.limit and r.bound.value is not None]
    worst = max(rows, key=lambda r: r.pressure, default=None)
    changed = effect(verdict) if verdict.outcome == "accepted" else ""
    changed = changed or one_line(said(verdict), 160)
    if worst is None:
        return plain.outcome(verdict.outcome), what, "–", "–", changed
    side = "≥ " if worst.floor else "≤ "
    return (
        plain.outcome(verdict.outcome), what, number(worst.bound.value),
        side + number(worst.limit), changed,
    )  # fmt: skip


def _trust(record: AnalysisRecord, console: Console) -> None:
    checks = [c for c in record.validation.criteria if not is_yardstick(c)][:CHECKS_SHOWN]
    if not checks:
        return
    plain.title(console, "Rankings against exact ablation")
    rows = [
        (
            plain.outcome(check.status),
            f"{plural(short(check.kind, 12))} by {short(check.criterion, 24)}",
            correlation(check.kendall),
            correlation(check.spearman),
            "–" if check.top_hits is None else percent(check.top_hits),
            str(check.n),
        )
        for check in checks
    ]
    heads = plain.columns("status", "ranking", "Kendall>", "Spearman>", "top hits>", "n>")
    plain.table(console, heads, rows)


def _time(record: AnalysisRecord, console: Console) -> None:
    timings = record.timings
    if not timings.stages and not timings.components:
        return
    plain.title(console, "Time (clock)")
    if timings.stages:
        longest = sorted(timings.stages.items(), key=lambda item: -item[1])[:5]
        parts = ", ".join(f"{short(name, 20)} {seconds(s)}" for name, s in longest)
        plain.line(console, f"  analysis {seconds(sum(timings.stages.values()))}: {parts}")
    slow = slowest(record, 3)
    if slow:
        parts = ", ".join(f"{short(name, 28)} {percent(share)}" for name, _, share in slow)
        plain.line(console, f"  model: {parts}")


def answer(answer: Answer, console: Console) -> None:
    """An answer of `ask`: its words, its rows, and where each comes from."""
    plain.paragraph(console, answer.text, limit=4000)
    if answer.rows:
        runs(answer.rows, console)
    for index, citation in enumerate(answer.citations[:20], start=1):
        where = short(citation.run, 40)
        where += f" {short(citation.finding, 40)}" if citation.finding else ""
        line = f"[{index}] {where}  {one_line(citation.text, 160)}"
        plain.line(console, Text(line, style="dim"))
    if len(answer.citations) > 20:
        plain.line(console, Text(f"{len(answer.citations) - 20} more citations", style="dim"))
    one = {"analyses": "analysis", "measurements": "measurement"}[answer.among]
    searched = f"{answer.searched} {one if answer.searched == 1 else answer.among} searched"
    plain.line(console, Text(f"{_voice(answer.voice)}, {searched}", style="dim"))


def runs(rows: Sequence[Mapping[str, object]], console: Console, most: int = 200) -> None:
    """Rows with any keys as one table, columns in the order in which keys first appear."""
    if not rows:
        return plain.line(console, Text("nothing found", style="dim"))
    names = list(dict.fromkeys(key for row in rows for key in row))
    numeric = {n for n in names if all(_is_number(row[n]) for row in rows if n in row)}
    heads = [plain.Column(title=short(n, 30), right=n in numeric) for n in names]
    shown = rows[:most]
    cells = [_cells([row.get(name) for row in shown], name in numeric) for name in names]
    plain.table(console, heads, list(zip(*cells, strict=True)))
    if len(rows) > most:
        plain.line(console, Text(f"{len(rows) - most} more rows", style="dim"))
    return None


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _cells(values: Sequence[object], numeric: bool) -> list[str]:
    if numeric:
        return aligned([v if isinstance(v, int | float) else None for v in values])
    return ["–" if v is None else number(v) if isinstance(v, float) else short(str(v), 60)
            for v in values]  # fmt: skip
