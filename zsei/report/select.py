"""Which findings, paths and times of a record are shown, and in which order.

Every view (HTML, terminal, notebook) takes its rows from here and from `trust` and `verdicts`, so
that they agree.
"""

from dataclasses import dataclass

from zsei.records import AnalysisRecord, Finding, Interpretation

_CRITICAL = {
    "critical-path-information": "information",
    "critical-path-latency": "latency",
}
_QUESTIONS = {
    "go": ("strateg", "propos", "plan", "priorit"),
    "waste": ("redundan", "waste", "bottleneck"),
    "trust": ("trust", "valid", "critic"),
}


@dataclass(frozen=True, kw_only=True)
class CriticalPath:
    """A path found critical: node ids in the order of the flow."""

    kind: str
    """"information" or "latency"."""
    nodes: tuple[str, ...]


def critical_paths(record: AnalysisRecord) -> tuple[CriticalPath, ...]:
    """The paths that findings call critical, the most severe of each kind first."""
    found = sorted(everything_found(record), key=lambda f: -f.severity)
    return tuple(
        CriticalPath(kind=_CRITICAL[finding.code], nodes=finding.components)
        for finding in found
        if finding.code in _CRITICAL and len(finding.components) > 1
    )


def everything_found(record: AnalysisRecord) -> tuple[Finding, ...]:
    """Findings that rest on counts and samples, then those that rest on a clock."""
    return record.findings + record.timings.findings


@dataclass(frozen=True, kw_only=True)
class FindingGroup:
    """Findings of one code, the most severe first."""

    code: str
    findings: tuple[Finding, ...]
    clock: bool
    """Whether they rest on measured time and so differ between two runs."""

    @property
    def severity(self) -> float:
        """Severity of the worst one."""
        return self.findings[0].severity


def by_code(record: AnalysisRecord) -> tuple[FindingGroup, ...]:
    """Findings grouped by code, worst group first."""
    groups: dict[tuple[str, bool], list[Finding]] = {}
    for clock, findings in ((False, record.findings), (True, record.timings.findings)):
        for finding in findings:
            groups.setdefault((finding.code, clock), []).append(finding)
    made = [
        FindingGroup(
            code=code,
            clock=clock,
            findings=tuple(sorted(found, key=lambda f: -f.severity)),
        )
        for (code, clock), found in groups.items()
    ]
    return tuple(sorted(made, key=lambda g: (-g.severity, g.code, g.clock)))


def what_for(interpretation: Interpretation) -> str:
    """Which question an agent's text answers: "matters", "waste", "go", or "trust"."""
    agent = interpretation.agent.lower()
    for question, words in _QUESTIONS.items():
        if any(word in agent for word in words):
            return question
    return "matters"


def opening(text: str, limit: int = 240) -> tuple[str, str]:
    """The first lines of a text up to about `limit` characters, and the rest."""
    lines = text.splitlines()
    taken = 1
    while taken < len(lines) and sum(map(len, lines[: taken + 1])) <= limit:
        taken += 1
    return "\n".join(lines[:taken]), "\n".join(lines[taken:])


def slowest(record: AnalysisRecord, top: int = 8) -> tuple[tuple[str, float, float], ...]:
    """Component id, seconds, and share of all component seconds, longest first.

    Layers are left out, and so are parts of a component that has its own time: what remains covers
    the model once.
    """
    layers = {c.id for c in record.components if c.kind == "layer"}
    timed = {i: s for i, s in record.timings.components.items() if i not in layers}
    parents = {c.id: c.parent for c in record.components}

    def inside_another(component_id: str) -> bool:
        above, seen = parents.get(component_id), {component_id}
        while above is not None and above not in seen:
            if above in timed:
                return True
            seen.add(above)
            above = parents.get(above)
        return False

    own = {i: s for i, s in timed.items() if not inside_another(i)}
    total = sum(own.values())
    ordered = sorted(own.items(), key=lambda item: (-item[1], item[0]))
    return tuple((i, s, s / total if total else 0.0) for i, s in ordered[:top])
