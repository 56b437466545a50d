"""What is different between two analyses: model, conditions, numbers, findings, verdicts."""

import json
import math
from collections.abc import Iterator
from statistics import NormalDist
from typing import Any, Literal

from zsei.records import AnalysisRecord, Finding, Measurement, Outcome, Record

_RISK = 0.05
"""Chance that any number at all is called moved where nothing moved."""


class Condition(Record):
    """A choice that was not the same; each may move numbers by itself."""

    name: str
    first: str
    second: str


class Moved(Record):
    """One number in both analyses."""

    component: str
    name: str
    unit: str
    first: float
    second: float
    difference: float
    """second - first."""
    z: float | None
    """|difference| over its standard error sqrt(s1²/n1 + s2²/n2); None where it has none."""


class FindingHere(Record):
    """A finding that only one of the analyses has."""

    code: str
    components: tuple[str, ...]
    severity: float
    message: str


class VerdictHere(Record):
    """A proposal that did not end alike; None where it was not judged."""

    proposal: str
    strategy: str
    components: tuple[str, ...]
    first: Outcome | None
    second: Outcome | None
    reason: str
    """Of the second, or of the first where there is no second."""


class Differences(Record):
    """Two analyses side by side; "first" and "second" are as they were named."""

    first: str
    second: str
    models: tuple[str, str]
    model: Literal["same weights", "same name, other weights", "another model"]
    conditions: tuple[Condition, ...]
    only_first: tuple[str, ...]
    """Components of the first alone."""
    only_second: tuple[str, ...]
    compared: int
    """Numbers that both have, with a spread on both sides."""
    limit: float
    """The z above which a number is called moved: 5 % over all `compared` (Bonferroni)."""
    moved: tuple[Moved, ...]
    """Beyond their spread, the farthest first."""
    counted: tuple[Moved, ...]
    """Numbers that no sampling can move (counted, or the same on all inputs) and are not equal."""
    untold: tuple[Moved, ...]
    """Sampled, not equal, and without a spread on one side: nothing says whether they moved."""
    came: tuple[FindingHere, ...]
    went: tuple[FindingHere, ...]
    stayed: int
    verdicts: tuple[VerdictHere, ...]


def differences(first: AnalysisRecord, second: AnalysisRecord) -> Differences:
    """Compare two analyses.

    Findings are the same when code and components are. Times are left out: they differ always.

    It misleads where both took the same samples: their errors then go together, and what really
    moved a little may stay under the limit. Two analyses of one model under the same conditions
    and seed are equal to the bit, so there any difference at all is one.
    """
    ours, theirs = first.provenance, second.provenance
    spread, counted, untold = list[Moved](), list[Moved](), list[Moved]()
    for moved, sampled in _numbers(first, second):
        if moved.z is not None:
            spread.append(moved)
        elif moved.difference:
            (untold if sampled else counted).append(moved)
    limit = NormalDist().inv_cdf(1 - _RISK / 2 / max(1, len(spread)))
    beyond = [each for each in spread if each.z is not None and each.z > limit]
    beyond.sort(key=lambda each: (-(each.z or 0.0), each.component, each.name))
    came, went = _findings(second, first), _findings(first, second)
    held = {component.id for component in first.components}
    other = {component.id for component in second.components}
    return Differences(
        first=first.id,
        second=second.id,
        models=(ours.model, theirs.model),
        model="same weights"
        if ours.model_hash == theirs.model_hash
        else ("same name, other weights" if ours.model == theirs.model else "another model"),
        conditions=tuple(_conditions(first, second)),
        only_first=tuple(sorted(held - other)),
        only_second=tuple(sorted(other - held)),
        compared=len(spread),
        limit=limit,
        moved=tuple(beyond),
        counted=tuple(counted),
        untold=tuple(untold),
        came=came,
        went=went,
        stayed=len({_key(f) for f in first.findings} & {_key(f) for f in second.findings}),
        verdicts=tuple(_verdicts(first, second)),
    )


def _numbers(first: AnalysisRecord, second: AnalysisRecord) -> Iterator[tuple[Moved, bool]]:
    """Every number that both measured on one component, and whether it was sampled."""
    both = {c.id for c in first.components} & {c.id for c in second.components}
    for component in sorted(both):
        ours, theirs = _of(first, component), _of(second, component)
        for name in sorted(ours.keys() & theirs.keys()):
            one, two = ours[name], theirs[name]
            if one.value is None or two.value is None:
                continue
            z = _z(one, two, two.value - one.value)
            yield (
                Moved(
                    component=component,
                    name=name,
                    unit=two.unit,
                    first=one.value,
                    second=two.value,
                    difference=two.value - one.value,
                    z=z,
                ),
                bool(one.n or two.n) and not one.std == two.std == 0,
            )


def _of(record: AnalysisRecord, component: str) -> dict[str, Measurement]:
    numbers = record.measurements.get(component, ())
    return {m.name: m for m in reversed(numbers)}  # the first of a name stands


def _z(one: Measurement, two: Measurement, difference: float) -> float | None:
    if one.std is None or two.std is None or min(one.n, two.n) < 2:
        return None
    error = math.sqrt(one.std**2 / one.n + two.std**2 / two.n)
    return abs(difference) / error if error else None  # constant on both sides: as if counted


def _key(finding: Finding) -> tuple[str, tuple[str, ...]]:
    return finding.code, tuple(sorted(finding.components))


def _findings(having: AnalysisRecord, lacking: AnalysisRecord) -> tuple[FindingHere, ...]:
    known = {_key(finding) for finding in lacking.findings}
    return tuple(
        FindingHere(code=f.code, components=f.components, severity=f.severity, message=f.message)
        for f in sorted(having.findings, key=lambda f: (-f.severity, f.code, f.components))
        if _key(f) not in known
    )


def _verdicts(first: AnalysisRecord, second: AnalysisRecord) -> Iterator[VerdictHere]:
    proposals = {p.id: p for record in (second, first) for p in record.proposals}
    ours, theirs = ({v.proposal_id: v for v in r.verdicts} for r in (first, second))
    for name in sorted(proposals, key=lambda name: (proposals[name].priority, name)):
        one, two = ours.get(name), theirs.get(name)
        outcomes = one.outcome if one else None, two.outcome if two else None
        if outcomes[0] != outcomes[1]:
            told = two or one
            yield VerdictHere(
                proposal=name,
                strategy=proposals[name].strategy,
                components=proposals[name].components,
                first=outcomes[0],
                second=outcomes[1],
                reason=told.reason if told else "",
            )


def _conditions(first: AnalysisRecord, second: AnalysisRecord) -> Iterator[Condition]:
    ours, theirs = _choices(first), _choices(second)
    for name in sorted(ours.keys() | theirs.keys()):
        told = [
            json.dumps(each.get(name), sort_keys=True, ensure_ascii=False).strip('"')
            for each in (ours, theirs)
        ]
        if told[0] != told[1]:
            yield Condition(name=name, first=told[0], second=told[1])


def _choices(record: AnalysisRecord) -> dict[str, Any]:
    provenance = record.provenance.model_dump(mode="json")
    chosen = {name: provenance[name] for name in ("seed", "dtype", "device", "llm", "fidelity")}
    versions = {f"version of {name}": told for name, told in provenance["versions"].items()}
    return chosen | versions | {"zsei": provenance["zsei"]} | record.conditions.model_dump(mode="json")  # fmt: skip  # noqa: E501
