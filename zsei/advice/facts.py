"""What a record knows, under the names by which a text may call for it: `{owner:name}`.

An owner is the id of a component, a finding or a proposal, or one of the words `model` and
`analysis`. A name is that of a measurement or of something counted. Where an owner has several
values of one name they are told apart as `name`, `name#2`, `name#3`, in the order of the record.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from zsei.advice.numerals import in_digits
from zsei.advice.pairs import Pairs
from zsei.records import AnalysisRecord, Component, Finding, Measurement, Proposal, Verdict

MODEL, ANALYSIS = "model", "analysis"
COUNTED = ("parameters", "flops", "bytes", "width", "units")
"""Fields of a component that are numbers of their own."""
_SEVERAL = {"branch": "branches", "experts": "experts", "mlp": "mlps"}


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One number that is known, or is known not to be known."""

    name: str
    """As in a slot, e.g. `ablation_effect#2`."""
    measurement: str
    """As in `knowledge/metrics.yaml`, e.g. `ablation_effect`."""
    value: float | None
    """None: it could not be told."""
    unit: str = ""
    note: str = ""
    components: frozenset[str] = frozenset()
    """Whom it is measured at: one component, or all that a finding joins. Empty: the model."""


@dataclass(frozen=True)
class Facts:
    """Everything known, arranged for looking up."""

    record: AnalysisRecord
    candidates: tuple[Proposal, ...] = ()
    _known: dict[str, Mapping[str, Fact]] = field(default_factory=dict, repr=False, compare=False)

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
    def verdicts(self) -> Mapping[str, Verdict]:
        """Proposal id -> its verdict, of those that were judged."""
        return {verdict.proposal_id: verdict for verdict in self.record.verdicts}

    @cached_property
    def owners(self) -> Mapping[str, str]:
        """How an owner is written in a text -> its id; what two share is nobody's."""
        ids = (*self.components, *self.findings, *self.proposals)
        written = Counter(plain(name) for name in ids)
        return {plain(name): name for name in ids if written[plain(name)] == 1}

    def find(self, owner: str, name: str) -> Fact | None:
        """What a slot `{owner:name}` stands for, or None when there is nothing of that name."""
        owner = self.owners.get(owner, owner)
        return self.named(owner).get(name) or self._pairs.find(owner, name, self.components)

    def named(self, owner: str) -> Mapping[str, Fact]:
        """All facts of an owner by name, those about pairs apart; empty when there is none."""
        if owner not in self._known:
            self._known[owner] = _numbered(self._told(owner))
        return self._known[owner]

    def value(self, component: str, measurement: str) -> float | None:
        """What was measured at a component; None when unknown or untold."""
        fact = self.named(component).get(measurement)
        return fact.value if fact is not None else None

    def above(self, component: str) -> tuple[str, ...]:
        """The components that this one is a part of, nearest first."""
        found: list[str] = []
        part = self.components.get(component)
        while part is not None and part.parent is not None and part.parent not in found:
            found.append(part.parent)
            part = self.components.get(part.parent)
        return tuple(found)

    @cached_property
    def _pairs(self) -> Pairs[Fact]:
        return Pairs(self.record, Fact)

    @cached_property
    def _inside(self) -> Mapping[str, Counter[str]]:
        """Component id -> how many components of each kind stand in it."""
        found: dict[str, Counter[str]] = {}
        for part in self.components.values():
            for name in self.above(part.id):
                found.setdefault(name, Counter())[part.kind] += 1
        return found

    def _told(self, owner: str) -> Iterator[Fact]:
        if owner == MODEL:
            yield from self._of_model()
        if owner == ANALYSIS:
            yield from self._of_analysis()
        if owner in self.components:
            yield from self._of_component(self.components[owner])
        elif owner in self.findings:
            yield from self._of_finding(self.findings[owner])
        elif owner in self.proposals:
            yield from self._of_proposal(self.proposals[owner])

    def _of_component(self, component: Component) -> Iterator[Fact]:
        where = frozenset((component.id,))
        taken = self.record.measurements.get(component.id, ())
        yield from _facts(taken, where)
        measured = {measurement.name for measurement in taken}
        inside = self._inside.get(component.id, Counter())
        counts = {name: getattr(component, name) for name in COUNTED}
        counts |= {"heads": inside["head"], "layers": inside["layer"]}
        for name, number in counts.items():
            if name not in measured and (number or name in COUNTED):
                yield _count(number, name, where)

    def _of_finding(self, finding: Finding) -> Iterator[Fact]:
        """What it rests on, then what its checks measured."""
        joined = frozenset(finding.components)
        yield Fact(
            name="severity", measurement="severity", value=finding.severity, components=joined
        )
        yield _count(len(finding.components), "components", joined)
        for taken in (finding.evidence, *(check.evidence for check in finding.checks)):
            for measurement in taken:
                yield from _facts((measurement,), _measured_at(measurement.note, joined))

    def _of_proposal(self, proposal: Proposal) -> Iterator[Fact]:
        """What it promises, how large it is, and what the gate measured."""
        where = frozenset(proposal.components)
        yield from _facts(proposal.expected, where)
        promised = {measurement.name for measurement in proposal.expected}
        counts = {"components": len(proposal.components)}
        counts |= {name: size for name, value in sorted(proposal.params.items())
                   if (size := _size(value)) is not None}  # fmt: skip
        for name, number in counts.items():
            if name not in promised:
                yield _count(number, name, where)
        verdict = self.verdicts.get(proposal.id)
        if verdict is not None:
            for when in ("before", "after", "bounds"):
                prefix = when.removesuffix("s")
                for fact in _facts(getattr(verdict, when), where):
                    yield replace(fact, name=f"{prefix}_{fact.name}")

    def _of_model(self) -> Iterator[Fact]:
        yield _count(self.record.provenance.parameters, "parameters")
        yield _count(len(self.components), "components")
        kinds = Counter(component.kind for component in self.components.values())
        for kind, number in sorted(kinds.items()):
            yield _count(number, several(kind))

    def _of_analysis(self) -> Iterator[Fact]:
        record, conditions = self.record, self.record.conditions
        counts = {
            "calibration_samples": conditions.calibration_samples,
            "held_out_samples": conditions.held_out_samples,
            "probes": conditions.probes,
            "groups": len(conditions.groups),
            "findings": len(self.findings),
            "candidates": len(self.candidates),
            "rounds": len(record.rounds),
            "proposals": len(record.proposals),
        }
        judged = Counter(verdict.outcome for verdict in record.verdicts)
        codes = Counter(finding.code for finding in self.findings.values())
        counts |= {outcome: judged[outcome] for outcome in ("accepted", "rejected")}
        counts |= {f"samples_{slug(name)}": number for name, number in conditions.groups.items()}
        counts |= {slug(code): number for code, number in sorted(codes.items())}
        for name, number in counts.items():
            yield _count(number, name)
        for check in record.validation.criteria:
            prefix = slug(f"{check.kind} {check.criterion}")
            for name in ("kendall", "spearman", "top_hits"):
                yield Fact(name=f"{prefix}_{name}", measurement=name, value=getattr(check, name))
            yield _count(check.n, f"{prefix}_n")
        yield from _facts(record.validation.instrumentation, frozenset())
        for tested in record.validation.checks:
            yield from _facts(tested.evidence, frozenset())


def clean(text: str) -> str:
    """The text in NFKC form, without control or direction characters: so checked, so shown."""
    normal = unicodedata.normalize("NFKC", in_digits(text)).replace("\t", " ").replace("⁄", "/")
    if normal.isascii() and normal.replace("\n", " ").isprintable():
        return normal.strip()
    kept = (c for c in normal if c == "\n" or unicodedata.category(c)[0] != "C")
    return "".join(kept).strip()


def plain(name: str) -> str:
    """A name as it stands in a text: clean, on one line."""
    return " ".join(clean(name).split())


def slug(words: str) -> str:
    """Words as a name in a slot: `redundant-heads` is `redundant_heads`."""
    return re.sub(r"\W+", "_", plain(words).lower()).strip("_")


def several(kind: str) -> str:
    """The plural of a kind of component."""
    return _SEVERAL.get(kind, f"{kind}s")


def _numbered(facts: Iterable[Fact]) -> dict[str, Fact]:
    """Facts by name, the second of a name as `name#2`."""
    seen: Counter[str] = Counter()
    found: dict[str, Fact] = {}
    for fact in facts:
        seen[fact.name] += 1
        place = seen[fact.name]
        name = fact.name if place == 1 else f"{fact.name}#{place}"
        found[name] = replace(fact, name=name) if place > 1 else fact
    return found


def _facts(measurements: Iterable[Measurement], components: frozenset[str]) -> Iterator[Fact]:
    for taken in measurements:
        yield Fact(
            name=taken.name,
            measurement=taken.name,
            value=taken.value,
            unit=taken.unit,
            note=taken.note,
            components=components,
        )


def _count(value: float, name: str, components: frozenset[str] = frozenset()) -> Fact:
    unit = "" if isinstance(value, float) else "count"
    return Fact(
        name=name, measurement=name, value=float(value), unit=unit, components=components
    )  # fmt: skip


def _size(value: object) -> float | None:
    """A parameter of a proposal as a number: itself, or how many units a list names."""
    if isinstance(value, bool) or not isinstance(value, int | float | list):
        return None
    if isinstance(value, list):
        return sum(len(part) if isinstance(part, list) else 1 for part in value)
    return value


def _measured_at(note: str, joined: frozenset[str]) -> frozenset[str]:
    """The one component of several that a note begins with, or all of them."""
    told = [name for name in joined if note == name or note.startswith((f"{name},", f"{name}:"))]
    return frozenset((max(told, key=len),)) if told else joined
