"""A line to a language model: who is asked, within which limits, and what was asked so far.

One analysis, question or conversation opens one line and hands it to all who speak, so that the
budget holds for them together.
"""

from dataclasses import dataclass, field

from zsei.llm.cache import AnswerCache, cache_of
from zsei.llm.connect import connect
from zsei.llm.scripted import ScriptedLLM
from zsei.llm.types import LLM, CallRecord
from zsei.settings import LLMSettings, Settings


@dataclass(frozen=True, kw_only=True)
class Line:
    """Whom to ask, and the ledger of what was asked."""

    llm: LLM
    settings: LLMSettings = field(default_factory=LLMSettings)
    log: list[CallRecord] = field(default_factory=list)
    """Every call, failed ones included, in order, and every answer out of the cache."""
    cache: AnswerCache | None = None
    """Answers of earlier lines; None asks anew each time."""

    @property
    def name(self) -> str:
        """Name of the model that is asked."""
        return str(getattr(self.llm, "name", type(self.llm).__name__))

    @property
    def voice(self) -> str:
        """Name of the model that answered last."""
        return self.log[-1].model if self.log else str(getattr(self.llm, "name", "a model"))


def open_line(settings: Settings) -> Line | None:
    """The line that the settings name; None lets rules speak.

    Answers of real models are cached under `settings.home`; those of a script never, since a script
    says what it was told to say each time.

    Raises:
        UsageError: See `connect`.
    """
    llm = connect(settings)
    if llm is None:
        return None
    cached = settings.llm_call.cache and not isinstance(llm, ScriptedLLM)
    return Line(llm=llm, settings=settings.llm_call, cache=cache_of(settings) if cached else None)
