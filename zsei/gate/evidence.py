"""All that the judge sees: numbers, and no text at all.

A field that is still None was not measured. What a proposal says, what components are called and
why something went wrong stay outside: the sandbox adds words to a verdict after it has been made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zsei.gate.cost import Cost
from zsei.gate.phases import TrainingRun
from zsei.gate.quality import Quality
from zsei.settings import LIMITS, EditKind, SafetyLevel
from zsei.subject.types import Anatomy, UnitKind
from zsei.surgery.edits import Edit, FactoriseLinear, RemoveUnits

_KINDS: Mapping[UnitKind, EditKind] = {
    "head": "heads",
    "neuron": "channels",
    "channel": "channels",
    "expert": "channels",
    "width": "channels",
    "branch": "layers",
    "layer": "layers",
}
_ORDER: tuple[EditKind, ...] = ("channels", "heads", "layers")
"""From the smallest change to the largest; each has wider limits than the one before it."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How many of a site's units go."""

    kind: EditKind
    units: int
    removed: int
    experts: bool = False
    """Experts are judged by the limits of channels, but how many must stay is the router's to say:
    surgery refuses fewer than each token is sent to."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much a set of edits takes, counted before anything is tried."""

    cuts: tuple[Cut, ...]
    """One per site that loses heads, neurons or channels."""
    layers: int
    """Layers the model has."""
    layers_removed: int
    """Whole layers and whole branches of one that go; two branches of a layer count twice. A layer
    that one linear map stands in for goes."""
    linears_thinned: int = 0
    """Linears that become two of lower rank."""

    @property
    def kinds(self) -> tuple[EditKind, ...]:
        """Kinds of change, from the smallest to the largest."""
        found: set[EditKind] = {cut.kind for cut in self.cuts}
        found |= {"layers"} if self.layers_removed else set()
        found |= {"channels"} if self.linears_thinned else set()
        return tuple(kind for kind in _ORDER if kind in found)


@dataclass(frozen=True, kw_only=True)
class Reach:
    """Which parameters the gradient still reaches."""

    demanded: int
    """Parameters it reached in the original and that the edited model still has."""
    lost: int
    """Those of them that it no longer reaches."""
    nonfinite: int
    """Parameters whose gradient is NaN or infinite."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything measured about one proposal."""

    size: Size
    before: Cost
    run: TrainingRun | None = None
    """Where the training run stands; None outside of one, and then no phase has a say."""
    after: Cost | None = None
    same_output: bool | None = None
    """Shape and type of the output are the original's, by the shape-only run."""
    calls_lost: int | None = None
    """Components outside the edit that lost a call."""
    quality: Quality | None = None
    """On the held-out samples as they are."""
    reach: Reach | None = None
    groups: int = 1
    """Data groups the held-out samples come from."""
    other_length: bool | None = None
    """Whether inputs can be shortened at all; None until it is known."""
    shorter: Quality | None = None
    """On the held-out samples cut to half their length."""
    artefact: float | None = None
    """Largest difference between the outputs of the edited model and of what was saved and loaded
    back, over the largest output."""
    latency: tuple[float, float, float] | None = None
    """Latency ratio after / before: median and 90 % interval. Only where the user set a limit."""


def measure_size(edits: Sequence[Edit], anatomy: Anatomy) -> Size:
    """How much the edits take. Units named twice count once."""
    taken: dict[tuple[str, UnitKind], set[int]] = {}
    units: dict[tuple[str, UnitKind], int] = {}
    bypassed: set[tuple[str, UnitKind]] = set()
    thinned: set[tuple[str, UnitKind]] = set()
    for edit in edits:
        key = (edit.site.component, edit.site.kind)
        if isinstance(edit, RemoveUnits):
            taken.setdefault(key, set()).update(edit.units)
            units[key] = edit.site.units
        elif isinstance(edit, FactoriseLinear):
            thinned.add(key)
        else:
            bypassed.add(key)
    return Size(
        cuts=tuple(
            Cut(
                kind=_KINDS[key[1]],
                units=units[key],
                removed=len(taken[key]),
                experts=key[1] == "expert",
            )
            for key in sorted(taken)
        ),
        layers=sum(component.kind == "layer" for component in anatomy.components),
        layers_removed=len(bypassed),
        linears_thinned=len(thinned),
    )


def limits_for(
    edit_kind: EditKind, edits: Sequence[Edit], safety: SafetyLevel
) -> tuple[float, float]:
    """The row of limits for a set of edits.

    It is the row of the largest change among them (channels < heads < layers), and never a wider
    one than `edit_kind` allows: what a proposal is called cannot loosen what it is.
    """
    largest = max((_ORDER.index(_KINDS[edit.site.kind]) for edit in edits), default=0)
    return LIMITS[_ORDER[min(largest, _ORDER.index(edit_kind))]][safety]
