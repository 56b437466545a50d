"""What a record knows, as facts that a number in a text can be compared with."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from zsei.advice.numerals import Numeral
from zsei.records import AnalysisRecord, Component, Finding, Measurement, Proposal

_COUNTED = ("parameters", "flops", "bytes", "width", "units")
"""Fields of a component that are numbers of their own."""
_FRACTIONAL = ("share", "ratio", "cos", "correlation", "agreement", "%")
"""Units whose values may be stated in percent; so may those without a unit."""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One number that is known, and what it is the number of."""

    value: float
    name: str
    """Name of the measurement; "" where the words around it decide."""
    components: frozenset[str] = frozenset()
    """Whom it is measured at: one component, or all that a finding joins. Empty: the model."""
    unit: str = ""
    words: tuple[tuple[str, ...], ...] = ()
    """For facts about the model: of each group one word must stand in the sentence."""

    def is_stated_by(self, numeral: Numeral) -> bool:
        """Whether the numeral is this value, rounded as stated, in percent where that fits."""
        stated, half_step = numeral.value, numeral.half_step
        if numeral.percent and self.unit != "%":
            if self.unit and not any(part in self.unit for part in _FRACTIONAL):
                return False
            stated, half_step = stated / 100, half_step / 100
        if stated == 0 and numeral.half_step == 0.5:
            return self.value == 0  # "0" is said of what is exactly nothing
        slack = 1e-9 * max(abs(stated), abs(self.value))
        return abs(self.value - stated) <= half_step + slack


@dataclass(frozen=True)
class Facts:
    """Everything known, arranged for looking up."""

    record: AnalysisRecord
    candidates: tuple[Proposal, ...] = ()

    @cached_property
    def components(self) -> Mapping[str, Component]:
        """Component id -> component."""
        return {component.id: component for component in self.record.components}

    @cached_property
    def findings(self) -> Mapping[str, Finding]:
        """Finding id -> finding; those that rest on a clock are not among them."""
        return {finding.id: finding for finding in self.record.findings}

    @cached_property
    def proposals(self) -> Mapping[str, Proposal]:
        """Proposal id -> proposal, the record's own and the candidates."""
        return {p.id: p for p in (*self.record.proposals, *self.candidates)}

    @cached_property
    def at(self) -> Mapping[str, tuple[Fact, ...]]:
        """Component id -> facts about it, joint evidence of findings included."""
        found: dict[str, list[Fact]] = {name: [] for name in self.components}
        for name, component in self.components.items():
            taken = self.record.measurements.get(name, ())
            found[name] += _facts(taken, frozenset((name,)))
            measured = {measurement.name for measurement in taken}
            for counted in _COUNTED:
                if counted not in measured:
                    value = getattr(component, counted)
                    found[name].append(_count(value, counted, frozenset((name,))))
        for finding in self.findings.values():
            for fact in self.evidence(finding.id):
                for name in sorted(fact.components):
                    found.setdefault(name, []).append(fact)
        return {name: tuple(facts) for name, facts in found.items()}

    def evidence(self, finding_id: str) -> tuple[Fact, ...]:
        """Facts a finding rests on; none when there is no such finding."""
        finding = self.findings.get(finding_id)
        if finding is None:
            return ()
        joined = frozenset(finding.components)
        found = [Fact(value=finding.severity, name="severity", components=joined)]
        for taken in finding.evidence:
            # An analyzer that measured several components begins the note with the one it was.
            measured_at = frozenset((taken.note.partition(",")[0],))
            found += _facts((taken,), measured_at & joined or joined)
        for check in finding.checks:
            found += _facts(check.evidence, joined)
        return tuple(found)

    def expected(self, proposal: Proposal) -> tuple[Fact, ...]:
        """What a proposal promises, its parameters, its findings' evidence, its verdict."""
        where = frozenset(proposal.components)
        promised = list(_facts(proposal.expected, where))
        for name, value in sorted(proposal.params.items()):
            if isinstance(value, list):
                value = len(value)
            if isinstance(value, int | float) and not isinstance(value, bool):
                promised.append(_count(value, name, where))
        promised += [fact for name in proposal.finding_ids for fact in self.evidence(name)]
        for verdict in self.record.verdicts:
            if verdict.proposal_id == proposal.id:
                for taken in (verdict.before, verdict.after, verdict.bounds):
                    promised += _facts(taken, where)
        return tuple(promised)

    def value(self, component: str, name: str) -> float | None:
        """The one value of a measurement at a component; None when unknown or ambiguous."""
        own = {
            fact.value
            for fact in self.at.get(component, ())
            if fact.name == name and fact.components == {component}
        }
        return own.pop() if len(own) == 1 else None

    @cached_property
    def general(self) -> tuple[Fact, ...]:
        """Facts about the whole model and about the analysis itself."""
        record, conditions = self.record, self.record.conditions
        calibration, held_out = conditions.calibration_samples, conditions.held_out_samples
        samples = ("sample", "input", "text")
        held = ("held-out", "held out")
        facts = [
            _said(record.provenance.parameters, ("parameter",)),
            _said(calibration, samples, ("calibration",)),
            _said(held_out, samples, held),
            _said(calibration + held_out, samples),
            _said(conditions.probes, ("probe",)),
            _said(conditions.threads, ("thread",)),
            _said(len(conditions.groups), ("group",)),
        ]
        facts += [_said(n, samples, (name.lower(),)) for name, n in conditions.groups.items()]
        for check in record.validation.criteria:
            subject = (check.kind.lower(),)
            criterion = (check.criterion.lower(), check.criterion.lower().replace("_", " "))
            for name in ("kendall", "spearman", "top_hits"):
                value = getattr(check, name)
                if value is not None:
                    facts.append(_said(value, (name, name.replace("_", " ")), subject, criterion))
            facts.append(_said(check.n, subject, criterion))
        for measurement in record.validation.instrumentation:
            if measurement.value is not None:
                words = (measurement.name.lower(), measurement.name.lower().replace("_", " "))
                facts.append(_said(measurement.value, words))
        return tuple(facts)

    def counts(self, noun: str, named: frozenset[str], cited: Iterable[str]) -> set[int]:
        """How many of `noun` there are: in the model, in what is named, in what is cited.

        Args:
            noun: Singular, e.g. "head", "layer", "finding".
            named: Components that the sentence names.
            cited: Ids of the findings that the text is about.
        """
        if noun == "finding":
            codes = Counter(finding.code for finding in self.findings.values())
            return {len(self.findings), *codes.values()}
        if noun in ("candidate", "proposal", "change"):
            return {len(self.candidates), len(self.record.proposals)}
        units = {self.components[name].units for name in named if name in self.components}
        if noun in ("unit", "neuron", "channel"):
            return units - {0}
        groups: list[Iterable[str]] = [self.components, named]
        groups += [self.findings[name].components for name in cited if name in self.findings]
        groups += [[c for c in self.components if name in self.ancestors(c)] for name in named]
        counted = {
            sum(noun in ("component", self.components[name].kind) for name in group
                if name in self.components)
            for group in groups
        }  # fmt: skip
        return (counted | units) - {0}

    def ancestors(self, component: str) -> frozenset[str]:
        """The components that this one is a part of."""
        found: set[str] = set()
        part = self.components.get(component)
        while part is not None and part.parent is not None and part.parent not in found:
            found.add(part.parent)
            part = self.components.get(part.parent)
        return frozenset(found)


def _facts(measurements: Iterable[Measurement], components: frozenset[str]) -> Iterator[Fact]:
    for measurement in measurements:
        if measurement.value is not None:
            yield Fact(
                value=measurement.value,
                name=measurement.name,
                components=components,
                unit=measurement.unit,
            )


def _count(value: float, name: str, components: frozenset[str]) -> Fact:
    unit = "" if isinstance(value, float) else "count"
    return Fact(value=float(value), name=name, components=components, unit=unit)


def _said(value: float, *words: tuple[str, ...]) -> Fact:
    unit = "" if isinstance(value, float) else "count"
    return Fact(value=float(value), name="", unit=unit, words=words)
