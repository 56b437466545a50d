"""What an analyzer may look at."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

from zsei.graph.flow import FlowGraph
from zsei.importance.ranking import Importance
from zsei.records import Finding
from zsei.settings import Settings
from zsei.subject.types import Subject
from zsei.trace.engine import Engine
from zsei.trace.summary import Trace


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """Everything measured so far, and the engine for the few extra runs an analyzer needs."""

    subject: Subject
    engine: Engine
    trace: Trace
    flow: FlowGraph
    importance: Importance
    settings: Settings


class Analyzer(Protocol):
    """One analysis: frozen dataclass, thresholds as fields, one method."""

    code: ClassVar[str]
    clock: ClassVar[bool]
    """Whether its findings rest on measured time; such findings live in the record's timings."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """Findings in a fixed order."""
        ...
