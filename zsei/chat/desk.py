"""What a conversation works with: memory, cards, a language model or none, and open models."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from zsei.cards import Cards
from zsei.chat.reopen import Reopened, reopen
from zsei.llm.line import Line
from zsei.memory import Memory
from zsei.records import AnalysisRecord, digest
from zsei.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one conversation may spend on actions; no action begins beyond it."""

    actions: int = 20
    seconds: float = 900.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Desk:
    """What a conversation works with. It holds nothing that was said: see `Conversation`."""

    memory: Memory
    cards: Cards
    settings: Settings
    line: Line | None = None
    """Chooses the next step where rules cannot, and words answers; None lets rules do both."""
    limits: Limits = field(default_factory=Limits)
    interactive: bool = True
    """Whether somebody can be asked to confirm."""
    yes: bool = False
    """Run what the user's own line asks for without asking; what a language model chose is asked
    for all the same."""
    model: str | nn.Module | None = None
    """The model, for analyses that do not name one that can be loaded."""
    data: Any = None
    """The data, for analyses of other than the default text."""
    progress: Callable[[float], None] = lambda _: None
    _opened: dict[str, Reopened] = field(default_factory=dict, repr=False)

    def record(self, run: str) -> AnalysisRecord:
        """The stored analysis of this id, or of an unambiguous beginning of it.

        Raises:
            UsageError: There is none.
        """
        return self.memory.get(run)

    def is_open(self, record: AnalysisRecord) -> bool:
        """Whether the analysis' model is open."""
        return _key(record) in self._opened

    def reopened(self, record: AnalysisRecord) -> Reopened:
        """The analysis with its model open; one model is opened once.

        Raises:
            ModelError, DataError: See `reopen`.
        """
        key = _key(record)
        if key not in self._opened:
            self._opened.clear()  # one model at a time is in memory
            self._opened[key] = reopen(
                record, self.settings, model=self.model, data=self.data, progress=self.progress
            )
        return replace(self._opened[key], record=record)


def _key(record: AnalysisRecord) -> str:
    """Analyses of one model under the same conditions share an open model."""
    return f"{record.provenance.model_hash}/{record.provenance.seed}/{digest(record.conditions)}"
