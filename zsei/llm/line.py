"""A line to a language model: who is asked, within which limits, and what was asked so far.

One analysis, question or conversation opens one line and hands it to all who speak, so that the
budget holds for them together.
"""

from dataclasses import dataclass, field

from zsei.llm.connect import connect
from zsei.llm.types import LLM, CallRecord
from zsei.settings import LLMSettings, Settings


@dataclass(frozen=True, kw_only=True)
class Line:
    """Whom to ask, and the ledger of what was asked."""

    llm: LLM
    settings: LLMSettings = field(default_factory=LLMSettings)
    log: list[CallRecord] = field(default_factory=list)
    """Every call, failed ones included, in order."""

    @property
    def voice(self) -> str:
        """Name of the model that answered last."""
        return self.log[-1].model if self.log else str(getattr(self.llm, "name", "a model"))


def open_line(settings: Settings) -> Line | None:
    """The line that the settings name; None lets rules speak.

    Raises:
        UsageError: See `connect`.
    """
    llm = connect(settings)
    return None if llm is None else Line(llm=llm, settings=settings.llm_call)
