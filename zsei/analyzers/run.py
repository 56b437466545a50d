"""Runs the shelf of analyzers; one that breaks becomes a failure in the record, not a crash."""

from collections.abc import Sequence

from zsei.analyzers.context import Analysis, Analyzer
from zsei.records import Failure, Finding
from zsei.subject.streamed import release


def run_analyzers(
    analysis: Analysis, analyzers: Sequence[Analyzer] | None = None
) -> tuple[tuple[Finding, ...], tuple[Finding, ...], tuple[Failure, ...]]:
    """Everything the analyzers find, in their order and each one's own.

    Args:
        analysis: What was measured.
        analyzers: None runs the whole shelf.

    Returns:
        (findings, findings that rest on a clock, analyzers that broke).
    """
    if analyzers is None:
        from zsei.analyzers import ANALYZERS

        analyzers = ANALYZERS
    findings: list[Finding] = []
    timed: list[Finding] = []
    failures: list[Failure] = []
    for analyzer in analyzers:
        try:
            (timed if analyzer.clock else findings).extend(list(analyzer.find(analysis)))
        except Exception as error:
            failures.append(
                Failure(
                    stage="analyze",
                    what=f"the analyzer {analyzer.code} stopped, so it found nothing",
                    why=f"{type(error).__name__}: {error}",
                    fix="the other findings stand; report this with the model's class",
                )
            )
        release(analysis.subject.model)
    return tuple(findings), tuple(timed), tuple(failures)
