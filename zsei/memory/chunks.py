"""What can be found by meaning: one passage per finding, verdict, interpretation, analysis, card.

Each passage starts with a header (model, family, run, component, metric), so that it is found by
the names in a question and can be read alone. What is embedded is its gist, without header and
numbers: with them, MiniLM put related and unrelated questions at the same distance. Numbers are
never read back from a passage: they come from the records.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from zsei.cards import Cards
from zsei.records import AnalysisRecord, Finding, Measurement, Proposal, Verdict

ChunkKind = Literal[
    "finding", "summary", "verdict", "interpretation", "failure", "knowledge", "measured"
]
Card = tuple[str, str, str]
"""A knowledge card: (id, title, text)."""

COMBINED = "combined"
"""Key of the verdict on all accepted proposals together."""
_NAMES = 8
_PIECE = 900
"""Characters of a card per passage: about 200 tokens, which the embedder reads whole."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A passage. Its id is a hash of what it says and whose it is, so equal input, equal id."""

    kind: ChunkKind
    run: str | None
    """The analysis it belongs to; None for a knowledge card and for a document."""
    key: str
    """Id of the finding, proposal, interpretation, card or document it tells of; "" for a
    summary."""
    text: str
    """What it says, after its header."""
    gist: str
    """What it means, without names and numbers: this is embedded."""
    component: str = ""
    metric: str = ""

    @property
    def sha256(self) -> str:
        """Hash of the gist: the name under which its vector is kept."""
        return hashlib.sha256(self.gist.encode()).hexdigest()

    @property
    def id(self) -> str:
        """Thirty-two hex digits over kind, run, key and text."""
        name = "\x1f".join((self.kind, self.run or "", self.key, self.text))
        return hashlib.sha256(name.encode()).hexdigest()[:32]


def chunks_of(record: AnalysisRecord) -> tuple[Chunk, ...]:
    """All passages of one analysis, findings that rest on time included."""
    chunks = (*_of_findings(record), *_of_verdicts(record), *_of_words(record), _summary(record))
    return tuple({chunk.id: chunk for chunk in chunks}.values())


def chunks_of_cards(cards: Iterable[Card]) -> tuple[Chunk, ...]:
    """Passages of knowledge cards: paragraphs joined up to a length the embedder reads whole."""
    chunks = [
        Chunk(
            kind="knowledge",
            run=None,
            key=card,
            text=f"{title}\n{piece}",
            gist=f"{title}\n{piece}",
        )
        for card, title, text in cards
        for piece in _pieces(text)
    ]
    return tuple({chunk.id: chunk for chunk in chunks}.values())


def number(measurement: Measurement) -> str:
    """`name value unit` at full stored precision, or that it could not be told."""
    if measurement.value is None:
        return f"{measurement.name} could not be told"
    return f"{measurement.name} {measurement.value!r} {measurement.unit}".rstrip()


def some(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _header(record: AnalysisRecord, **parts: str) -> str:
    about = {
        "model": record.provenance.model,
        "family": record.provenance.family,
        "run": record.id,
        **parts,
    }
    return " | ".join(f"{name} {value}" for name, value in about.items() if value)


def _of_findings(record: AnalysisRecord) -> Iterator[Chunk]:
    for finding in (*record.findings, *record.timings.findings):
        yield _of_finding(record, finding)


def _of_finding(record: AnalysisRecord, finding: Finding) -> Chunk:
    metric = finding.evidence[0].name if finding.evidence else ""
    header = _header(record, component=some(finding.components), metric=metric)
    evidence = "; ".join(number(m) for m in finding.evidence[:_NAMES])
    said = f"{finding.code.replace('-', ' ')}: {finding.message}"
    tested = "".join(f"\ntested by {c.name}: {c.outcome}. {c.message}" for c in finding.checks)
    return Chunk(
        kind="finding",
        run=record.id,
        key=finding.id,
        component=finding.components[0] if finding.components else "",
        metric=metric,
        text=f"{header}\n{said}" + (f"\nevidence: {evidence}" if evidence else "") + tested,
        gist=said,
    )


def _of_verdicts(record: AnalysisRecord) -> Iterator[Chunk]:
    proposals = {proposal.id: proposal for proposal in record.proposals}
    for verdict in record.verdicts:
        yield _of_verdict(record, verdict, proposals.get(verdict.proposal_id), verdict.proposal_id)
    if record.combined is not None:
        yield _of_verdict(record, record.combined, None, COMBINED)


def _of_verdict(
    record: AnalysisRecord, verdict: Verdict, proposal: Proposal | None, key: str
) -> Chunk:
    components = proposal.components if proposal else ()
    done = proposal.strategy.replace("-", " ") if proposal else "all accepted changes together"
    what = f"{proposal.strategy} ({key})" if proposal else done
    reason = verdict.reason.removeprefix(f"{verdict.outcome}:").strip()
    why = f"\nproposed because: {proposal.rationale}" if proposal and proposal.rationale else ""
    return Chunk(
        kind="verdict",
        run=record.id,
        key=key,
        component=components[0] if components else "",
        text=f"{_header(record, component=some(components))}\n"
        f"{what} was {verdict.outcome}: {reason}{why}",
        gist=f"{done} was {verdict.outcome}: {reason}",
    )


def _of_words(record: AnalysisRecord) -> Iterator[Chunk]:
    header = _header(record)
    for said in record.interpretations:
        for piece in _pieces(said.text):
            text = f"{header}\n{said.agent}: {piece}"
            yield Chunk(kind="interpretation", run=record.id, key=said.id, text=text, gist=piece)
    for failure in record.failures:
        said = f"{failure.stage} failed: {failure.what}. {failure.why} {failure.fix}".rstrip()
        text = f"{header}\n{said}"
        yield Chunk(kind="failure", run=record.id, key=failure.stage, text=text, gist=said)


def _summary(record: AnalysisRecord) -> Chunk:
    provenance, conditions = record.provenance, record.conditions
    kinds = _counted(component.kind for component in record.components)
    codes = _counted(f.code for f in (*record.findings, *record.timings.findings))
    outcomes = _counted(verdict.outcome for verdict in record.verdicts)
    checks = ", ".join(
        f"{c.criterion} for {c.kind}: {c.status}" for c in record.validation.criteria
    )
    lines = (
        f"analysis of {provenance.model_class} with {provenance.parameters} parameters",
        f"objective {conditions.objective}, measured as {conditions.metric}, "
        f"safety {conditions.safety}",
        f"components: {kinds}" if kinds else "",
        f"findings: {codes or 'none'}",
        f"proposals judged: {outcomes or 'none'}",
        f"criteria against exact ablation: {checks}" if checks else "",
        *(f"{c.about} tested by {c.name}: {c.outcome}" for c in record.validation.checks),
    )
    said = "\n".join(line for line in lines if line)
    text = f"{_header(record)}\n{said}"
    return Chunk(kind="summary", run=record.id, key="", text=text, gist=said)


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(Counter(names).items()))


def _pieces(text: str) -> Iterator[str]:
    piece = ""
    for paragraph in (part.strip() for part in text.split("\n\n")):
        if piece and len(piece) + len(paragraph) > _PIECE:
            yield piece
            piece = ""
        piece = f"{piece}\n{paragraph}".strip()
    if piece:
        yield piece


def cards_of(cards: Cards) -> tuple[Card, ...]:
    """All that the loaded cards explain, as `ask` and `Memory.learn` take it."""
    pages = [(card.id, card.title, card.body) for card in cards.knowledge.values()]
    metrics = [
        (m.name, m.title, f"{m.meaning}\n\nIt misleads: {m.misleads}")
        for m in cards.metrics.values()
    ]
    strategies = [
        (s.name, s.title, f"{s.does}\n\nPreconditions: {s.preconditions}\n\nRisk: {s.risk}")
        for s in (*cards.strategies.values(), *cards.speedups.values())
    ]
    return (*pages, *metrics, *strategies)
