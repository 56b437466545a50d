"""The rule-based voice: what the record's numbers mean, in sentences made from knowledge cards.

It says nothing that the record does not hold, and it says that it is rules. Its sentences go
through the same check as a language model's.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from zsei.advice.facts import Facts
from zsei.advice.grounding import ground
from zsei.advice.names import Reader
from zsei.advice.wording import component, components, listed, numbers, stated, value
from zsei.cards import Cards
from zsei.records import AnalysisRecord, Check, Finding, Interpretation, Measurement, digest

VOICE = "rules"
_PER_CODE = 3
"""Findings of one code that are worded; the most severe ones."""
_EVIDENCE = 4
"""Numbers per finding and component."""
_WASTE = ("dead-units", "low-effect", "saturated-units", "useless-skip", "unread-branch")
_TOPICS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("bottlenecks", lambda code: code.endswith("-bottleneck")),
    ("redundancy", lambda code: "redundan" in code or code in _WASTE),
    ("critical-paths", lambda code: code.startswith("critical-path-")),
    ("gradients", lambda code: code.startswith("gradient-")),
    ("further", lambda code: True),
)  # fmt: skip
"""Topic of an interpretation -> the finding codes it speaks about; the first that fits."""


def explain(facts: Facts, reader: Reader, cards: Cards) -> tuple[Interpretation, ...]:
    """One interpretation per topic the record has something on.

    Args:
        facts: The record.
        reader: Its names.
        cards: Knowledge about finding codes.
    """
    topics: dict[str, list[Finding]] = {name: [] for name, _ in _TOPICS}
    for finding in facts.record.findings:
        topics[next(name for name, fits in _TOPICS if fits(finding.code))].append(finding)
    found = [_checked("architecture", _architecture(facts.record), (), facts, reader)]
    found += [
        _checked(topic, _about(findings, cards), findings, facts, reader)
        for topic, findings in topics.items()
        if findings
    ]
    found.append(_checked("trust", _trust(facts.record), (), facts, reader))
    return tuple(found)


def written(
    agent: str, text: str, claims: Iterable, struck: int, findings: Sequence[str], voice: str
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


def _checked(
    topic: str, sentences: Iterable[str], findings: Sequence[Finding], facts: Facts, reader: Reader
) -> Interpretation:
    ids = [finding.id for finding in findings]
    grounded = ground("\n".join(sentences), facts, reader, findings=ids)
    return written(topic, grounded.text, grounded.claims, grounded.struck, ids, VOICE)


def _architecture(record: AnalysisRecord) -> Iterator[str]:
    provenance, conditions = record.provenance, record.conditions
    kinds = [("layer", "layers"), ("head", "heads")]
    counted = [(sum(c.kind == kind for c in record.components), kind, several)
               for kind, several in kinds]  # fmt: skip
    parts = [f"{n:,} {kind if n == 1 else several}" for n, kind, several in counted if n]
    has = f", with {listed(parts)}" if parts else ""
    yield (
        "Rules wrote this, no language model. "
        f"The model has {provenance.parameters:,} parameters{has}."
    )
    yield (
        f"It was analysed on {conditions.calibration_samples:,} calibration samples; whether an "
        f"edit is acceptable is judged on {conditions.held_out_samples:,} held-out samples."
    )
    if provenance.fidelity == "modules":
        yield "The model could not be exported as one program, so the analysis is coarser."
    for kind in ("attention", "mlp", "experts", "conv", "linear", "recurrent"):
        yield from _outstanding(record, kind)
    yield from _most_important(record)


def _outstanding(record: AnalysisRecord, kind: str) -> Iterator[str]:
    """The part of a kind that computes most, where one does."""
    shares = {
        c.id: found
        for c in record.components
        if c.kind == kind and (found := record.measured(c.id, "flops_share")) and found.value
    }
    largest = max((found.value or 0 for found in shares.values()), default=0.0)
    first = [name for name, found in shares.items() if found.value == largest]
    if len(shares) > 1 and len(first) == 1:
        share = shares[first[0]]
        yield f"Of its kind, {component(first[0])} has the largest {stated(share)}."


def _most_important(record: AnalysisRecord) -> Iterator[str]:
    """Which units of each ranked kind matter most, with the effect of removing them."""
    for ranking in record.validation.rankings:
        told = []
        for name in ranking.components[:3]:
            effect = record.measured(name, "ablation_effect") or record.measured(
                name, "sensitivity"
            )
            if effect is not None and effect.value is not None:
                told.append(f"{component(name)} with {stated(effect)}")
        if told:
            yield f"Most hangs on these {_several(ranking.kind)}: {listed(told)}."


def _about(findings: Sequence[Finding], cards: Cards) -> Iterator[str]:
    """What each code means, once, and the numbers of its most severe findings."""
    codes = dict.fromkeys(finding.code for finding in findings)
    for code in codes:
        card = cards.knowledge.get(code)
        if card is not None:
            yield card.meaning
        ranked = sorted((f for f in findings if f.code == code), key=lambda f: -f.severity)
        for finding in ranked[:_PER_CODE]:
            yield from _worded(finding)


def _worded(finding: Finding) -> Iterator[str]:
    """A finding's evidence, at the component it was measured at or at all of them."""
    parts: dict[str, list[Measurement]] = {}
    for measurement in finding.evidence:
        where = measurement.note if measurement.note in finding.components else ""
        parts.setdefault(where, []).append(measurement)
    together = parts.pop("", [])
    for name, measurements in [*parts.items()][:_PER_CODE]:
        yield f"{component(name)} has {numbers(measurements[:_EVIDENCE])}."
    if together:
        yield f"{components(finding.components)}: {numbers(together[:_EVIDENCE])}."
    if not finding.evidence:
        yield f"This concerns {components(finding.components)}."
    for check in finding.checks:
        if check.outcome == "disagrees":
            yield f"Tested by {_done(check)}, this does not hold up."


def _trust(record: AnalysisRecord) -> Iterator[str]:
    """Whether the rankings may be believed."""
    # What stands in parentheses is a baseline to compare with, no criterion.
    checks = [check for check in record.validation.criteria if "(" not in check.criterion]
    if not checks:
        yield "No ranking was compared with exact ablation, so none is validated."
    for check in checks:
        figures: Mapping[str, float | None] = {"Kendall": check.kendall, "Spearman": check.spearman}
        told = [f"{name} {value(v, '')}" for name, v in figures.items() if v is not None]
        agreement = f" ({listed(told)})" if told else ""
        criterion = check.criterion.replace("_", " ")
        about = f"For {_several(check.kind)}, the ranking by {criterion}"
        if check.status == "validated":
            yield f"{about} agrees with exact ablation{agreement}: validated."
        elif check.status == "not validated":
            yield f"{about} strays from exact ablation{agreement}: not validated."
        else:
            yield f"{about} could not be compared with exact ablation."
    for check in record.validation.checks:
        about = check.about or "the analysis"
        yield f"{about[0].upper()}{about[1:]}, tested by {_done(check)}: {check.outcome}."


def _done(check: Check) -> str:
    """What a check did, without words that read as numbers."""
    return check.name.replace("half", "split").replace("-", " ")


def _several(kind: str) -> str:
    return f"{kind}es" if kind.endswith("ch") else f"{kind}s"
