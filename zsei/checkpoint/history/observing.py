"""Takes what was measured at a checkpoint into what is kept over the checkpoints of a run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import StructuralAnalysisRequest
from zsei.checkpoint.decide.numbering import (
    Cut,
    PerUnit,
    Place,
    original_names,
    original_place,
    original_row,
    smoothed,
)  # fmt: skip
from zsei.checkpoint.history.history import History, observe
from zsei.checkpoint.history.series import Series, follow
from zsei.checkpoint.measure.combine import Combined
from zsei.checkpoint.measure.follow_parameters import (
    dead_parameters,
    followed_sizes,
    observe_parameters,
)
from zsei.checkpoint.measure.measuring import Measured
from zsei.checkpoint.state import State
from zsei.checkpoint.tasks import SiteMeasure
from zsei.errors import ZseiError
from zsei.records import Component


@dataclass(frozen=True, kw_only=True, eq=False)
class Observed:
    """The state with one more checkpoint, and what it says about the model as it is now."""

    state: State
    importance: dict[str, PerUnit]
    """"component|kind" -> smoothed over the checkpoints, per unit as it is numbered now."""
    dead: dict[str, int]
    """Parameter -> entries that were dead over the checkpoints."""
    original: dict[str, str] = field(default_factory=dict)
    """Id of a component -> the id it had when the run began, where a cut renamed it."""
    notes: tuple[str, ...] = ()


def observed(
    state: State,
    measured: Measured,
    cuts: Sequence[Cut],
    request: StructuralAnalysisRequest,
    wanted: float,
    config: CheckpointConfig,
) -> Observed:
    """One more checkpoint. What does not fit what was kept is begun anew, and said.

    Args:
        state: After the checkpoint before.
        measured: At this one; nothing was when it has no `combined`.
        cuts: Between the model the run began with and this one, oldest first.
        request: Which checkpoint this is.
        wanted: Share of the parameters that should be gone by the schedule.
        config: Thresholds.
    """
    ledger, combined = measured.ledger, measured.combined
    if combined is None:
        return Observed(state=replace(state, ledger=ledger), importance={}, dead={})
    places, notes = _places(combined.importance, cuts)
    history, fresh = _fitting(state.history, places)
    epoch = request.checkpoint.epoch
    rows = {place.key: original_row(place, combined.importance[key]) for key, place in
            places.items()}  # fmt: skip
    history = observe(history, epoch, rows)
    numbers = _of_the_model(request, combined, wanted)
    series, more = _followed(state.series, epoch, combined, places, numbers)
    sketch = observe_parameters(state.sketch, measured.groups)
    sizes = followed_sizes(measured.groups)
    counts = {**ledger.observed, **{name: ledger.observed.get(name, 0) + 1 for name in sizes}}
    ledger = ledger.model_copy(update={"observed": counts})
    return Observed(
        state=State(ledger=ledger, history=history, series=series, sketch=sketch),
        importance={key: smoothed(history, place) for key, place in places.items()},
        dead=dead_parameters(sketch, sizes, counts, config),
        original=original_names(combined.components, places, cuts),
        notes=(*notes, *fresh, *more),
    )


def as_it_began(components: Iterable[Component], seen: Observed) -> tuple[Component, ...]:
    """Components by the ids and numbers that they had when the run began."""

    def named(name: str) -> str:
        return seen.original.get(name, name)

    found = []
    for component in components:
        changes: dict[str, object] = {"id": named(component.id)}
        if component.parent:
            changes["parent"] = named(component.parent)
        if component.kind == "head" and component.index is not None:
            changes["index"] = int(named(component.id).rpartition(".")[2])
        found.append(component.model_copy(update=changes))
    return tuple(found)


def _places(
    importance: Mapping[str, PerUnit], cuts: Sequence[Cut]
) -> tuple[dict[str, Place], list[str]]:
    places: dict[str, Place] = {}
    notes: list[str] = []
    for key, values in importance.items():
        try:
            places[key] = original_place(key, len(values), cuts)
        except ZseiError as error:
            notes.append(f"{key} is left out of the history: {error}")
    return places, notes


def _fitting(history: History, places: Mapping[str, Place]) -> tuple[History, list[str]]:
    """The history without places that had another number of units than they can have had."""
    wrong = [
        place.key
        for place in places.values()
        if place.key in history.values and history.values[place.key].shape[1] != place.units
    ]
    if not wrong:
        return history, []
    values = {name: rows for name, rows in history.values.items() if name not in wrong}
    told = f"the history of {', '.join(wrong)} begins anew: it was of another number of units"
    return replace(history, values=values), [told]


def _followed(
    series: Series,
    epoch: int,
    combined: Combined,
    places: Mapping[str, Place],
    model: Mapping[str, float | None],
) -> tuple[Series, list[str]]:
    """The series with one more checkpoint, by the names and numbers the run began with."""
    sites = [_renamed(site, places[site.key]) for site in combined.sites if site.key in places]
    numbers = {place.key: place.numbers.tolist() for place in places.values()}
    names = {key.rpartition("|")[0]: place.key.rpartition("|")[0] for key, place in places.items()}
    measurements = {names.get(c, c): found for c, found in combined.measurements.items()}

    def again(before: Series) -> Series:
        return follow(
            before, epoch, sites=sites, measurements=measurements, model=model, numbers=numbers
        )

    try:
        return again(series), []
    except ZseiError as error:
        try:
            return again(Series()), [f"the series begin anew: {error}"]
        except ZseiError as worse:
            return series, [f"this checkpoint is in no series: {worse}"]


def _renamed(site: SiteMeasure, place: Place) -> SiteMeasure:
    """A place by its first name, without what is held at zero: that did not die, it was stopped."""
    parts = {
        name: tuple(None if held else value for value, held in zip(values, place.held, strict=True))
        for name, values in site.parts.items()
        if len(values) == len(place.held)
    }
    component = place.key.rpartition("|")[0]
    return site.model_copy(update={"component": component, "parts": parts})


def _of_the_model(
    request: StructuralAnalysisRequest, combined: Combined, wanted: float
) -> dict[str, float | None]:
    architecture, checkpoint = request.architecture, request.checkpoint
    return {
        "loss": checkpoint.loss,
        "accuracy": checkpoint.accuracy,
        "sparsity": 1 - architecture.parameters / architecture.original_parameters,
        "sparsity_wanted": wanted,
        "analysis_confidence": combined.confidence,
    }
