"""What `zsei watch` says: a line or an object for each checkpoint, and notes beside them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from zsei.checkpoint.contracts import StructuralPruningDecision
    from zsei.checkpoint.follow import Answered
    from zsei.checkpoint.weights.find import Found

SHOWN = 3
"""Findings shown of each checkpoint, worst first."""


@dataclass(frozen=True)
class Lines:
    """Writes results to one stream and everything else to another (`zsei.checkpoint.watch`)."""

    results: TextIO
    notes: TextIO
    as_json: bool = False
    quiet: bool = False

    def answered(
        self, found: "Found", decision: "StructuralPruningDecision", answer: "Answered | None"
    ) -> None:
        """A checkpoint was analysed, or could not be."""
        text = _object if self.as_json else _text
        self.results.write(text(found, decision, answer))
        self.results.flush()

    def skipped(self, found: "Found", why: str) -> None:
        """A checkpoint is left out."""
        self.noted(f"{found.name} is left out: {why}")

    def noted(self, what: str) -> None:
        """Something to know, unless nobody wants to."""
        if what and not self.quiet:
            self.always(what)

    def always(self, what: str) -> None:
        """Something to know in any case."""
        from zsei.report.text import clean

        self.notes.write(f"{clean(what, 4000)}\n")
        self.notes.flush()


def _object(
    found: "Found", decision: "StructuralPruningDecision", answer: "Answered | None"
) -> str:
    import json

    report = None if answer is None else answer.report.model_dump(mode="json")
    told = decision.model_dump(mode="json")
    return json.dumps({"checkpoint": found.name, "report": report, "decision": told}) + "\n"


def _text(found: "Found", decision: "StructuralPruningDecision", answer: "Answered | None") -> str:
    from zsei.checkpoint.words import in_words
    from zsei.report.text import brief, one_line, short

    head = f"epoch {decision.epoch} ({short(found.name, 40)}):"
    if answer is None:
        return one_line(f"{head} no analysis: {decision.rejection_reason}", 1000) + "\n"
    report = answer.report
    lines = [
        f"{head} {report.depth}, confidence {report.confidence:.2f}, {report.seconds:.1f} s",
        *(f"fell back: {brief(said, 160)}" for said in report.fallbacks),
    ]
    findings = () if answer.record is None else answer.record.findings
    worst = sorted(findings, key=lambda finding: -finding.severity)
    lines += [f"{finding.code}: {brief(finding.message, 160)}" for finding in worst[:SHOWN]]
    if len(worst) > SHOWN:
        lines.append(f"and {len(worst) - SHOWN} more; `zsei show {report.record_id}` has them all")
    lines.append(brief(in_words(decision), 240))
    return "\n    ".join(one_line(line, 400) for line in lines) + "\n"
