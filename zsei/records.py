"""Every type that crosses a stage and reaches a disk, a language model or Chroma.

All are frozen pydantic models that refuse unknown keys, NaN and infinity. Ids are hashes of
canonical JSON without clocks, so the same input gives the same id.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

if TYPE_CHECKING:
    import networkx as nx

SCHEMA_VERSION = 1

Severity = float
Outcome = Literal["accepted", "rejected", "inapplicable", "inconclusive", "failed"]
ComponentKind = Literal[
    "input", "embedding", "attention", "head", "mlp", "experts", "norm", "conv", "linear", "pool",
    "recurrent", "residual", "layer", "module", "output",
]  # fmt: skip


class Record(BaseModel):
    """Base of all records: frozen, strict about keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def digest(value: object) -> str:
    """Twelve hex digits of the SHA-256 of `value` as canonical JSON: the id of everything."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class Measurement(Record):
    """The only way a number travels: with its unit, its spread and how many inputs it rests on."""

    name: str
    """What was measured, one of the names in `knowledge/metrics.yaml`."""
    value: float | None
    """The number; None only when `state` is "could not tell", never a silent 0."""
    unit: str = ""
    std: float | None = None
    """Standard deviation over the n inputs, in the same unit; None where it has no meaning."""
    n: int = 0
    """How many inputs (samples) it rests on; 0 for what is counted rather than sampled."""
    state: Literal["measured", "could not tell"] = "measured"
    note: str = ""
    """Why it could not be told, or what to mind when reading it."""


class Component(Record):
    """A part of the model with a stable id, such as `encoder.layer.3/head.7`."""

    id: str
    kind: ComponentKind
    path: str
    """Module path in the user's model; "" for the model itself."""
    layer: int | None = None
    """Running number of the repeated block it stands in; None outside of one."""
    parent: str | None = None
    """Id of the component this one is a part of (head -> attention -> layer)."""
    index: int | None = None
    """For a head: its number within the attention."""
    parameters: int = 0
    flops: int = 0
    """Operations per sample: 2 x multiply-adds of matrix products and convolutions."""
    bytes: int = 0
    """Bytes of the value it writes, per sample."""
    width: int = 0
    """Size of the channel axis of the value it writes."""
    units: int = 0
    """How many separately removable units it holds (heads, neurons, channels); 0 if none."""


class Check(Record):
    """One way in which the analysis tested something it says; it stands beside what it tested."""

    name: str
    """What was done: "exact-ablation", "widening", "random-paths", "half-samples" ..."""
    outcome: Literal["agrees", "disagrees", "inconclusive"]
    """"inconclusive" when the data could not tell; the message then says how much is needed."""
    evidence: tuple[Measurement, ...] = ()
    message: str
    about: str = ""
    """What was tested, where it stands beside no finding: "instrumentation", a ranking ..."""


class Finding(Record):
    """What an analyzer saw."""

    id: str
    code: str
    """The analyzer's code; `zsei explain CODE` prints its documentation."""
    components: tuple[str, ...]
    severity: float = Field(ge=0, le=1)
    evidence: tuple[Measurement, ...]
    message: str
    checks: tuple[Check, ...] = ()
    """What the analysis did to test this finding; no part of its id."""

    @staticmethod
    def make(
        *,
        code: str,
        components: tuple[str, ...],
        severity: float,
        evidence: tuple[Measurement, ...],
        message: str,
    ) -> "Finding":
        """Build a finding whose id is the hash of its content."""
        body = {"code": code, "components": list(components), "message": message}
        body["evidence"] = [m.model_dump(mode="json") for m in evidence]
        return Finding(
            id=f"f-{digest(body)}",
            code=code,
            components=components,
            severity=min(1.0, max(0.0, severity)),
            evidence=evidence,
            message=message,
        )

    def _repr_html_(self) -> str:
        from zsei.report.notebook import finding_html

        return finding_html(self)


class Matrix(Record):
    """Numbers for pairs: components by components, heads by heads, positions by positions."""

    name: str
    """What was measured, one of the names in `knowledge/metrics.yaml`."""
    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    """One tuple per row; None where nothing could be told."""
    unit: str = ""
    n: int = 0
    """How many inputs (samples) it rests on."""
    note: str = ""
    component: str | None = None
    """The component it belongs to, if it belongs to one."""


class AttributedEdge(Record):
    """What one writer of the residual stream gives one reader of it."""

    writer: str
    reader: str
    port: Literal["q", "k", "v", "in"] = "in"
    """Which input of the reader: query, key or value of a head, or its only one."""
    attribution: float
    """Σ (a* - a) · g: first-order change of the objective when the mean a* is put in, or without
    labels the RMS of that over probes."""
    std: float | None = None
    n: int = 0
    integrated: float | None = None
    """The same with gradients averaged on the way from a* to a."""
    route_share: float | None = None
    """L1 proximity share of the writer in what the reader reads: size, not importance."""


class Claim(Record):
    """One number in a text, and the measurement it was filled in from; or why a sentence went."""

    text: str
    """The words in which the number stands."""
    component: str | None = None
    measurement: str | None = None
    stated: float | None = None
    """None where the text states no number: it could not be told, or the sentence was struck."""
    measured: float | None = None
    holds: bool


class Interpretation(Record):
    """Prose about findings; every number in it was checked against the record."""

    id: str
    agent: str
    voice: str
    """"rules" or the name of the language model."""
    finding_ids: tuple[str, ...]
    text: str
    claims: tuple[Claim, ...] = ()
    struck: int = 0
    """How many statements were struck out because they did not hold."""


class Objection(Record):
    """What a critic holds against something that was said or proposed; it decides nothing."""

    about: str
    """Id of the interpretation, finding or proposal."""
    kind: Literal[
        "not supported", "contradicted by a check", "too few samples", "tried before", "risk"
    ]  # fmt: skip
    agent: str
    voice: str
    text: str


class Proposal(Record):
    """A change somebody thinks worthwhile. Data only: it executes nothing."""

    id: str
    strategy: str
    params: dict[str, JsonValue] = Field(default_factory=dict)
    components: tuple[str, ...]
    finding_ids: tuple[str, ...] = ()
    rationale: str = ""
    expected: tuple[Measurement, ...] = ()
    source: str = "rules"
    """"rules" or the name of the language model."""
    priority: int = 0
    """Order in which it is tried, 0 first."""

    @staticmethod
    def make(
        *,
        strategy: str,
        components: tuple[str, ...],
        params: Mapping[str, JsonValue] | None = None,
        finding_ids: tuple[str, ...] = (),
        rationale: str = "",
        expected: tuple[Measurement, ...] = (),
        source: str = "rules",
        priority: int = 0,
    ) -> "Proposal":
        """Build a proposal; its id names the edit (strategy, components, params), not the words."""
        params = dict(params or {})
        body = {"strategy": strategy, "components": list(components), "params": params}
        return Proposal(
            id=f"p-{digest(body)}",
            strategy=strategy,
            components=components,
            params=params,
            finding_ids=finding_ids,
            rationale=rationale,
            expected=expected,
            source=source,
            priority=priority,
        )


class StageResult(Record):
    """One stage of the gate: passed, failed, or skipped because of an earlier one."""

    stage: str
    outcome: Literal["passed", "failed", "inconclusive", "skipped"]
    detail: str


class Verdict(Record):
    """What the gate measured about one proposal (or about all accepted ones together)."""

    proposal_id: str
    outcome: Outcome
    before: tuple[Measurement, ...] = ()
    after: tuple[Measurement, ...] = ()
    bounds: tuple[Measurement, ...] = ()
    """One-sided 95 % bounds that were compared with the limits; `note` holds the limit."""
    stages: tuple[StageResult, ...] = ()
    reason: str

    def _repr_html_(self) -> str:
        from zsei.report.notebook import verdict_html

        return verdict_html(self)


class Round(Record):
    """One turn of proposing and judging; rejected proposals are in front of the next one."""

    number: int
    voice: str
    """"rules" or the name of the language model that chose in this round."""
    interpretation_ids: tuple[str, ...] = ()
    """What was said about the choice."""
    proposal_ids: tuple[str, ...] = ()
    """What was tried, in order; the verdicts of the record say how it ended."""
    outcomes: dict[Outcome, int] = Field(default_factory=dict)
    gain: float | None = None
    """Mean of the shares of parameters and operations that the best accepted set so far removes."""


class CriterionCheck(Record):
    """How far one cheap importance score agrees with exact ablation on this model."""

    kind: str
    """What was ranked: "head", "channel", "layer" ..."""
    criterion: str
    kendall: float | None
    spearman: float | None
    top_hits: float | None
    """Share of the true top k (k = a quarter, at least 3) that the score puts in its own top k."""
    n: int
    """Components compared."""
    status: Literal["validated", "not validated", "could not tell"]
    note: str = ""


class Ranking(Record):
    """Units of one kind ordered by importance, most important first."""

    kind: str
    criterion: str
    """The criterion that decided the order: the best validated one, or exact ablation."""
    components: tuple[str, ...]
    scores: tuple[float, ...]
    note: str = ""
    """Metric, replacement, dtype, seed and number of samples: choices that move a ranking."""


class Validation(Record):
    """What the analysis checked about itself."""

    instrumentation: tuple[Measurement, ...] = ()
    """Largest output difference between instrumented and plain model, and the like."""
    criteria: tuple[CriterionCheck, ...] = ()
    rankings: tuple[Ranking, ...] = ()
    checks: tuple[Check, ...] = ()
    """Tests of what is no finding: instrumentation, rankings, strategies."""
    notes: tuple[str, ...] = ()


class Failure(Record):
    """Something that did not work, kept as data rather than lost in a log."""

    stage: str
    what: str
    why: str
    fix: str = ""


class Checkpoint(Record):
    """Where in a training run a model was analysed."""

    run: str
    """Name of the run."""
    epoch: int
    """Counted from 1."""
    step: int | None = None


class Provenance(Record):
    """What ran, with what."""

    zsei: str
    model: str
    """How the model was named: `demo:minilm`, a folder, `package.module:factory`, a class name."""
    model_class: str
    family: str
    """Architecture family, e.g. "bert", "llama", "resnet", or the class name."""
    model_hash: str
    """SHA-256 over parameter names, shapes and bytes."""
    parameters: int
    fidelity: Literal["program", "modules"]
    versions: dict[str, str]
    seed: int
    cards: dict[str, str] = Field(default_factory=dict)
    """Hash of each agent, prompt and knowledge card used."""
    llm: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    checkpoint: Checkpoint | None = None
    """None for an analysis that stands beside no training run."""


class Conditions(Record):
    """Under which choices the numbers hold; the choices alone can move a ranking."""

    objective: str
    objective_reason: str
    metric: str
    """What ablation and the gate measure: "KL (nats)", "1 - cos", "relative L2" or a loss."""
    replacement: Literal["mean", "zero", "resample"] = "mean"
    safety: Literal["conservative", "moderate", "aggressive"] = "moderate"
    groups: dict[str, int]
    """Data group -> number of samples."""
    calibration_samples: int
    held_out_samples: int
    input_shape: dict[str, tuple[int, ...]]
    input_dtype: dict[str, str] = Field(default_factory=dict)
    probes: int = 0
    """Random output directions drawn for output sensitivity."""
    budget_seconds: float | None = None
    threads: int = 1


class GraphNode(Record):
    """A node of the flow graph: a component or a residual join."""

    id: str
    kind: str
    attributes: dict[str, float | int | str | None] = Field(default_factory=dict)


class GraphEdge(Record):
    """Data that really flows from one node to another."""

    source: str
    target: str
    attributes: dict[str, float | int | str | None] = Field(default_factory=dict)


class FlowData(Record):
    """The flow graph as data; `AnalysisRecord.graph` gives it as networkx."""

    nodes: tuple[GraphNode, ...] = ()
    edges: tuple[GraphEdge, ...] = ()


class Timings(Record):
    """All that a clock said. Everything else in a record is the same on every run."""

    created: str = ""
    """When the analysis started, ISO 8601, UTC."""
    stages: dict[str, float] = Field(default_factory=dict)
    """Seconds per pipeline stage."""
    components: dict[str, float] = Field(default_factory=dict)
    """Seconds per component for one calibration batch, median of repeats."""
    overhead: float | None = None
    """Instrumented forward over plain forward."""
    latency: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    """Proposal id -> median latency ratio after/before and its 90 % interval."""
    findings: tuple[Finding, ...] = ()
    """Findings that rest on measured time."""
    remarks: tuple[str, ...] = ()
    profile: dict[str, JsonValue] | None = None
    """A whole profile as JSON (`zsei.profiling.record.ProfileRecord`), where one was asked for."""


class KeptTensor(Record):
    """A tensor in a record, to the bit."""

    shape: tuple[int, ...]
    dtype: str
    """As torch calls it, e.g. `float32`."""
    data: str
    """Its bytes, little-endian, in base64."""


class AnalysisRecord(Record):
    """One analysis, whole: what was asked, measured, said, proposed and judged."""

    schema_version: int = SCHEMA_VERSION
    id: str
    provenance: Provenance
    conditions: Conditions
    components: tuple[Component, ...]
    measurements: dict[str, tuple[Measurement, ...]] = Field(default_factory=dict)
    """Component id -> everything measured about it."""
    groups: dict[str, dict[str, tuple[Measurement, ...]]] = Field(default_factory=dict)
    """Data group -> component id -> what was measured on that group alone."""
    matrices: tuple[Matrix, ...] = ()
    edges: tuple[AttributedEdge, ...] = ()
    """Writer-reader pairs of the residual stream, largest |attribution| first."""
    flow: FlowData = FlowData()
    findings: tuple[Finding, ...] = ()
    interpretations: tuple[Interpretation, ...] = ()
    objections: tuple[Objection, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    rounds: tuple[Round, ...] = ()
    """How proposing and judging took turns."""
    combined: Verdict | None = None
    """The accepted proposals applied together and measured again; its `proposal_id` joins the ids
    of those that are in it with "+"."""
    means: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """"component|kind" -> mean value of each channel of a site that accepted proposals cut: what
    `apply` folds into the biases behind it."""
    fitted: dict[str, dict[str, KeptTensor]] = Field(default_factory=dict)
    """Accepted proposal -> parameter -> the value fitted to the calibration data, as the gate saw
    it: `apply` puts in the same bytes and needs no data."""
    validation: Validation = Validation()
    failures: tuple[Failure, ...] = ()
    timings: Timings = Timings()

    @cached_property
    def graph(self) -> "nx.DiGraph[str]":
        """The flow graph as a `networkx.DiGraph`; attributes are scalars."""
        from zsei.graph.export import to_networkx

        return to_networkx(self.flow)

    def component(self, component_id: str) -> Component:
        """The component with this id; KeyError names the id when there is none."""
        for component in self.components:
            if component.id == component_id:
                return component
        raise KeyError(component_id)

    def measured(self, component_id: str, name: str) -> Measurement | None:
        """The measurement `name` of a component, or None when it was not taken."""
        for measurement in self.measurements.get(component_id, ()):
            if measurement.name == name:
                return measurement
        return None

    def accepted(self) -> tuple[Proposal, ...]:
        """Proposals the gate accepted, in priority order."""
        ids = {v.proposal_id for v in self.verdicts if v.outcome == "accepted"}
        return tuple(p for p in self.proposals if p.id in ids)

    def without_timings(self) -> dict[str, Any]:
        """The part that is byte-equal between two runs with one seed."""
        return self.model_dump(mode="json", exclude={"timings"})

    def _repr_html_(self) -> str:
        from zsei.report.notebook import record_html

        return record_html(self)


class Citation(Record):
    """Where an answer's row comes from."""

    run: str
    finding: str | None = None
    text: str = ""


class Answer(Record):
    """What ask() returns: prose, the rows behind it, and where each comes from."""

    question: str
    text: str
    rows: tuple[dict[str, JsonValue], ...] = ()
    citations: tuple[Citation, ...] = ()
    voice: str = "rules"
    searched: int = 0
    """How many were searched."""
    among: Literal["analyses", "measurements"] = "analyses"
    """What was searched: analyses, or measurements of speed, profiles and checked claims."""
    filters: dict[str, JsonValue] = Field(default_factory=dict)
