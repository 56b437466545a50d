"""What the rules hold against findings and proposals, and what an objection does to the order.

An objection decides nothing: what it is about comes later in the order, and the gate judges it all
the same.
"""

from collections.abc import Iterable, Iterator, Sequence

from zsei.advice.facts import Facts
from zsei.advice.grounding import ground
from zsei.advice.names import Reader
from zsei.advice.order import expected, renumbered
from zsei.advice.rules import VOICE, named, slot
from zsei.advice.schemas import ObjectionKind
from zsei.cards import Cards
from zsei.records import AnalysisRecord, Finding, Objection, Proposal

AGENT = "critic"
_RANKED = {
    "prune-heads": ("head",), "prune-neurons": ("neuron",), "prune-channels": ("channel",),
    "remove-layer": ("layer",), "replace-layer": ("layer",),
}  # fmt: skip
"""Strategy -> kinds of unit whose ranking chooses what goes."""

Held = tuple[str, ObjectionKind, str, Sequence[str]]
"""About what, of which kind, in which words, at which components."""


def object_to(
    proposals: Sequence[Proposal], facts: Facts, reader: Reader, cards: Cards
) -> tuple[Objection, ...]:
    """What can be held against findings and proposals without judgement: what the record says.

    Args:
        proposals: In the order to try them.
        facts: The record, and the proposals as candidates.
        reader: Its names.
        cards: Which strategies there are.
    """
    found: dict[tuple[str, str], Objection] = {}
    held = [*_against_findings(facts)]
    for proposal in proposals:
        held += _against(proposal, facts)
    for about, kind, words, where in held:
        said = ground(words, facts, reader, subject=frozenset(where))
        if said.text:
            objection = Objection(about=about, kind=kind, agent=AGENT, voice=VOICE, text=said.text)
            found.setdefault((about, kind), objection)
    return tuple(found.values())


def objected_last(
    proposals: Iterable[Proposal], objections: Iterable[Objection]
) -> tuple[Proposal, ...]:
    """The same proposals, those without an objection first; nothing else about them changes."""
    about = {objection.about for objection in objections}
    return renumbered(sorted(proposals, key=lambda proposal: proposal.id in about))


def _against_findings(facts: Facts) -> Iterator[Held]:
    for finding in facts.findings.values():
        where = named(finding.components)
        if _refuted(finding):
            words = f"A check of the analysis contradicts that {where} show {finding.code}."
            yield finding.id, "contradicted by a check", words, finding.components
        elif any(check.outcome == "inconclusive" for check in finding.checks):
            words = f"The samples were too few to confirm {finding.code} at {where}."
            yield finding.id, "too few samples", words, finding.components


def _refuted(finding: Finding) -> bool:
    return any(check.outcome == "disagrees" for check in finding.checks)


def _against(proposal: Proposal, facts: Facts) -> Iterator[Held]:
    where = named(proposal.components)
    for name in proposal.finding_ids:
        finding = facts.findings.get(name)
        if finding is not None and _refuted(finding):
            words = f"It rests on {name}, which a check of the analysis contradicts."
            yield proposal.id, "contradicted by a check", words, proposal.components
    for kind in _RANKED.get(proposal.strategy, ()):
        if _unproven(kind, facts.record):
            words = f"No ranking of {kind}s is validated, so that the wrong ones may go."
            yield proposal.id, "not supported", words, proposal.components
    tried = _tried_before(proposal, facts)
    if tried is not None:
        words = (
            f"{proposal.strategy} at {where} was tried as {tried}, which goes no further, and the "
            "gate rejected it."
        )
        if facts.value(tried, "after_divergence") is not None:
            words += f" Its divergence was {slot(tried, 'after_divergence')}."
        yield proposal.id, "tried before", words, proposal.components
    if expected(proposal, "predicted_loss") is None:
        words = f"Nobody predicted what {proposal.strategy} at {where} costs."
        yield proposal.id, "risk", words, proposal.components


def _unproven(kind: str, record: AnalysisRecord) -> bool:
    """Whether rankings of a kind were compared with exact ablation, and none of them agrees."""
    checks = [c for c in record.validation.criteria if c.kind == kind and "(" not in c.criterion]
    return bool(checks) and all(check.status != "validated" for check in checks)


def _tried_before(proposal: Proposal, facts: Facts) -> str | None:
    """A rejected edit of the same strategy that goes no further than this one."""
    for verdict in facts.verdicts.values():
        tried = facts.proposals.get(verdict.proposal_id)
        if (
            verdict.outcome == "rejected"
            and tried is not None
            and tried.id != proposal.id
            and tried.strategy == proposal.strategy
            and set(tried.components) <= set(proposal.components)
            and _no_larger(tried, proposal)
        ):
            return tried.id
    return None


def _no_larger(tried: Proposal, proposal: Proposal) -> bool:
    """Whether one edit takes away no more than another; unknown sizes are taken for equal."""
    for size in (lambda p: expected(p, "parameters_removed"), lambda p: p.params.get("fraction")):
        first, second = size(tried), size(proposal)
        if isinstance(first, int | float) and isinstance(second, int | float):
            return first <= second
    return True
