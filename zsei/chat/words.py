"""Puts actions and what they measured into words; every number is a measured one."""

from collections.abc import Sequence

from zsei.chat.records import Action, Estimate, Ran, Row
from zsei.memory.tried import Tried
from zsei.records import AnalysisRecord, Answer, Citation, Verdict
from zsei.report.text import number, settings

HELP = """Ask anything about the analyses in memory, or one of these:
  ablate head 3 of layer 2 [with zero]   remove it for a moment and measure the output
  what if layers 2 and 4 were gone?      the same for several at once
  compare layers 2 and 4                 what is stored of both, and how alike they are
  gate p-1234                            let the gate judge a stored proposal
  try pruning heads of layer 1           let the gate judge an edit: heads, neurons, channels,
                                         layers; 25 % of the units where no share is named
  runs, use RUN                          the analyses, and which one actions are made on
  actions                                what has been spent
  quit                                   leave (Ctrl-D too; Ctrl-C stops a running action)
"It" and "them" are what was named last. Before anything runs you see what it is and what it costs,
and are asked. Nothing changes your model: actions measure on a copy."""


def what(action: Action) -> str:
    """What an action does, in one line."""
    if action.kind == "gate":
        assert action.proposal is not None, "what is gated is a proposal"
        told = settings(action.proposal.params)
        size = f" ({told})" if told else ""
        where = ", ".join(action.proposal.components)
        return f"gate {action.proposal.id}: {action.proposal.strategy} at {where}{size}"
    together = " together" if len(action.components) > 1 else ""
    if action.kind == "compare":
        return f"compare {' and '.join(action.components)}: similarity and joint ablation"
    return f"ablate {', '.join(action.components)}{together} ({action.replacement})"


def offer(action: Action, estimate: Estimate, record: AnalysisRecord) -> str:
    """An action with its cost, before it runs."""
    opening = f", {estimate.opening} of them to open the model again" if estimate.opening else ""
    said = (
        f"{what(action)}\non {record.id} ({record.provenance.model}); about {estimate.forwards} "
        f"forward passes of {estimate.batch} samples{opening}."
    )
    verdict = verdict_on(action, record)
    if verdict is not None:
        said += f"\nThis was judged before: {verdict.outcome}, {_reason(verdict)}."
    return said


def earlier(found: Sequence[Tried]) -> str:
    """How proposals like this one ended in other analyses, a line each."""
    return "".join(
        f"\nTried before on {one.near}, in {one.run}: {one.proposal}, "
        f"{one.outcome or 'not judged'} ({_reason(one)})."
        for one in found
    )


def result(ran: Ran) -> str:
    """What was run and what came of it."""
    conditions = ", ".join(f"{name} {value}" for name, value in ran.conditions.items())
    lines = [f"Ran: {what(ran.action)}", f"({conditions})", *map(_row, ran.rows)]
    if ran.verdict is not None:
        lines.append(f"{ran.verdict.outcome}: {_reason(ran.verdict)}")
        after = {m.name: m for m in ran.verdict.after}
        lines += [
            f"  {m.name}: {number(m.value)} before, {number(after[m.name].value)} after"
            for m in ran.verdict.before
            if m.name in after
        ]
        if ran.repeats:
            lines.append("The analysis holds a verdict on this proposal already.")
        elif ran.kept:
            lines.append(f"Kept in memory as {ran.kept}.")
    return "\n".join(lines)


def verdict_on(action: Action, record: AnalysisRecord) -> Verdict | None:
    """What the gate said of this very proposal before."""
    name = action.proposal.id if action.proposal else ""
    return next((v for v in record.verdicts if v.proposal_id == name), None)


def side_by_side(question: str, components: Sequence[str], record: AnalysisRecord) -> Answer:
    """All that is stored of every one of some components, and how alike they are: no run needed."""
    measured = [{m.name: m for m in record.measurements.get(name, ())} for name in components]
    shared = [name for name in measured[0] if all(name in each for each in measured[1:])]
    rows = [
        {
            "run": record.id, "model": record.provenance.model, "component": component,
            "metric": name, "value": each[name].value, "unit": each[name].unit, "n": each[name].n,
        }
        for name in shared
        for component, each in zip(components, measured, strict=True)
    ]  # fmt: skip
    for matrix in record.matrices:
        for place, first in enumerate(components):
            for second in components[place + 1 :]:
                if first in matrix.rows and second in matrix.columns:
                    value = matrix.values[matrix.rows.index(first)][matrix.columns.index(second)]
                    rows.append(
                        {
                            "run": record.id, "model": record.provenance.model,
                            "component": f"{first} and {second}", "metric": matrix.name,
                            "value": value, "unit": matrix.unit, "n": matrix.n,
                        }
                    )  # fmt: skip
    said = f"Stored of {' and '.join(components)} in {record.id}:"
    if not rows:
        said = f"No measurement of {record.id} is there for all of {' and '.join(components)}."
    cited = (Citation(run=record.id, text=f"{' and '.join(components)}"),) if rows else ()
    return Answer(
        question=question, text=said, rows=tuple(rows), citations=cited, searched=1,
        filters={"runs": [record.id]},
    )  # fmt: skip


def _row(row: Row) -> str:
    found = row.measurement
    where = " and ".join(row.components)
    if found.value is None:
        return f"  {found.name} of {where}: could not be told ({found.note})"
    details = [f"std {number(found.std)}"] if found.std is not None else []
    details += [f"n {found.n}", found.note] if found.note else [f"n {found.n}"]
    unit = f" {found.unit}" if found.unit else ""
    return f"  {found.name} of {where}: {number(found.value)}{unit} ({', '.join(details)})"


def _reason(verdict: Verdict | Tried) -> str:
    return verdict.reason.removeprefix(f"{verdict.outcome}:").strip().rstrip(".")
