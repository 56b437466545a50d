"""What is found out about an architecture once, and serves all its checkpoints."""

from dataclasses import dataclass, field

from zsei.checkpoint.magnitude import Slices, find_slices
from zsei.subject.types import Site, Subject
from zsei.trace.engine import Engine, engine_for
from zsei.trace.taps import Taps, find_taps


@dataclass(eq=False, kw_only=True)
class Ready:
    """An engine and taps of one architecture. Both read the model's weights where they lie, so they
    go on being right when other weights are put in there.
    """

    engine: Engine
    taps: Taps
    _slices: dict[tuple[str, str], tuple[Slices, ...]] = field(default_factory=dict)

    def slices(self, subject: Subject, site: Site) -> tuple[Slices, ...]:
        """What of the parameters belongs to the units of a place."""
        key = (site.component, site.kind)
        if key not in self._slices:
            self._slices[key] = find_slices(subject, site)
        return self._slices[key]


def ready_for(subject: Subject) -> Ready:
    """The engine and the taps of a subject."""
    engine = engine_for(subject)
    return Ready(engine=engine, taps=find_taps(subject, engine))
