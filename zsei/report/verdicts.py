"""Verdicts as rows: before and after, bounds against limits, what an accepted edit takes away."""

import re
from dataclasses import dataclass

from zsei.records import AnalysisRecord, Component, Measurement, Proposal, Verdict
from zsei.report.text import short

_LIMIT = re.compile(
    r"(limit|at most|at least|<=|>=|≤|≥)\s*(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)", re.IGNORECASE
)
_AT_LEAST = ("at least", ">=", "≥")


def verdict_of(record: AnalysisRecord, proposal: Proposal) -> Verdict | None:
    """The last verdict on a proposal; None when it was never tried."""
    found = [v for v in record.verdicts if v.proposal_id == proposal.id]
    return found[-1] if found else None


def in_order(record: AnalysisRecord) -> tuple[Proposal, ...]:
    """Proposals in the order in which they were tried."""
    return tuple(sorted(record.proposals, key=lambda p: p.priority))


def scope(proposal: Proposal) -> str:
    """How much a proposal touches: `101 units of 6 components`, or the one component's id."""
    named = len(proposal.components)
    parts = "the model" if not named else f"{named} components"
    if named == 1:
        parts = short(proposal.components[0], 40)
    units, groups = proposal.params.get("units"), proposal.params.get("groups")
    if isinstance(groups, list):
        # Of each group of duplicates one unit stays.
        merged = [g for own in groups if isinstance(own, list) for g in own if isinstance(g, list)]
        return f"{sum(len(group) - 1 for group in merged)} units of {parts}"
    if not isinstance(units, list):
        return parts
    count = sum(len(u) if isinstance(u, list) else 1 for u in units)
    return f"{count} units of {parts}"


def said(verdict: Verdict) -> str:
    """The reason without the outcome, which every view shows beside it."""
    return verdict.reason.removeprefix(f"{verdict.outcome}: ")


def accepted_first(record: AnalysisRecord) -> tuple[Proposal, ...]:
    """Proposals as they were tried, the accepted ones before the others."""
    accepted = {p.id for p in record.accepted()}
    return tuple(sorted(in_order(record), key=lambda p: p.id not in accepted))


@dataclass(frozen=True, kw_only=True)
class Change:
    """One quantity before and after an edit."""

    name: str
    before: Measurement | None
    after: Measurement | None

    @property
    def ratio(self) -> float | None:
        """Relative change (after - before) / before; None where it means nothing."""
        if self.before is None or self.after is None:
            return None
        if self.before.value is None or self.after.value is None or self.before.value == 0:
            return None
        return (self.after.value - self.before.value) / abs(self.before.value)


def changes(verdict: Verdict) -> tuple[Change, ...]:
    """Before and after of a verdict, joined by the measurement's name."""
    before = {m.name: m for m in verdict.before}
    after = {m.name: m for m in verdict.after}
    names = [*before, *(name for name in after if name not in before)]
    return tuple(Change(name=n, before=before.get(n), after=after.get(n)) for n in names)


@dataclass(frozen=True, kw_only=True)
class Limit:
    """A confidence bound beside the limit it was compared with."""

    bound: Measurement
    limit: float | None
    """The number that the bound's note calls its limit; None when it names none."""
    floor: bool
    """Whether the bound must stay above the limit rather than below."""
    rest: str
    """What else the note says."""

    @property
    def holds(self) -> bool | None:
        """Whether the bound lies inside; None when that cannot be read off."""
        if self.limit is None or self.bound.value is None:
            return None
        if self.floor:
            return self.bound.value >= self.limit
        return self.bound.value <= self.limit

    @property
    def pressure(self) -> float:
        """How far the bound has gone towards its limit: 1 is the limit, more is over it."""
        if not self.limit or self.bound.value is None:
            return 0.0
        return self.limit / self.bound.value if self.floor else self.bound.value / self.limit


def limits(verdict: Verdict) -> tuple[Limit, ...]:
    """Bounds of a verdict with the limits that their notes hold."""
    made: list[Limit] = []
    for bound in verdict.bounds:
        found = _LIMIT.search(bound.note)
        limit = float(found.group(2)) if found else None
        floor = found is not None and found.group(1).lower() in _AT_LEAST
        rest = bound.note.replace(found.group(), "", 1) if found else bound.note
        made.append(Limit(bound=bound, limit=limit, floor=floor, rest=rest.strip(" ;,.")))
    return tuple(made)


def removed(record: AnalysisRecord) -> frozenset[str]:
    """Ids of the components that accepted proposals take away, their parts included.

    Pruning takes away the heads it names; from what else it names, such as an MLP, it takes only
    some units. Removal takes away all it names.
    """
    heads = {c.id for c in record.components if c.kind == "head"}
    gone: set[str] = set()
    for proposal in record.accepted():
        named = set(proposal.components)
        if proposal.strategy.startswith("prune"):
            gone |= named & heads
        elif proposal.strategy.startswith("remove"):
            gone |= named
    return frozenset(_with_parts(record.components, gone))


def _with_parts(components: tuple[Component, ...], ids: set[str]) -> set[str]:
    """The ids and all that stands inside of them."""
    inside = set(ids)
    parents = {c.id: c.parent for c in components}
    for component in components:
        seen: set[str] = set()
        above = component.parent
        while above is not None and above not in seen:
            if above in ids:
                inside.add(component.id)
                break
            seen.add(above)
            above = parents.get(above)
    return inside
