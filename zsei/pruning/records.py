"""What a prune was asked for, what it tried, and what came of it."""

from collections.abc import Iterable
from typing import Literal, get_args

from pydantic import Field, model_validator

from zsei.errors import SurgeryRefused
from zsei.records import Measurement, Record, Verdict
from zsei.subject.types import Anatomy
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits, ReplaceLayer

PruneKind = Literal["heads", "neurons", "channels", "experts", "layers"]
ALL_KINDS: tuple[PruneKind, ...] = get_args(PruneKind)


class Budget(Record):
    """How small the result must be, and how much it may lose. Shares of the original are kept."""

    parameters: float | None = Field(default=None, gt=0, lt=1)
    """At most this share of the parameters."""
    flops: float | None = Field(default=None, gt=0, lt=1)
    """At most this share of the operations."""
    latency: float | None = Field(default=None, gt=0, lt=1)
    """At most this share of the time of one forward, on one thread."""
    max_drop: float | None = Field(default=None, gt=0, lt=1)
    """Largest loss of quality: drop of the score, with labels; mean divergence without. It stands
    in the place of the safety level's limits; without a size, the cut is as large as it allows."""

    @model_validator(mode="after")
    def _something(self) -> "Budget":
        sizes = [s for s in (self.parameters, self.flops, self.latency) if s is not None]
        if len(sizes) > 1:
            raise ValueError("a budget has one size: parameters, flops or latency")
        if not sizes and self.max_drop is None:
            raise ValueError("a budget needs a size (parameters, flops, latency) or max_drop")
        return self

    @property
    def size(self) -> float | None:
        """The share that may be left, of whatever it is a share of; None: only the loss counts."""
        return self.parameters or self.flops or self.latency

    def text(self) -> str:
        """The budget in words."""
        sizes = {"parameters": self.parameters, "operations": self.flops, "time": self.latency}
        parts = [f"at most {share:.0%} of the {name}" for name, share in sizes.items() if share]
        parts += [] if self.max_drop is None else [f"a loss of at most {self.max_drop:g}"]
        return " and ".join(parts)


class Taken(Record):
    """What goes at one component."""

    component: str
    kind: Literal["head", "neuron", "channel", "expert", "layer"]
    units: tuple[int, ...] | None
    """None: the whole layer."""
    instead: Literal["", "linear", "convolution"] = ""
    """What stands in a layer's place; empty: nothing."""
    of: int = 1
    """Units that the original has there."""

    @property
    def count(self) -> int:
        """How many units go; a layer is one."""
        return 1 if self.units is None else len(self.units)


class Point(Record):
    """One cut of the trade-off curve."""

    number: int
    variant: str
    """How the allocation weighed kinds against each other, or what it added."""
    repair: str
    taken: tuple[Taken, ...]
    parameters: float
    """Share of the parameters that is left."""
    flops: float
    """Share of the operations that is left."""
    predicted: float
    """Sum of the predicted divergences of its units."""
    loss: float
    """What the search compares: mean divergence, or with labels the rise of the mean loss."""
    drop: float
    """What `max_drop` bounds: mean divergence, or with labels the drop of the score."""
    measured: tuple[Measurement, ...]
    """On the samples set aside for choosing; the gate judges on others."""


class PruneRecord(Record):
    """One prune, whole."""

    schema_version: int = 1
    id: str
    model: str
    model_class: str
    model_hash: str
    parameters: int
    """Of the original."""
    versions: dict[str, str]
    seed: int
    budget: Budget
    safety: str
    objective: str
    metric: str
    kinds: tuple[PruneKind, ...]
    keep: tuple[str, ...] = ()
    """Components where nothing might go, as they were named."""
    only: tuple[str, ...] = ()
    """Components where alone something might go, as they were named; empty: anywhere."""
    samples: dict[str, int]
    """How many samples served for fitting, for choosing and for judging."""
    points: tuple[Point, ...]
    """In the order in which they were found; the first is the original."""
    tried: tuple[int, ...] = ()
    """Numbers of the points that went through the gate, in order."""
    verdicts: tuple[Verdict, ...] = ()
    """Verdicts on them."""
    accepted: int | None = None
    """Number of the accepted point that fits the budget; None: nothing is changed."""
    refused: dict[str, str] = Field(default_factory=dict)
    """Component -> why surgery cannot cut it."""
    notes: tuple[str, ...] = ()
    refusal: str = ""
    """Why nothing is changed, and what to do; empty when a cut is accepted."""
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds per stage."""
    latency: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    """Number of a point -> median latency ratio and its 90 % interval."""
    resumed: int = 0
    """How many steps came from an interrupted search of the same question."""

    @property
    def verdict(self) -> Verdict | None:
        """The last verdict."""
        return self.verdicts[-1] if self.verdicts else None

    @property
    def chosen(self) -> Point | None:
        """The accepted point."""
        return next((point for point in self.points if point.number == self.accepted), None)


def taken_of(edits: Iterable[Edit]) -> tuple[Taken, ...]:
    """Edits as data."""
    found = []
    for edit in edits:
        units = edit.units if isinstance(edit, RemoveUnits) else None
        found.append(
            Taken(
                component=edit.site.component,
                kind=edit.site.kind,  # type: ignore[arg-type]
                units=units,
                instead=edit.form if isinstance(edit, ReplaceLayer) else "",
                of=1 if units is None else edit.site.units,
            )
        )
    return tuple(sorted(found, key=lambda taken: (taken.component, taken.kind)))


def edits_of(taken: Iterable[Taken], anatomy: Anatomy) -> tuple[Edit, ...]:
    """Data as edits of a model.

    Raises:
        SurgeryRefused: The model has no such place.
    """
    found: list[Edit] = []
    for one in taken:
        site = anatomy.site(one.component, one.kind)
        if site is None:
            raise SurgeryRefused(
                f"The cut takes {one.kind}s of `{one.component}`, which this model has not; is it "
                f"the model the cut was made for?"
            )
        if one.units is not None:
            found.append(RemoveUnits(site=site, units=one.units))
        elif one.instead:
            found.append(ReplaceLayer(site=site, form=one.instead))
        else:
            found.append(BypassLayer(site=site))
    return tuple(found)
