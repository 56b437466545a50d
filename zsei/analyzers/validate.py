"""The analysis tests what it says: every finding gets the check that fits it, kept beside it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from zsei.analyzers import check_halves
from zsei.analyzers.check_claims import claim_checks
from zsei.analyzers.check_halves import finding_checks, flow_check, ranking_checks
from zsei.analyzers.check_instrumentation import instrumentation_checks
from zsei.analyzers.check_paths import path_checks
from zsei.analyzers.checks import inconclusive, with_checks
from zsei.analyzers.context import Analysis, Analyzer
from zsei.analyzers.halves import half_analyses, too_few
from zsei.records import Check, Failure, Finding
from zsei.trace.view import Measure

DISPUTED = 0.5
"""What the severity of a finding is multiplied by when a check disagrees with it."""


@dataclass(frozen=True, kw_only=True)
class Validated:
    """Findings with their checks, and the checks of what is no finding."""

    findings: tuple[Finding, ...]
    checks: tuple[Check, ...]
    failures: tuple[Failure, ...] = ()
    """Checks that broke; what they were to test stands unchecked."""


def validate(
    analysis: Analysis,
    findings: Sequence[Finding],
    *,
    analyzers: Sequence[Analyzer],
    measures: Sequence[Measure] = (),
    out_of_time: Callable[[], bool] = lambda: False,
) -> Validated:
    """Test findings, rankings, the flow graph and the instrumentation.

    A finding that already carries a check of the same name keeps its own. One that a check
    disagrees with stays in the record: its message ends with what the check found and its severity
    is halved.

    Args:
        analysis: What was measured.
        findings: What the analyzers found, but for those that rest on a clock.
        analyzers: The shelf that found them; it is asked again on either half of the samples.
        measures: What the trace was given, for the halves.
        out_of_time: Asked before what takes long; what is left out is inconclusive and says so.
    """
    found = tuple(findings)
    tests = _Tests()
    tests.add(lambda: claim_checks(analysis, found))
    whole = list(
        tests.listed(lambda: (*instrumentation_checks(analysis), *ranking_checks(analysis)))
    )
    if not analysis.settings.halves:
        tests.add(lambda: _left_out(found, check_halves.SWITCHED_OFF))
    elif out_of_time():
        tests.add(lambda: _left_out(found, check_halves.NO_TIME))
    else:
        whole += tests.listed(lambda: _halves(analysis, found, analyzers, measures, tests))
    tests.add(lambda: path_checks(analysis, found, out_of_time=out_of_time))
    return Validated(
        findings=tuple(_tested(finding, tests.found.get(finding.id, [])) for finding in found),
        checks=tuple(whole),
        failures=tuple(tests.failures),
    )


class _Tests:
    """Checks by finding, in the order they were made; one that breaks costs itself only."""

    def __init__(self) -> None:
        self.found: dict[str, list[Check]] = {}
        self.failures: list[Failure] = []

    def add(self, make: Callable[[], Mapping[str, Check]]) -> None:
        """Take in one check per finding id."""
        try:
            for finding, check in make().items():
                self.found.setdefault(finding, []).append(check)
        except Exception as error:
            self._failed(error)

    def listed(self, make: Callable[[], Sequence[Check]]) -> Sequence[Check]:
        """Checks of what is no finding."""
        try:
            return make()
        except Exception as error:
            self._failed(error)
            return ()

    def _failed(self, error: Exception) -> None:
        self.failures.append(
            Failure(
                stage="validate",
                what="a test that the analysis makes of itself stopped",
                why=f"{type(error).__name__}: {error}",
                fix="the findings stand, untested by it; report this with the model's class",
            )
        )


def _halves(
    analysis: Analysis, findings: tuple[Finding, ...], analyzers: Sequence[Analyzer],
    measures: Sequence[Measure], tests: _Tests,
) -> tuple[Check, ...]:  # fmt: skip
    few = too_few(analysis)
    if few:
        tests.add(lambda: _left_out(findings, few))
        return (inconclusive(check_halves.NAME, few, about="flow graph"),)
    halves = half_analyses(analysis, measures)
    tests.add(lambda: finding_checks(halves, findings, analyzers))
    return (flow_check(halves),)


def _left_out(findings: Sequence[Finding], why: str) -> dict[str, Check]:
    return {finding.id: inconclusive(check_halves.NAME, why) for finding in findings}


def _tested(finding: Finding, checks: Sequence[Check]) -> Finding:
    """The finding with the checks it lacks; a disputed one says so and weighs less."""
    own = {check.name for check in finding.checks}
    finding = with_checks(finding, *(check for check in checks if check.name not in own))
    against = [check for check in finding.checks if check.outcome == "disagrees"]
    if not against:
        return finding
    said = " ".join(f"Tested by {c.name.replace('-', ' ')}: {c.message}" for c in against)
    made = Finding.make(
        code=finding.code,
        components=finding.components,
        severity=finding.severity * DISPUTED,
        evidence=finding.evidence,
        message=f"{finding.message} This is in doubt. {said}",
    )
    return with_checks(made, *finding.checks)
