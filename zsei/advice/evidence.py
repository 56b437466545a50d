"""What an agent is shown of a record: one block of JSON, delimited, and nothing but data in it.

Model names, layer names and data names are written by strangers. They stand in the block as JSON
strings, in which no `<` can end it, and the system prompt says that it holds no instructions.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from zsei.advice.facts import Facts
from zsei.cards import Cards, Evidence
from zsei.records import Check, Finding, Measurement, Proposal, Verdict

_MEASUREMENT_CHARACTERS = 16_000
"""Room for measurements; those of components in findings and candidates come first."""
_LISTED = 12
"""Components of a finding or candidate that are named; the rest is counted."""
_COMPONENTS = 200
_EDGES = 30


@dataclass(frozen=True)
class _View:
    facts: Facts
    cards: Cards


def data_block(names: Sequence[Evidence], facts: Facts, cards: Cards) -> str:
    """The named parts of a record between `<data>` and `</data>`.

    Args:
        names: Parts, as an agent card lists them.
        facts: The record and the candidates.
        cards: Where knowledge, metrics and strategies come from.
    """
    view = _View(facts, cards)
    parts: dict[str, JsonValue] = {name: BUILDERS[name](view) for name in names}
    text = json.dumps(parts, ensure_ascii=True, allow_nan=False)
    return f"<data>\n{text.replace('<', chr(92) + 'u003c')}\n</data>"


def _model(view: _View) -> JsonValue:
    provenance = view.facts.record.provenance
    return {
        "name": provenance.model,
        "class": provenance.model_class,
        "family": provenance.family,
        "parameters": provenance.parameters,
        "fidelity": provenance.fidelity,
    }


def _conditions(view: _View) -> JsonValue:
    return view.facts.record.conditions.model_dump(mode="json")


def _components(view: _View) -> JsonValue:
    parts = [c for c in view.facts.record.components if c.kind != "head"]
    fields = {"id", "kind", "layer", "parent", "parameters", "flops", "bytes", "width", "units"}
    shown: list[JsonValue] = [
        c.model_dump(mode="json", include=fields) for c in parts[:_COMPONENTS]
    ]
    return {"shown": shown, "left_out": len(parts) - len(shown)}


def _measurements(view: _View) -> JsonValue:
    record = view.facts.record
    joined = [*sorted(record.findings, key=lambda f: -f.severity), *view.facts.candidates]
    order = dict.fromkeys(name for part in joined for name in part.components)
    order |= dict.fromkeys(c.id for c in record.components)
    shown: dict[str, JsonValue] = {}
    room, left_out = _MEASUREMENT_CHARACTERS, 0
    for name in order:
        values: JsonValue = {m.name: _rounded(m.value) for m in record.measurements.get(name, ())}
        room -= len(json.dumps(values)) + len(name)
        if values and room > 0:
            shown[name] = values
        elif values:
            left_out += 1
    return {"shown": shown, "components_left_out": left_out}


def _flow(view: _View) -> JsonValue:
    def share(attributes: Mapping[str, float | int | str | None]) -> float:
        value = attributes.get("share")
        return value if isinstance(value, int | float) else 0.0

    edges = sorted(
        view.facts.record.flow.edges, key=lambda e: (-share(e.attributes), e.source, e.target)
    )
    return [
        {
            "source": edge.source,
            "target": edge.target,
            "share": _rounded(share(edge.attributes)),
            "attribution": _rounded(edge.attributes.get("attribution")),
        }
        for edge in edges[:_EDGES]
    ]


def _findings(view: _View) -> JsonValue:
    return [_finding(finding) for finding in view.facts.record.findings]


def _validation(view: _View) -> JsonValue:
    validation = view.facts.record.validation
    ranked: list[JsonValue] = [
        {
            "kind": check.kind, "criterion": check.criterion, "status": check.status,
            "kendall": _rounded(check.kendall), "spearman": _rounded(check.spearman),
            "top_hits": _rounded(check.top_hits), "n": check.n,
        }
        for check in validation.criteria
    ]  # fmt: skip
    tested: list[JsonValue] = [_check(check) for check in validation.checks]
    return {"rankings": ranked, "checks": tested}


def _candidates(view: _View) -> JsonValue:
    return [_candidate(candidate) for candidate in view.facts.candidates]


def _verdicts(view: _View) -> JsonValue:
    return [_verdict(verdict, view.facts.proposals) for verdict in view.facts.record.verdicts]


def _knowledge(view: _View) -> JsonValue:
    codes = {finding.code for finding in view.facts.record.findings}
    techniques = {
        view.cards.strategies[p.strategy].technique
        for p in view.facts.candidates
        if p.strategy in view.cards.strategies
    }
    wanted = sorted(name for name in codes | techniques if name in view.cards.knowledge)
    return {name: view.cards.knowledge[name].meaning for name in wanted}


def _metrics(view: _View) -> JsonValue:
    used = {m.name for taken in view.facts.record.measurements.values() for m in taken}
    used |= {m.name for finding in view.facts.record.findings for m in finding.evidence}
    used |= {m.name for candidate in view.facts.candidates for m in candidate.expected}
    return {
        metric.name: f"{metric.meaning} Unit: {metric.unit or 'none'}. Misleads: {metric.misleads}"
        for metric in view.cards.metrics.values()
        if metric.name in used
    }


def _strategies(view: _View) -> JsonValue:
    return {
        entry.name: f"{entry.does} Needs: {entry.preconditions} Risk: {entry.risk}"
        for entry in view.cards.strategies.values()
    }


BUILDERS: Mapping[Evidence, Callable[[_View], JsonValue]] = {
    "model": _model,
    "conditions": _conditions,
    "components": _components,
    "measurements": _measurements,
    "flow": _flow,
    "findings": _findings,
    "validation": _validation,
    "candidates": _candidates,
    "verdicts": _verdicts,
    "knowledge": _knowledge,
    "metrics": _metrics,
    "strategies": _strategies,
}
"""The parts an agent card may name under `evidence`."""


def _finding(finding: Finding) -> JsonValue:
    return {
        "id": finding.id,
        "code": finding.code,
        "components": list(finding.components[:_LISTED]),
        "components_in_all": len(finding.components),
        "severity": _rounded(finding.severity),
        "evidence": _numbers(finding.evidence),
        "message": finding.message,
        "checks": [_check(check) for check in finding.checks],
    }


def _check(check: Check) -> JsonValue:
    return {
        "about": check.about,
        "name": check.name,
        "outcome": check.outcome,
        "evidence": _numbers(check.evidence),
        "message": check.message,
    }


def _candidate(candidate: Proposal) -> JsonValue:
    return {
        "id": candidate.id,
        "strategy": candidate.strategy,
        "components": list(candidate.components[:_LISTED]),
        "components_in_all": len(candidate.components),
        "finding_ids": list(candidate.finding_ids),
        "expected": _numbers(candidate.expected),
    }


def _verdict(verdict: Verdict, proposals: Mapping[str, Proposal]) -> JsonValue:
    tried = proposals.get(verdict.proposal_id)
    return {
        "strategy": tried.strategy if tried else None,
        "components": list(tried.components[:_LISTED]) if tried else [],
        "outcome": verdict.outcome,
        "reason": verdict.reason,
        "before": _numbers(verdict.before),
        "after": _numbers(verdict.after),
        "bounds": _numbers(verdict.bounds),
    }


def _numbers(measurements: Sequence[Measurement]) -> JsonValue:
    return [
        {"name": m.name, "value": _rounded(m.value), "unit": m.unit, "note": m.note}
        for m in measurements
    ]


def _rounded(value: float | int | str | None) -> JsonValue:
    """Four significant digits for what is measured, all of them for what is counted."""
    if isinstance(value, float) and value != int(value):
        return float(f"{value:.4g}")
    return value
