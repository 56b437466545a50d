"""What is found out about an architecture once, and serves all its checkpoints."""

from dataclasses import dataclass, field

from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.content import Content, content_of, digest_of
from zsei.checkpoint.measure.magnitude import Slices, find_slices
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
    _content: tuple[int, Content | None] | None = None
    _digests: tuple[str, dict[str, str]] | None = None

    def slices(self, subject: Subject, site: Site) -> tuple[Slices, ...]:
        """What of the parameters belongs to the units of a place."""
        key = (site.component, site.kind)
        if key not in self._slices:
            self._slices[key] = find_slices(subject, site)
        return self._slices[key]

    def content(self, subject: Subject, job: Job) -> Content | None:
        """What decides measures of the architecture; None where that cannot be told."""
        if self._content is None or self._content[0] != job.threads:
            self._content = job.threads, content_of(subject, self.taps.sites, job.threads)
        return self._content[1]

    def digests(self, subject: Subject, job: Job) -> dict[str, str]:
        """Of every constant of the program, as it is at this checkpoint."""
        content = self.content(subject, job)
        if content is None:
            return {}
        if self._digests is None or self._digests[0] != subject.model_hash:
            found = {name: digest_of(tensor) for name, tensor in content.constants.items()}
            self._digests = subject.model_hash, found
        return self._digests[1]


def ready_for(subject: Subject) -> Ready:
    """The engine and the taps of a subject."""
    engine = engine_for(subject)
    return Ready(engine=engine, taps=find_taps(subject, engine))
