"""The three answers a reader wants first: what matters, what is waste, what can go.

Facts are read off the record, the same for every view; the words beside them come from the
interpretations, whose voice is named.
"""

from dataclasses import dataclass

from zsei.records import AnalysisRecord, Interpretation, Verdict
from zsei.report.select import FindingGroup, by_code, critical_paths, what_for
from zsei.report.text import amount, brief, number, plural, short
from zsei.report.trust import importance, rankings
from zsei.report.verdicts import changes, in_order, scope, verdict_of

NAMED = 3
"""Components named in one fact."""
COSTS = ("parameters", "flops", "bytes", "weight_bytes", "peak_bytes")
"""Measurements of a verdict that say how much smaller the model has become."""
GROUPS = 4
"""Kinds of waste named."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One line of the summary, and the finding or the section where its evidence stands."""

    text: str
    finding: str | None = None
    section: str | None = None


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One of the three questions with its facts and the words on it."""

    question: str
    facts: tuple[Fact, ...]
    words: tuple[Interpretation, ...]


def answered(record: AnalysisRecord) -> tuple[Answered, Answered, Answered]:
    """What matters, what is waste, what can go."""
    return (
        Answered(question="What matters", facts=_matters(record), words=spoken(record, "matters")),
        Answered(question="What is waste", facts=_waste(record), words=spoken(record, "waste")),
        Answered(question="What can go", facts=_go(record), words=spoken(record, "go")),
    )


def spoken(record: AnalysisRecord, question: str) -> tuple[Interpretation, ...]:
    """The interpretations that answer one question."""
    return tuple(i for i in record.interpretations if what_for(i) == question)


def _matters(record: AnalysisRecord) -> tuple[Fact, ...]:
    facts: list[Fact] = []
    for view in rankings(record):
        ranking = view.ranking
        first = [f"{short(p.component, 56)} ({number(p.score)})" for p in view.first[:NAMED]]
        by = short(ranking.criterion, 40) + ("" if view.exact else f", {view.status}")
        text = f"Most important {plural(short(ranking.kind, 20))} by {by}: {', '.join(first)}"
        facts.append(Fact(text=text, section="rankings"))
    if not facts:
        facts.extend(_most_sensitive(record))
    information = [p for p in critical_paths(record) if p.kind == "information"]
    if information:
        path = information[0].nodes
        text = f"Critical information path of {len(path)} nodes, {short(path[0], 30)} to "
        facts.append(Fact(text=text + short(path[-1], 30), section="flow"))
    return tuple(facts) or (Fact(text="Nothing was ranked."),)


def _most_sensitive(record: AnalysisRecord) -> list[Fact]:
    """The most important parts where no ranking was made."""
    parts = [c.id for c in record.components if c.kind not in ("layer", "head", "input", "output")]
    score = importance(record, parts)
    if score is None:
        return []
    told = {i: m.value for i, m in score.values.items() if m.value is not None}
    first = sorted(told, key=lambda i: (-told[i], i))[:NAMED]
    listed = ", ".join(f"{short(i, 40)} ({amount(told[i], score.unit)})" for i in first)
    return [Fact(text=f"Largest {score.name}: {listed}", section="components")] if first else []


def waste_groups(record: AnalysisRecord) -> tuple[FindingGroup, ...]:
    """Groups of findings other than critical paths, worst first."""
    return tuple(g for g in by_code(record) if not g.code.startswith("critical-path"))


def _waste(record: AnalysisRecord) -> tuple[Fact, ...]:
    groups = waste_groups(record)
    facts = [
        Fact(
            text=f"{short(group.code, 40)} × {len(group.findings)}: "
            + brief(group.findings[0].message, 180),
            finding=group.findings[0].id,
        )
        for group in groups[:GROUPS]
    ]
    rest = sum(len(g.findings) for g in groups[GROUPS:])
    if rest:
        facts.append(Fact(text=f"{rest} more of other kinds", section="findings"))
    return tuple(facts) or (Fact(text="No bottleneck and no redundancy was found."),)


def effect(verdict: Verdict) -> str:
    """What an edit changed in size and cost: `parameters -2.6 %, flops -5.6 %`."""
    found = [
        f"{change.name.replace('_', ' ')} {100 * change.ratio:+.2g} %"
        for change in changes(verdict)
        if change.name in COSTS and change.ratio
    ]
    return ", ".join(found)


def _go(record: AnalysisRecord) -> tuple[Fact, ...]:
    if not record.proposals:
        return (Fact(text="Nothing was proposed."),)
    facts: list[Fact] = []
    outcomes: dict[str, int] = {}
    for proposal in in_order(record):
        verdict = verdict_of(record, proposal)
        outcome = verdict.outcome if verdict else "not tried"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        if verdict is not None and outcome == "accepted":
            changed = effect(verdict)
            text = f"{short(proposal.strategy, 40)}: {scope(proposal)}"
            facts.append(Fact(text=f"{text} ({changed})" if changed else text, section="proposals"))
    if record.combined is not None:
        changed = effect(record.combined)
        text = f"All accepted together: {record.combined.outcome}"
        facts.append(Fact(text=f"{text}, {changed}" if changed else text, section="proposals"))
    refused = [f"{count} {name}" for name, count in outcomes.items() if name != "accepted"]
    if not facts:
        facts.append(Fact(text="Nothing: the gate accepted no proposal.", section="proposals"))
    if refused:
        facts.append(Fact(text=f"Of the rest: {', '.join(refused)}", section="proposals"))
    return tuple(facts)
