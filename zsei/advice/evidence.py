"""What an agent is shown of a record: one block of JSON, delimited, and nothing but data in it.

Model names, layer names and data names are written by strangers, and so are texts of language
models. They stand in the block as JSON strings, in which no `<` can end it, and the system prompt
says that it holds no instructions.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from zsei.advice import shown
from zsei.advice.facts import ANALYSIS, MODEL, Facts
from zsei.advice.phases import PHASES, Phase
from zsei.cards import Cards, Evidence
from zsei.llm.card_request import enclosed, pages_of

_MEASUREMENTS, _PHASE, _LIST, _KNOWLEDGE = 16_000, 6_000, 12_000, 12_000
"""Characters of room for all measurements, those of a phase, a list, and knowledge cards."""
_EDGES = 30


@dataclass(frozen=True)
class _View:
    facts: Facts
    cards: Cards
    beside: str = ""
    """The other parts of the block, for the part that explains their words."""


def data_block(
    names: Sequence[Evidence], facts: Facts, cards: Cards, whole: Sequence[str] = ()
) -> str:
    """The named parts of a record between `<data>` and `</data>`.

    Args:
        names: Parts, as an agent card lists them.
        facts: The record and the candidates.
        cards: Where knowledge, metrics and strategies come from.
        whole: Knowledge cards that are given whole, as an agent card lists them.
    """
    view = _View(facts, cards)
    parts: dict[str, JsonValue] = {n: BUILDERS[n](view) for n in names if n != "metrics"}
    if "metrics" in names:
        parts["metrics"] = _metrics(_View(facts, cards, json.dumps(parts)))
    if whole:
        parts["cards"] = shown.bounded(pages_of(whole, cards), _KNOWLEDGE)
    return enclosed(parts)


def _model(view: _View) -> JsonValue:
    provenance = view.facts.record.provenance
    return {
        "name": shown.words(provenance.model),
        "class": shown.words(provenance.model_class),
        "family": shown.words(provenance.family),
        "fidelity": provenance.fidelity,
        "counts": shown.slots(MODEL, view.facts.named(MODEL).values()),
    }


def _conditions(view: _View) -> JsonValue:
    conditions = view.facts.record.conditions
    samples = {"groups", "calibration_samples", "held_out_samples", "probes", "threads"}
    return {
        **conditions.model_dump(mode="json", exclude=samples),
        "samples": shown.slots(
            ANALYSIS, [*view.facts.named(ANALYSIS).values()][: len(conditions.groups) + 10]
        ),
    }


def _components(view: _View) -> JsonValue:
    fields = {"id", "kind", "layer", "parent"}
    return shown.bounded(
        (c.model_dump(mode="json", include=fields) for c in view.facts.record.components
         if c.kind != "head"),
        _LIST,
    )  # fmt: skip


def _important_first(facts: Facts) -> Iterator[str]:
    """Component ids, those of findings and candidates first, repeated where they recur."""
    record = facts.record
    for part in (*sorted(record.findings, key=lambda f: -f.severity), *facts.candidates):
        yield from part.components
    yield from (component.id for component in record.components)


def _measurements(view: _View) -> JsonValue:
    """Everything that was measured; what is only counted stands under `costs`."""
    taken = {
        (owner, measurement.name)
        for owner, measurements in view.facts.record.measurements.items()
        for measurement in measurements
    }
    return shown.table(
        view.facts,
        _important_first(view.facts),
        lambda fact: any((owner, fact.measurement) in taken for owner in fact.components),
        _MEASUREMENTS,
    )


def _phase(name: str) -> "Callable[[_View], JsonValue]":
    """What belongs to one phase: its measurements, its matrices and its findings."""
    phase: Phase = PHASES[name]

    def build(view: _View) -> JsonValue:
        facts = view.facts
        ranked = sorted(facts.record.findings, key=lambda f: -f.severity)
        body: dict[str, JsonValue] = {
            "measurements": shown.table(
                facts,
                _important_first(facts),
                lambda fact: fact.measurement in phase.measurements,
                _PHASE,
            ),
            "findings": shown.bounded(
                (shown.finding(f, facts) for f in ranked if phase.takes(f.code)), _PHASE
            ),
        }
        if phase.matrices:
            body["matrices"] = shown.bounded(
                (shown.matrix(m, facts) for m in facts.record.matrices if m.name in phase.matrices),
                _PHASE,
            )
        return body

    return build


def _matrices(view: _View) -> JsonValue:
    return shown.bounded((shown.matrix(m, view.facts) for m in view.facts.record.matrices), _LIST)


def _edges(view: _View) -> JsonValue:
    edges = view.facts.record.edges
    listed: list[JsonValue] = [
        {
            "writer": edge.writer, "reader": edge.reader, "port": edge.port,
            "slot": f"{{{edge.writer}:edge_attribution@{edge.reader}}}",
            "value": shown.told(edge.attribution),
        }
        for edge in edges[:_EDGES]
    ]  # fmt: skip
    return {"shown": listed, "left_out": len(edges) - len(listed)}


def _flow(view: _View) -> JsonValue:
    def share(attributes: Mapping[str, float | int | str | None]) -> float:
        value = attributes.get("share")
        return value if isinstance(value, int | float) else 0.0

    edges = sorted(
        view.facts.record.flow.edges, key=lambda e: (-share(e.attributes), e.source, e.target)
    )
    listed: list[JsonValue] = [
        {
            "source": edge.source,
            "target": edge.target,
            "share": shown.told(share(edge.attributes)),
            "attribution": shown.told(edge.attributes.get("attribution")),
        }
        for edge in edges[:_EDGES]
    ]
    return {"shown": listed, "left_out": len(edges) - len(listed)}


def _groups(view: _View) -> JsonValue:
    """What was measured on each group of the data alone: `{component:name@group}` is the slot."""
    return shown.bounded(
        (
            {"group": group, "component": name,
             "values": {m.name: shown.told(m.value) for m in measurements}}
            for group, taken in view.facts.record.groups.items()
            for name, measurements in taken.items()
        ),
        _LIST,
    )  # fmt: skip


def _findings(view: _View) -> JsonValue:
    ranked = sorted(view.facts.record.findings, key=lambda f: -f.severity)
    return shown.bounded((shown.finding(finding, view.facts) for finding in ranked), _LIST)


def _validation(view: _View) -> JsonValue:
    validation = view.facts.record.validation
    known = [*view.facts.named(ANALYSIS).values()]
    ranked: list[JsonValue] = [
        {"kind": c.kind, "criterion": c.criterion, "status": c.status}
        for c in validation.criteria
    ]  # fmt: skip
    agreement = [f for f in known if f.measurement in ("kendall", "spearman", "top_hits")]
    return {
        "rankings": shown.bounded(ranked, _PHASE),
        "agreement": shown.bounded(shown.slots(ANALYSIS, agreement), _PHASE),
        "checks": shown.bounded((shown.check(check) for check in validation.checks), _PHASE),
    }


def _candidates(view: _View) -> JsonValue:
    facts = view.facts
    return shown.bounded(
        (shown.proposal(c, facts, rationale=False) for c in facts.candidates), _LIST
    )  # fmt: skip


def _proposals(view: _View) -> JsonValue:
    facts = view.facts
    return shown.bounded(
        (shown.proposal(c, facts, rationale=True) for c in facts.candidates), _LIST
    )  # fmt: skip


def _interpretations(view: _View) -> JsonValue:
    return shown.bounded((shown.saying(i) for i in view.facts.record.interpretations), _LIST)


def _objections(view: _View) -> JsonValue:
    return shown.bounded((shown.objection(o) for o in view.facts.record.objections), _PHASE)


def _verdicts(view: _View) -> JsonValue:
    return shown.bounded(
        (shown.verdict(v.proposal_id, view.facts) for v in reversed(view.facts.record.verdicts)),
        _LIST,
    )


def _rounds(view: _View) -> JsonValue:
    """What was tried in turn, the last first; its numbers stand under `verdicts`."""
    return shown.bounded(
        (
            {
                "number": turn.number, "voice": turn.voice, "gain": shown.told(turn.gain),
                "outcomes": shown.numbers({str(k): n for k, n in turn.outcomes.items()}),
                "proposals": list(turn.proposal_ids),
            }
            for turn in reversed(view.facts.record.rounds)
        ),
        _PHASE,
    )  # fmt: skip


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
    """What the measurements that are shown mean."""
    used = set(re.findall(r"[a-z][a-z0-9_]+", view.beside))
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
    "costs": _phase("costs"),
    "forward": _phase("forward"),
    "gradient": _phase("gradient"),
    "integration": _phase("integration"),
    "redundancy": _phase("redundancy"),
    "importance": _phase("importance"),
    "matrices": _matrices,
    "edges": _edges,
    "flow": _flow,
    "groups": _groups,
    "findings": _findings,
    "validation": _validation,
    "interpretations": _interpretations,
    "objections": _objections,
    "candidates": _candidates,
    "proposals": _proposals,
    "verdicts": _verdicts,
    "rounds": _rounds,
    "knowledge": _knowledge,
    "metrics": _metrics,
    "strategies": _strategies,
}
"""The parts an agent card may name under `evidence`."""
