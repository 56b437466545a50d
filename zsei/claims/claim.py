"""What a file of claims says: the types, and what each kind of claim may say."""

from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from zsei.records import Record
from zsei.speedups.speedup import Step, Use

Kind = Literal[
    "speed-up", "throughput", "latency", "memory", "scaling", "accuracy", "difference", "combined"
]  # fmt: skip
Unit = Literal["x", "samples/s", "ms/sample", "%", "share", "1"]
Part = Literal["model", "attention"]

KINDS: tuple[Kind, ...] = get_args(Kind)
UNITS: dict[Kind, tuple[Unit, ...]] = {
    "speed-up": ("x",),
    "throughput": ("samples/s",),
    "latency": ("ms/sample",),
    "memory": ("x", "%"),
    "scaling": ("x",),
    "accuracy": ("share", "%"),
    "difference": ("1",),
    "combined": ("x",),
}
"""Units of each kind, its own first. Memory in x is how many times less, in % how much of the
baseline's is gone; accuracy is the loss of it."""
SMALLER: frozenset[Kind] = frozenset({"latency", "accuracy", "difference"})
"""Kinds of which less is better: of a range the upper end is what is claimed."""
ATTENTION = "attention-backend"
"""The speed-up that memory of the attention is about."""
STEPLESS: frozenset[Kind] = frozenset({"scaling", "throughput", "latency"})
"""Kinds that may be claimed of the baseline itself."""


def _number(value: object) -> object:
    """YAML reads `yes` as true, which is no number."""
    if isinstance(value, bool):
        raise ValueError("a number is needed, not yes or no")
    return value


Number = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Count = Annotated[PositiveInt, BeforeValidator(_number)]


class At(Record):
    """Where a claim is measured, in place of the file's workload."""

    batch: Count | None = None
    """Samples to a batch."""
    length: Count | None = None
    """Positions of a sample."""


class Factor(Record):
    """How many times faster some cores are than one."""

    at_least: Number
    at_most: Number | None = None
    """Beyond it more than claimed is reported."""

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        """`2: 1.8` and `2: [1.8, 1.9]` are the short forms."""
        if isinstance(value, list) and len(value) == 2:
            return {"at_least": value[0], "at_most": value[1]}
        return value if isinstance(value, dict | Factor) else {"at_least": value}

    @model_validator(mode="after")
    def _ordered(self) -> "Factor":
        if self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(f"at_least {self.at_least:g} lies above at_most {self.at_most:g}")
        return self


class Claim(Record):
    """One sentence about a model, as data.

    A range of something of which more is better ("2 to 4 times faster") claims its lower end: a
    measurement above it holds, and beyond the upper end it is *more than claimed*, which holds too.
    Of latency, difference and loss of accuracy the upper end is claimed.
    """

    id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    kind: Kind
    unit: Unit | None = None
    """None takes the kind's own (`UNITS`)."""
    at_least: Number | None = None
    at_most: Number | None = None
    table: dict[Count, Factor] = Field(default_factory=dict)
    """Scaling: cores -> factor over one core. Every row is judged on its own."""
    steps: tuple[Step, ...] = ()
    """The speed-ups that are claimed, carried out together."""
    alternatives: tuple[tuple[Step, ...], ...] = ()
    """Where a claim names a family, the ways to do it; the best one counts and is named."""
    use: Use | None = None
    """None takes the workload's."""
    at: At = At()
    of: Part = "model"
    """Memory: of the whole model (weights and the worst moment of a call), or of the attention call
    alone, at the length given in `at`."""
    quote: str = Field(default="", max_length=1000)
    """The sentence itself."""
    source: str = Field(default="", max_length=400)

    @property
    def measured_in(self) -> Unit:
        """The unit of the limits and of the measurement."""
        return self.unit or UNITS[self.kind][0]

    @property
    def ways(self) -> tuple[tuple[Step, ...], ...]:
        """All there are to try, one of them at least."""
        return self.alternatives or (self.steps,)

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """(least, most) that decide whether it holds."""
        if self.at_least is None or self.at_most is None:
            return self.at_least, self.at_most
        return (None, self.at_most) if self.kind in SMALLER else (self.at_least, None)

    @model_validator(mode="after")
    def _fits(self) -> "Claim":
        for says in (_unit, _limits, _ways, _places):
            wrong = says(self)
            if wrong:
                raise ValueError(wrong)
        return self


class WorkloadOf(Record):
    """What is run."""

    batch: Count = 16
    """Samples to a batch."""
    length: Annotated[int, BeforeValidator(_number), Field(ge=4)] = 64
    """Tokens per text; other data has its own length."""
    samples: Annotated[int, BeforeValidator(_number), Field(ge=4)] = 64
    """In all; half of them calibrate, half are timed and judged."""
    threads: Count | None = None
    """Torch threads of the baseline; None leaves torch's own choice."""
    use: Use = "inference"


class ClaimsFile(Record):
    """A file of claims: one model, one workload, one baseline, and what is claimed of them."""

    title: str = Field(default="", max_length=200)
    model: str = Field(min_length=1)
    """As anywhere; a factory `file:function` is looked for beside the file of claims too."""
    data: dict[str, str] | str | None = None
    """A file, or groups by name; relative to the file of claims."""
    objective: str = "auto"
    safety: Literal["conservative", "moderate", "aggressive"] = "moderate"
    """Whose limits bound the loss of accuracy, where a claim says none."""
    device: str = "cpu"
    seed: int = Field(default=0, ge=0)
    workload: WorkloadOf = WorkloadOf()
    baseline: tuple[Step, ...] = ()
    """Steps that the baseline has too; none is eager attention, float32, padded batches."""
    claims: tuple[Claim, ...] = Field(min_length=1)

    def baseline_of(self, use: Use) -> tuple[Step, ...]:
        """Steps of the baseline of inference or training: it is of the workload's own use."""
        return self.baseline if use == self.workload.use else ()

    def use_of(self, claim: Claim) -> Use:
        """What a claim is about: inference or training."""
        return claim.use or self.workload.use


def _unit(claim: Claim) -> str:
    allowed = UNITS[claim.kind]
    if claim.unit is None or claim.unit in allowed:
        return ""
    return f"a claim of {claim.kind} is in {' or '.join(allowed)}, not in {claim.unit!r}"


def _limits(claim: Claim) -> str:
    least, most = claim.at_least, claim.at_most
    if claim.kind == "scaling":
        if least is not None or most is not None:
            return "a claim of scaling says its factors in its table, not in at_least or at_most"
        return "" if claim.table else "a claim of scaling needs a table of cores and factors"
    if claim.table:
        return f"a claim of {claim.kind} has no table; only scaling has one"
    if claim.kind == "accuracy" and least is not None:
        return "a claim of accuracy says at_most: the largest loss, or none for the gate's limits"
    if claim.kind == "difference" and most is None:
        return "a claim of difference says at_most"
    if least is None and most is None and claim.kind != "accuracy":
        return f"a claim of {claim.kind} says at_least, at_most or both"
    if least is not None and most is not None and least > most:
        return f"at_least {least:g} lies above at_most {most:g}"
    top = 100 if claim.measured_in == "%" else 1 if claim.measured_in == "share" else None
    above = [x for x in (least, most) if x is not None and top is not None and x > top]
    return f"{above[0]:g} is more than all of it ({top} in this unit)" if above else ""


def _ways(claim: Claim) -> str:
    if claim.steps and claim.alternatives:
        return "a claim has steps or alternatives, not both"
    if any(not way for way in claim.alternatives):
        return "an alternative without steps is none"
    if claim.kind not in STEPLESS and not any(claim.ways):
        return f"a claim of {claim.kind} needs the steps that are claimed"
    if claim.kind == "combined" and any(len(way) < 2 for way in claim.ways):
        return "a combined claim needs two steps or more"
    return ""


def _places(claim: Claim) -> str:
    if claim.of == "attention" and claim.kind != "memory":
        return "only a claim of memory can be of the attention alone"
    alone = all([step.speedup for step in way] == [ATTENTION] for way in claim.ways)
    if claim.of == "attention" and not alone:
        return f"memory of the attention is about {ATTENTION} alone, one step in every way"
    if claim.of == "attention" and claim.at.length is None:
        return "memory of the attention needs `at: {length: N}`, because it grows with its square"
    if claim.use == "training" and claim.kind in ("accuracy", "difference"):
        return f"a claim of {claim.kind} is about inference: outputs of the model as it is"
    if claim.use == "training" and claim.of == "attention":
        return "memory of the attention is about inference"
    if claim.use == "training" and claim.at != At():
        return "a claim about training is measured on the workload's own batches, without `at`"
    return ""
