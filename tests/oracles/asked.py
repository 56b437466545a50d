"""Answers to questions about analyses, read off the records by plain loops: slow and obvious."""

from collections.abc import Sequence
from fractions import Fraction

from zsei.records import AnalysisRecord, Finding


def value(record: AnalysisRecord, component: str, name: str) -> float | None:
    """The first measurement of that name."""
    for measurement in record.measurements.get(component, ()):
        if measurement.name == name:
            return measurement.value
    return None


def values(
    records: Sequence[AnalysisRecord], name: str, kind: str | None = None
) -> dict[tuple[str, str], float]:
    """(run, component) -> value, over all components of a kind."""
    found = {}
    for record in records:
        for component in record.components:
            if kind is None or component.kind == kind:
                measured = value(record, component.id, name)
                if measured is not None:
                    found[record.id, component.id] = measured
    return found


def mean(numbers: Sequence[float]) -> float:
    """Exact rational arithmetic, rounded once."""
    return float(sum((Fraction(number) for number in numbers), Fraction()) / len(numbers))


def findings(records: Sequence[AnalysisRecord], *codes: str) -> list[tuple[str, Finding]]:
    """(run, finding) of all findings with one of the codes."""
    return [
        (record.id, finding)
        for record in records
        for finding in (*record.findings, *record.timings.findings)
        if finding.code in codes
    ]
