"""What a right answer holds, read off the records by plain loops: nothing here asks the memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from oracles.asked import mean

from zsei.records import AnalysisRecord, Finding, Proposal, Verdict

Records = Sequence[AnalysisRecord]


@dataclass(frozen=True, kw_only=True)
class Want:
    """What must stand in an answer."""

    rows: tuple[dict[str, Any], ...] = ()
    """Each must be part of a row of its own; numbers to the last digit."""
    cited: frozenset[str] = frozenset()
    """The analyses cited, all of them and no other."""
    more: bool = False
    """Whether there may be further rows."""
    keys: frozenset[str] = frozenset()
    """For why and where: one of these findings, proposals or texts is among the first five rows."""
    says: tuple[str, ...] = ()
    """Words of the text."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question as a person writes it; `want` None is a question that must be refused."""

    kind: str
    text: str
    want: Want | None


REFUSE = None


def number_of(record: AnalysisRecord, component: str, name: str) -> int | float | None:
    """A measurement, a counted property, or seconds."""
    for measurement in record.measurements.get(component, ()):
        if measurement.name == name:
            counted = measurement.n == 0 and measurement.value is not None
            return int(measurement.value) if counted else measurement.value  # type: ignore[arg-type]
    if name == "seconds":
        return record.timings.components.get(component)
    return getattr(record.component(component), name, None) or None


def table(
    records: Records, name: str, kind: str | None = None, layer: int | None = None
) -> dict[tuple[str, str], int | float]:
    """(run, component) -> value."""
    found = {}
    for record in records:
        for component in record.components:
            if kind in (None, component.kind) and layer in (None, component.layer):
                value = number_of(record, component.id, name)
                if value is not None:
                    found[record.id, component.id] = value
    assert found
    return found


def cited(records: Records) -> frozenset[str]:
    """Their ids."""
    return frozenset(record.id for record in records)


def value(record: AnalysisRecord, component: str, name: str) -> Want:
    """One number."""
    return values([record], component, name)


def values(records: Records, component: str, name: str) -> Want:
    """The number of one component in several analyses."""
    holding = [r for r in records if component in {c.id for c in r.components}]
    found = [(r, number_of(r, component, name)) for r in holding]
    assert found
    assert all(v is not None for _, v in found)
    rows = tuple({"run": r.id, "component": component, "value": v} for r, v in found)
    return Want(rows=rows, cited=cited(holding))


def several(records: Records, name: str, kind: str | None, layer: int | None = None) -> Want:
    """A number of each component of a kind."""
    rows = tuple(
        {"run": run, "component": component, "value": v}
        for (run, component), v in table(records, name, kind, layer).items()
    )
    return Want(rows=rows, cited=cited(records))


def field(record: AnalysisRecord, **fields: object) -> Want:
    """What an analysis was."""
    said = tuple(str(v) for v in fields.values())
    return Want(rows=({"run": record.id, **fields},), cited=cited([record]), says=said)


def extreme(
    records: Records, name: str, kind: str | None = None, *, largest: bool = True, first: int = 1,
    layer: int | None = None,
) -> Want:  # fmt: skip
    """The components with the largest or smallest numbers."""
    found = sorted(
        table(records, name, kind, layer).items(), key=lambda item: -item[1] if largest else item[1]
    )[:first]
    rows = tuple({"run": run, "component": c, "value": v} for (run, c), v in found)
    return Want(rows=rows, cited=frozenset(run for (run, _), _ in found))


def reduced(
    records: Records, name: str, kind: str | None, operation: str, layer: int | None = None
) -> Want:
    """A mean or a sum."""
    found = table(records, name, kind, layer)
    numbers = list(found.values())
    whole = all(isinstance(v, int) for v in numbers)
    total = sum(numbers) if whole else _exact_sum(numbers)
    result = mean(numbers) if operation == "mean" else total
    if operation == "mean" and whole and result.is_integer():
        result = int(result)
    return Want(
        rows=({"operation": operation, "value": result, "count": len(numbers)},),
        cited=frozenset(run for run, _ in found),
    )


def _exact_sum(numbers: Sequence[float]) -> float:
    from fractions import Fraction

    return float(sum((Fraction(v) for v in numbers), Fraction()))


def counting(records: Records, name: str, kind: str | None, holds: Callable[[float], bool]) -> Want:
    """How many components have such a number."""
    found = {key: v for key, v in table(records, name, kind).items() if holds(v)}
    assert found
    return Want(
        rows=({"operation": "count", "count": len(found)},),
        cited=frozenset(run for run, _ in found), more=True,
    )  # fmt: skip


def count(number: int, records: Records) -> Want:
    """A number of things, from these analyses."""
    return Want(rows=({"operation": "count", "count": number},), cited=cited(records), more=True)


def judged(
    records: Records, holds: Callable[[Proposal, Verdict], bool]
) -> list[tuple[AnalysisRecord, Proposal, Verdict]]:
    """Proposals with their verdicts for which something holds."""
    return [
        (record, proposal, verdict)
        for record in records
        for proposal, verdict in zip(record.proposals, record.verdicts, strict=True)
        if holds(proposal, verdict)
    ]


def tried(
    records: Records, strategy: str | None = None, outcome: str | None = None, *, most: int = 12
) -> Want:
    """What was tried, and how it ended."""
    found = judged(
        records,
        lambda p, v: strategy in (None, p.strategy) and outcome in (None, v.outcome),
    )
    assert found
    rows = tuple({"run": r.id, "id": p.id, "outcome": v.outcome} for r, p, v in found)[:most]
    return Want(rows=rows, cited=frozenset(row["run"] for row in rows))


def measured(records: Records, proposal: Proposal, phase: str, name: str) -> Want:
    """What the gate measured before or after a change, wherever it was tried."""
    rows = []
    for record, _, verdict in judged(records, lambda p, _: p.id == proposal.id):
        numbers = {"before": verdict.before, "after": verdict.after, "bound": verdict.bounds}
        told = [
            {"phase": phase, "metric": name, "value": int(m.value) if m.n == 0 else m.value}
            for m in numbers[phase]
            if m.name == name and m.value is not None
        ]
        rows.append({"run": record.id, "id": proposal.id, "numbers": told})
    return Want(rows=tuple(rows), cited=frozenset(row["run"] for row in rows))


def found(records: Records, *codes: str, more: bool = False) -> Want:
    """Findings of these kinds."""
    hits = findings(records, *codes)
    assert hits
    rows = tuple({"run": r.id, "finding": f.id, "severity": f.severity} for r, f in hits)
    return Want(rows=rows, cited=frozenset(r.id for r, _ in hits), more=more)


def findings(records: Records, *codes: str) -> list[tuple[AnalysisRecord, Finding]]:
    """(analysis, finding), those that rest on time included."""
    return [
        (record, finding)
        for record in records
        for finding in (*record.findings, *record.timings.findings)
        if finding.code in codes or not codes
    ]


def versus(
    first: tuple[Records, int | float | str], second: tuple[Records, int | float | str]
) -> Want:
    """Two values beside each other, and the difference of numbers."""
    (left, a), (right, b) = first, second
    row: dict[str, Any] = {"both": (a, b)}
    return Want(rows=(row,), cited=cited([*left, *right]), more=True)


def place(record: AnalysisRecord, component: str, name: str) -> tuple[Records, int | float]:
    """One side of a comparison: a component."""
    found = number_of(record, component, name)
    assert found is not None
    return [record], found


def average(record: AnalysisRecord, name: str, kind: str | None) -> tuple[Records, int | float]:
    """One side of a comparison: a mean over components."""
    return [record], mean(list(table([record], name, kind).values()))


def total(record: AnalysisRecord, what: str) -> tuple[Records, int | float | str]:
    """One side of a comparison: a whole analysis."""
    parts: dict[str, Any] = {
        "parameters": record.provenance.parameters,
        "seed": record.provenance.seed,
        "objective": record.conditions.objective,
        "safety": record.conditions.safety,
        "findings": len(findings([record])),
        "heads": sum(c.kind == "head" for c in record.components),
        "accepted": len(record.accepted()),
    }
    return [record], parts[what]


def why(records: Records, *, code: str | None = None, **of: str) -> Want:
    """A finding of that code, or a verdict on that strategy with that outcome."""
    if code is not None:
        keys = {f.id for _, f in findings(records, code)}
    else:
        strategy, outcome = of.get("strategy"), of.get("outcome")
        keys = {
            p.id
            for _, p, v in judged(
                records,
                lambda p, v: strategy in (None, p.strategy) and outcome in (None, v.outcome),
            )
        }
    assert keys
    return Want(keys=frozenset(keys), cited=frozenset())


def about(records: Records, component: str) -> Want:
    """Any finding that names a component."""
    keys = {f.id for _, f in findings(records) if component in f.components}
    assert keys
    return Want(keys=frozenset(keys))
