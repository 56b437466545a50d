"""A question as data: what to look for, where, and what to do with it.

Rules read the plan off the words. A plan holds names of the vocabulary only, so whatever made it,
it can ask for nothing that the store does not have a column for.
"""

from typing import Literal

from pydantic import JsonValue

from zsei.memory.dates import Span
from zsei.memory.places import Edge
from zsei.memory.reading import Comparison, Group, Reading
from zsei.memory.vocabulary import Vocabulary
from zsei.memory.words import KIND_OF_CODE, REDUNDANT_OF_KIND
from zsei.records import Record

Subject = Literal[
    "measurements", "ranking", "findings", "verdicts", "runs", "profile", "concept", "passages",
    "similar", "course", "fallbacks",
]  # fmt: skip
Operation = Literal["max", "min", "mean", "sum", "count"]
Intent = Literal["lookup", "list", "aggregate", "compare", "why", "define"]

_SHOWN = 5
_UNITS = ("neuron", "channel")
"""Kinds of unit that are counted inside components rather than being components."""
_COUNTED = frozenset({"dead_units", "units", "flops", "bytes", "parameters"})
"""Metrics of which "how many" asks for the sum."""


class QueryPlan(Record):
    """What to look for. Empty fields restrict nothing."""

    intent: Intent
    subject: Subject
    runs: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()
    """Analyses by age among those that fit: 0 the last, 1 the one before, -1 the first."""
    spans: tuple[Span, ...] = ()
    """When they were made: in one of these."""
    among: tuple[str, ...] = ()
    """The analyses a conversation is about: the others only where the question names them."""
    trainings: tuple[str, ...] = ()
    """Names of training runs."""
    epochs: tuple[int, ...] = ()
    """Of those runs; none is all."""
    models: tuple[str, ...] = ()
    """Labels of `Vocabulary.models`: models, families, kinds of architecture."""
    everywhere: bool = False
    """All analyses that fit, rather than the newest."""
    components: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    edges: tuple[Edge, ...] = ()
    heads: tuple[int, ...] = ()
    kinds: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()
    strategies: tuple[str, ...] = ()
    outcomes: tuple[str, ...] = ()
    proposals: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    fields: tuple[str, ...] = ()
    combined: bool = False
    operation: Operation | None = None
    group: Group | None = None
    condition: tuple[Comparison, float] | None = None
    limit: int | None = None
    concept: str = ""
    """The words to explain, for intent "define"."""

    ascending: bool = False
    """For a ranking: the least important first."""

    @property
    def places(self) -> bool:
        """Whether it names a place inside a model."""
        return bool(self.components or self.layers or self.edges or self.heads)

    @property
    def restricts(self) -> bool:
        """Whether it says what to look for, and not only in which analyses."""
        named = self.metrics or self.codes or self.strategies or self.outcomes or self.kinds
        return bool(named or self.proposals or self.findings or self.fields or self.places)

    @property
    def scoped(self) -> bool:
        """Whether it says which analyses to look at."""
        named = self.runs or self.offsets or self.spans or self.models or self.trainings
        return bool(named or self.everywhere)

    def filters(self) -> dict[str, JsonValue]:
        """The restrictions it makes, for showing."""
        told = self.model_dump(mode="json")
        return {name: value for name, value in told.items() if value not in (None, [], "", False)}


def plan(reading: Reading, vocabulary: Vocabulary) -> QueryPlan | None:
    """The plan that the rules read off a question; None when they find nothing to go by."""
    base = QueryPlan(
        intent="lookup",
        subject="passages",
        runs=reading.runs,
        offsets=reading.offsets,
        spans=reading.spans,
        models=reading.named("model"),
        everywhere="everywhere" in reading.wishes,
        components=reading.components,
        layers=reading.layers,
        edges=reading.edges,
        heads=reading.heads,
        kinds=reading.named("kind"),
        metrics=reading.named("metric"),
        codes=_codes(reading, vocabulary),
        strategies=_strategies(reading),
        outcomes=reading.named("outcome"),
        proposals=reading.proposals,
        findings=reading.findings,
        fields=reading.named("field"),
        combined="combined" in reading.wishes,
        operation=_operation(reading, vocabulary),
        group=reading.group,
        condition=reading.condition,
        limit=reading.limit,
    )
    subject = _subject(reading, base, vocabulary)
    if subject is None:
        return base if base.models or base.runs or base.offsets or base.spans else None
    intent = _intent(reading, subject, base, vocabulary)
    told = base.model_copy(update={"subject": subject, "intent": intent})
    return _finished(told, reading)


def _codes(reading: Reading, vocabulary: Vocabulary) -> tuple[str, ...]:
    """Finding codes, narrowed by the kinds named beside a word such as "redundant"."""
    codes = reading.named("code")
    wanted = {REDUNDANT_OF_KIND.get(kind) for kind in reading.named("kind")} & set(codes)
    if len(codes) > 1 and wanted:
        codes = tuple(code for code in codes if code in wanted)
    both = {name.replace("_", "-") for name in reading.named("metric")} & set(codes)
    if both:  # such as dead units: a number, and a finding
        wishes = {"max", "min", "mean", "sum", "count", "compare"} & reading.wishes
        number = reading.components or reading.layers or wishes or reading.condition
        missing = both - set(vocabulary.codes)
        codes = tuple(code for code in codes if code not in (both if number else missing))
    return codes


def _strategies(reading: Reading) -> tuple[str, ...]:
    """Strategies, narrowed by the kind named beside a word such as "pruned"."""
    named = reading.named("strategy")
    fitting = [name for name in named if any(kind in name for kind in reading.named("kind"))]
    return tuple(fitting) or named


def _operation(reading: Reading, vocabulary: Vocabulary) -> Operation | None:
    """What to do with the numbers; "how many FLOPs" asks for a sum, not for how many numbers."""
    counts = not reading.condition and not _codes(reading, vocabulary)
    how_much = bool(reading.named("metric") or reading.named("field")) and counts
    if "count" in reading.wishes and not how_much:
        return "count"
    operations: tuple[Operation, ...] = ("mean", "sum", "min", "max")  # "the top ones by lowest x"
    found: Operation | None = None
    for operation in reversed(operations):
        found = operation if operation in reading.wishes else found
    inside = reading.components or reading.layers or reading.heads or reading.edges
    added = "count" in reading.wishes and set(reading.named("metric")) & _COUNTED
    return "sum" if found is None and added and not inside else found


def _subject(reading: Reading, base: QueryPlan, vocabulary: Vocabulary) -> Subject | None:
    """The first rule that holds decides."""
    wishes = reading.wishes
    gate = bool({"judged", "proposed", "combined"} & wishes)
    ranked = bool({"important", "unimportant"} & wishes)
    others = {name.replace("_", "-") for name in base.metrics} - set(base.codes)
    found = bool(base.codes) and not others
    judged, seen = _elsewhere(gate, base, vocabulary)
    rules: tuple[tuple[bool, Subject], ...] = (
        ("similar" in wishes and "compare" not in wishes, "similar"),
        (bool(base.proposals), "verdicts"),
        (bool(base.findings), "findings"),
        (_asks_meaning(reading, base, vocabulary), "concept"),
        (bool(base.outcomes or base.strategies), "verdicts"),
        (judged, "verdicts"),
        (seen, "findings"),
        (found, "findings"),
        ("why" in wishes and base.places and bool(base.metrics), "profile"),
        (ranked, "profile" if base.places and not base.kinds else "ranking"),
        (_asks_size_of_model(reading, base), "runs"),
        (bool(base.metrics), "measurements"),
        (bool(base.fields), "runs"),
        ("compare" in wishes, "measurements" if base.places else "runs"),
        (base.operation == "count" and bool(base.kinds), "profile"),
        ("why" in wishes and base.places, "findings"),
        (base.places, "profile"),
        (bool(base.kinds) and "list" in wishes, "profile"),
        ("summary" in wishes and "runs" in wishes, "passages"),
        ("runs" in wishes and (base.operation == "count" or "list" in wishes), "runs"),
        ("define" in wishes and not base.scoped, "concept"),
        (
            bool(base.models or base.runs or base.offsets or base.spans) and not reading.leftovers,
            "runs",
        ),
    )
    return next((subject for holds, subject in rules if holds), None)


def _elsewhere(gate: bool, base: QueryPlan, vocabulary: Vocabulary) -> tuple[bool, bool]:
    """Whether the gate is asked, or the evidence of findings, rather than the measurements."""
    asked = set(base.metrics)
    if not asked:
        return gate, False
    judged, seen = asked <= set(vocabulary.judged), asked <= set(vocabulary.evidence)
    if asked & set(vocabulary.metrics):
        return gate and judged, False
    return judged and (gate or not seen), seen


def _has_results(base: QueryPlan, vocabulary: Vocabulary) -> bool:
    """Whether "the ..." can mean something found or measured."""
    measured = {*vocabulary.metrics, *vocabulary.judged, *vocabulary.evidence}
    return bool(base.codes) or bool(measured & set(base.metrics))


def _asks_meaning(reading: Reading, base: QueryPlan, vocabulary: Vocabulary) -> bool:
    """Whether "what is ..." asks for the meaning of a word rather than for a result."""
    others = {"why", "compare", "important", "unimportant", "count", "judged", "proposed"}
    result = base.places or base.scoped or base.operation or base.condition or base.outcomes
    named = base.metrics or base.codes or base.kinds or base.strategies
    return (
        "define" in reading.wishes
        and bool(named)
        and not (result or others & reading.wishes or reading.leftovers)
        and not (reading.article and _has_results(base, vocabulary))
    )


def _asks_size_of_model(reading: Reading, base: QueryPlan) -> bool:
    """Whether the parameters are those of a whole model rather than of its components."""
    compared = len(base.models) > 1 or len(base.runs) > 1 or "compare" in reading.wishes
    which_model = base.operation in ("max", "min") and ("runs" in reading.wishes or compared)
    whole = base.operation in (None, "sum") or which_model
    inside = base.places or base.kinds or base.codes or base.group or base.condition
    return base.metrics == ("parameters",) and whole and not inside


def _intent(reading: Reading, subject: Subject, base: QueryPlan, vocabulary: Vocabulary) -> Intent:
    if subject == "concept":
        return "define"
    if "compare" in reading.wishes and not (base.proposals or base.findings):
        return "compare"
    if subject == "measurements" and base.operation in ("mean", "sum") and not base.everywhere:
        sides = [set(vocabulary.models.get(label, ())) for label in base.models]
        if len(sides) == 2 and not sides[0] & sides[1]:
            return "compare"
    which = bool({"max", "min"} & reading.wishes) and not base.everywhere
    if subject in ("measurements", "runs") and which and _has_sides(reading, base):
        return "compare"
    if "why" in reading.wishes:
        return "why"
    if base.operation is not None and subject != "ranking":
        return "aggregate"
    return "lookup" if base.places or base.proposals or base.findings else "list"


def _has_sides(reading: Reading, base: QueryPlan) -> bool:
    """Whether two things stand beside each other; "which of layers 1 to 3" is a choice instead."""
    sides = len(base.models) > 1 or len(base.runs) > 1 or len(base.components) > 1
    places = len(base.layers) == 2 or len(base.heads) == 2
    return sides or (places and "comparative" in reading.wishes)


def _finished(told: QueryPlan, reading: Reading) -> QueryPlan:
    """Settle the words that mean one thing for one subject and another for the next."""
    changes: dict[str, object] = {}
    if told.subject == "ranking":
        least = "unimportant" in reading.wishes or told.operation == "min"
        changes |= {"ascending": least, "operation": None, "limit": told.limit or _SHOWN}
    if told.subject == "runs" and told.intent == "compare":
        changes["fields"] = told.fields or told.metrics
        changes["metrics"] = ()
    if told.group is not None and told.operation is None:
        changes["operation"] = "mean"
    if told.subject == "findings" and told.operation == "count" and not told.kinds:
        changes["kinds"] = tuple(KIND_OF_CODE[code] for code in told.codes if code in KIND_OF_CODE)
    if told.subject in ("measurements", "verdicts"):  # neurons are counted inside components
        changes["kinds"] = tuple(kind for kind in told.kinds if kind not in _UNITS)
    if len(told.kinds) > 1 and "layer" in told.kinds:  # "which layer's MLP"
        changes["kinds"] = tuple(kind for kind in told.kinds if kind not in ("layer", *_UNITS))
    if told.proposals:  # the id says which; what really came of it is the answer
        changes |= {"outcomes": (), "strategies": ()}
    return told.model_copy(update=changes)
