"""The rule-based voice: what the record's numbers mean, in sentences made from knowledge cards.

It says nothing that the record does not hold, and it says that it is rules. Its sentences hold
slots and go through the same door as a language model's.
"""

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from zsei.advice.facts import ANALYSIS, MODEL, Fact, Facts, several, slug
from zsei.advice.grounding import ground
from zsei.advice.names import Reader, quoted
from zsei.advice.pairs import EDGE
from zsei.advice.wording import listed
from zsei.cards import Cards
from zsei.records import (
    Check,
    Claim,
    CriterionCheck,
    Finding,
    Interpretation,
    digest,
)

VOICE = "rules"
_PER_CODE = 3
"""Findings of one code that are worded; the most severe ones."""
_EVIDENCE = 4
"""Numbers per finding and component."""
_NAMED = 3
"""Components that are named; the rest are "others"."""
_EDGES = 3
_WASTE = ("dead-units", "low-effect", "saturated-units", "useless-skip", "unread-branch")


@dataclass(frozen=True, kw_only=True)
class Topic:
    """What one interpretation of the rules is about."""

    name: str
    agent: str
    """The agent whose words stand in its place; "" where the rules always speak."""
    takes: Callable[[str], bool] = lambda code: False
    """Whether findings of a code belong to it; the first topic that takes them has them."""


TOPICS = (
    Topic(name="architecture", agent="architecture"),
    Topic(name="integration", agent="integration", takes=lambda code: code in _INTEGRATION),
    Topic(name="bottlenecks", agent="flow", takes=lambda code: code.endswith("-bottleneck")),
    Topic(name="redundancy", agent="redundancy",
          takes=lambda code: "redundan" in code or code in _WASTE),
    Topic(name="critical-paths", agent="flow",
          takes=lambda code: code.startswith("critical-path-")),
    Topic(name="gradients", agent="gradients", takes=lambda code: code.startswith("gradient-")),
    Topic(name="further", agent="", takes=lambda code: True),
    Topic(name="trust", agent=""),
)  # fmt: skip
_INTEGRATION = ("interaction-bottleneck", "shared-module")


def explain(
    facts: Facts, reader: Reader, cards: Cards, spoken: Container[str] = ()
) -> tuple[Interpretation, ...]:
    """One interpretation per topic the record has something on.

    Args:
        facts: The record.
        reader: Its names.
        cards: Knowledge about finding codes, and titles of measurements.
        spoken: Agents that have spoken; their topics are left to them.
    """
    topics: dict[str, list[Finding]] = {topic.name: [] for topic in TOPICS}
    for finding in facts.record.findings:
        topics[next(topic.name for topic in TOPICS if topic.takes(finding.code))].append(finding)
    told: list[Interpretation] = []
    for topic in TOPICS:
        if topic.agent and topic.agent in spoken:
            continue
        findings = topics[topic.name]
        sentences = [
            *_FIRST.get(topic.name, _nothing)(facts, cards),
            *_about(findings, facts, cards),
        ]
        if sentences:
            ids = [finding.id for finding in findings]
            grounded = ground("\n".join(sentences), facts, reader)
            told.append(
                written(topic.name, grounded.text, grounded.claims, grounded.struck, ids, VOICE)
            )
    return tuple(told)


def written(
    agent: str, text: str, claims: Iterable[Claim], struck: int, findings: Sequence[str], voice: str
) -> Interpretation:
    """An interpretation whose id is the hash of its content."""
    body = {"agent": agent, "voice": voice, "text": text, "findings": list(findings)}
    return Interpretation(
        id=f"i-{digest(body)}",
        agent=agent,
        voice=voice,
        finding_ids=tuple(findings),
        text=text,
        claims=tuple(claims),
        struck=struck,
    )


def slot(owner: str, name: str) -> str:
    """What the program fills with that number."""
    return f"{{{owner}:{name}}}"


def titled(owner: str, facts: Iterable[Fact], cards: Cards) -> str:
    """Several numbers in a row: `share of the operations {...}, arithmetic intensity {...}`."""
    return ", ".join(f"{_title(fact, cards)} {slot(owner, fact.name)}" for fact in facts)


def named(components: Sequence[str]) -> str:
    """The first few ids: `a, b, c and others`."""
    shown = [quoted(name) for name in components[:_NAMED]]
    if len(components) > _NAMED:
        return f"{', '.join(shown)} and others"
    return listed(shown)


def _title(fact: Fact, cards: Cards) -> str:
    metric = cards.metrics.get(fact.measurement)
    return metric.title if metric else fact.measurement.replace("_", " ")


def _architecture(facts: Facts, cards: Cards) -> Iterator[str]:
    record = facts.record
    kinds = {kind for kind in ("layer", "head") if any(c.kind == kind for c in record.components)}
    parts = [
        f"{slot(MODEL, several(kind))} {several(kind)}" for kind in sorted(kinds, reverse=True)
    ]
    has = f", with {listed(parts)}" if parts else ""
    yield (
        "Rules wrote this, no language model. "
        f"The model has {slot(MODEL, 'parameters')} parameters{has}."
    )
    yield (
        f"It was analysed on {slot(ANALYSIS, 'calibration_samples')} calibration samples; whether "
        f"an edit is acceptable is judged on {slot(ANALYSIS, 'held_out_samples')} held-out samples."
    )
    if record.provenance.fidelity == "modules":
        yield "The model could not be exported as a program, so the analysis is coarser."
    for kind in ("attention", "mlp", "experts", "conv", "linear", "recurrent"):
        yield from _outstanding(facts, kind)
    yield from _most_important(facts)


def _outstanding(facts: Facts, kind: str) -> Iterator[str]:
    """The part of a kind that computes most, where one does."""
    shares = {
        c.id: share
        for c in facts.components.values()
        if c.kind == kind and (share := facts.value(c.id, "flops_share"))
    }
    first = [name for name, share in shares.items() if share == max(shares.values())]
    if len(shares) > 1 and len(first) == 1:
        share = slot(first[0], "flops_share")
        yield f"Of its kind, {quoted(first[0])} has the largest share of the operations: {share}."


def _most_important(facts: Facts) -> Iterator[str]:
    """Which units of each ranked kind come first, with the effect of removing them."""
    for ranking in facts.record.validation.rankings:
        told = []
        for name in ranking.components[:_NAMED]:
            known = facts.named(name)
            effect = known.get("ablation_effect") or known.get("sensitivity")
            if effect is not None and effect.value is not None:
                what = effect.name.replace("_", " ").replace("sens", "output sens")
                told.append(f"{quoted(name)} with {what} {slot(name, effect.name)}")
        if told:
            criterion = ranking.criterion.replace("_", " ")
            yield (
                f"In the ranking by {criterion}, these {several(ranking.kind)} come first: "
                f"{listed(told)}."
            )


def _integration(facts: Facts, cards: Cards) -> Iterator[str]:
    """What the writers of the stream give its readers."""
    if facts.record.edges:
        yield "What parts of the model hand each other, as far as the output hangs on it:"
    for edge in facts.record.edges[:_EDGES]:
        name = f"{EDGE}@{edge.reader}"
        fact = facts.find(edge.writer, name)
        if fact is not None:
            given = titled(edge.writer, [fact], cards)
            yield f"From {quoted(edge.writer)} into {quoted(edge.reader)}: {given}."


def _about(findings: Sequence[Finding], facts: Facts, cards: Cards) -> Iterator[str]:
    """What each code means, once, and the numbers of its most severe findings."""
    codes = dict.fromkeys(finding.code for finding in findings)
    for code in codes:
        card = cards.knowledge.get(code)
        if card is not None:
            yield card.meaning
        ranked = sorted((f for f in findings if f.code == code), key=lambda f: -f.severity)
        for finding in ranked[:_PER_CODE]:
            yield from _worded(finding, facts, cards)


def _worded(finding: Finding, facts: Facts, cards: Cards) -> Iterator[str]:
    """A finding's evidence, at the component it was measured at or at all of them."""
    evidence = [*facts.named(finding.id).values()][2 : 2 + len(finding.evidence)]
    parts: dict[frozenset[str], list[Fact]] = {}
    for fact in evidence:
        parts.setdefault(fact.components, []).append(fact)
    joined = frozenset(finding.components)
    together = parts.pop(joined, [])
    for where, measured in [*parts.items()][:_PER_CODE]:
        yield f"{named(sorted(where))}: {titled(finding.id, measured[:_EVIDENCE], cards)}."
    if together:
        numbers = titled(finding.id, together[:_EVIDENCE], cards)
        yield f"{named(finding.components)}: {numbers}."
    if not finding.evidence:
        yield f"This concerns {named(finding.components)}."
    for check in finding.checks:
        if check.outcome == "disagrees":
            yield f"Tested by {_done(check)}, this does not hold up."


_VERDICTS = {
    "validated": "agree with exact ablation and are validated",
    "not validated": "stray from exact ablation and are not validated",
    "could not tell": "could not be compared with exact ablation",
}


_OUTCOMES = {
    "disagrees": "this does not hold up",
    "inconclusive": "this could not be told",
    "agrees": "this holds up",
}


def _trust(facts: Facts, cards: Cards) -> Iterator[str]:
    """Whether the rankings may be believed."""
    record = facts.record
    # What stands in parentheses is a baseline to compare with, no criterion.
    checks = [check for check in record.validation.criteria if "(" not in check.criterion]
    if not checks:
        yield "No ranking was compared with exact ablation, so none is validated."
    for kind in dict.fromkeys(check.kind for check in checks):
        for status, outcome in _VERDICTS.items():
            of_kind = [c for c in checks if c.kind == kind and c.status == status]
            if of_kind:
                told = listed([_agreement(check) for check in of_kind])
                yield f"For {several(kind)}, these rankings {outcome}: {told}."
    for outcome, ended in _OUTCOMES.items():
        told = [f"{check.about or 'the analysis'} by {_done(check)}"
                for check in record.validation.checks if check.outcome == outcome]  # fmt: skip
        if told:
            yield f"The analysis tested itself, and {ended}: {listed(told)}."


def _agreement(check: CriterionCheck) -> str:
    """A criterion with its correlations: `output sensitivity (Kendall {...}, Spearman {...})`."""
    prefix = slug(f"{check.kind} {check.criterion}")
    figures = {"Kendall": check.kendall, "Spearman": check.spearman}
    told = [f"{name} {slot(ANALYSIS, f'{prefix}_{name.lower()}')}"
            for name, figure in figures.items() if figure is not None]  # fmt: skip
    shown = f" ({', '.join(told)})" if told else ""
    return f"{check.criterion.replace('_', ' ')}{shown}"


def _done(check: Check) -> str:
    """What a check did, without words that read as numbers."""
    return check.name.replace("half", "split").replace("-", " ")


def _nothing(facts: Facts, cards: Cards) -> Iterator[str]:
    yield from ()


_FIRST: dict[str, Callable[[Facts, Cards], Iterator[str]]] = {
    "architecture": _architecture,
    "integration": _integration,
    "trust": _trust,
}
"""What a topic says before it comes to findings."""
