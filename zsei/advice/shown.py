"""How parts of a record are shown to an agent: values beside the names of their slots, bounded.

Every list has the form `{"shown": ..., "left_out": n}`: what did not fit is counted.
"""

import json
from collections.abc import Callable, Iterable, Mapping

from pydantic import JsonValue

from zsei.advice.facts import Fact, Facts
from zsei.records import Check, Finding, Interpretation, Matrix, Objection, Proposal

LISTED = 12
"""Components of a finding or candidate that are named; the rest is counted."""
_WORDS = 600
"""Characters of a message that are shown."""
_CELLS = 5
"""Entries of a matrix that are shown: the largest ones."""


def bounded(items: Iterable[JsonValue], characters: int) -> JsonValue:
    """The first items that fit into so many characters, and how many were left out."""
    shown: list[JsonValue] = []
    left_out = 0
    for item in items:
        characters -= len(json.dumps(item))
        if characters > 0:
            shown.append(item)
        else:
            left_out += 1
    return {"shown": shown, "left_out": left_out}


def table(
    facts: Facts, order: Iterable[str], wanted: Callable[[Fact], bool], characters: int
) -> JsonValue:
    """Component -> name -> value, for the facts that are wanted: `{component:name}` is the slot."""
    shown: dict[str, JsonValue] = {}
    left_out = 0
    for name in dict.fromkeys(order):
        values: dict[str, JsonValue] = {
            fact.name: told(fact.value) for fact in facts.named(name).values() if wanted(fact)
        }
        if not values:
            continue
        characters -= len(json.dumps(values)) + len(name)
        if characters > 0:
            shown[name] = values
        else:
            left_out += 1
    return {"shown": shown, "left_out": left_out}


def slots(owner: str, facts: Iterable[Fact]) -> list[JsonValue]:
    """Facts with the slots that call for them."""
    return [
        {
            "slot": f"{{{owner}:{fact.name}}}", "value": told(fact.value), "unit": fact.unit,
            "note": words(fact.note),
        }
        for fact in facts
    ]  # fmt: skip


def finding(found: Finding, facts: Facts) -> JsonValue:
    """A finding with its evidence, and what its checks said."""
    return {
        "id": found.id,
        "code": found.code,
        "components": list(found.components[:LISTED]),
        "components_in_all": len(found.components),
        "message": words(found.message),
        "evidence": slots(found.id, facts.named(found.id).values()),
        "checks": [check(one) for one in found.checks],
    }


def check(one: Check) -> JsonValue:
    """What a check did and how it ended; its numbers stand with what it tested."""
    return {
        "about": one.about, "name": one.name, "outcome": one.outcome, "message": words(one.message)
    }  # fmt: skip


def proposal(one: Proposal, facts: Facts, *, rationale: bool) -> JsonValue:
    """A proposal with what it promises."""
    body: dict[str, JsonValue] = {
        "id": one.id,
        "strategy": one.strategy,
        "components": list(one.components[:LISTED]),
        "components_in_all": len(one.components),
        "finding_ids": list(one.finding_ids),
        "expected": slots(one.id, facts.named(one.id).values()),
    }
    return {**body, "rationale": words(one.rationale), "source": one.source} if rationale else body


def verdict(proposal_id: str, facts: Facts) -> JsonValue:
    """A proposal that was tried, how it ended, and what was measured then."""
    tried, ended = facts.proposals.get(proposal_id), facts.verdicts[proposal_id]
    return {
        "id": proposal_id,
        "strategy": tried.strategy if tried else None,
        "components": list(tried.components[:LISTED]) if tried else [],
        "outcome": ended.outcome,
        "reason": words(ended.reason),
        "measured": slots(proposal_id, facts.named(proposal_id).values()) if tried else [],
    }


def matrix(one: Matrix, facts: Facts) -> JsonValue:
    """A matrix by its largest entries between two components, with their slots."""
    cells = [
        (abs(number), row, column, number)
        for row, numbers in zip(one.rows, one.values, strict=True)
        for column, number in zip(one.columns, numbers, strict=True)
        if number is not None and row != column and row in facts.components
    ]
    symmetric = one.rows == one.columns
    largest: dict[frozenset[str] | tuple[str, str], JsonValue] = {}
    for _, row, column, number in sorted(cells, key=lambda cell: (-cell[0], cell[1], cell[2])):
        pair = frozenset((row, column)) if symmetric else (row, column)
        if len(largest) >= _CELLS:
            break
        largest.setdefault(
            pair, {"slot": f"{{{row}:{one.name}@{column}}}", "value": told(number)}
        )  # fmt: skip
    return {
        "name": one.name, "title": words(one.title), "rows": len(one.rows),
        "columns": len(one.columns), "largest": [*largest.values()],
    }  # fmt: skip


def saying(said: Interpretation) -> JsonValue:
    """What an agent said, with its numbers filled in."""
    return {
        "id": said.id, "agent": said.agent, "voice": said.voice, "struck": said.struck,
        "finding_ids": list(said.finding_ids), "text": said.text,
    }  # fmt: skip


def objection(held: Objection) -> JsonValue:
    """What was held against something."""
    return {"about": held.about, "kind": held.kind, "text": held.text}


def told(value: float | int | str | None) -> JsonValue:
    """Four significant digits for what is measured, all of them for what is counted."""
    if value is None:
        return "could not tell"
    if isinstance(value, float):
        return int(value) if value == int(value) else float(f"{value:.4g}")
    return value


def words(text: str) -> str:
    """A text of somebody else's, cut to length."""
    return text if len(text) <= _WORDS else f"{text[:_WORDS]}…"


def numbers(values: Mapping[str, float | int | str | None]) -> JsonValue:
    """Attributes with short numbers."""
    return {name: told(value) for name, value in values.items()}
