"""In which order accepted speed-ups are combined: as a language model says, or as measured.

The order decides what is tried first, and nothing else: every step is judged and raced again, so
that no word of a language model changes a verdict.
"""

from collections.abc import Iterable, Sequence

from pydantic import JsonValue

from zsei.advice import shown
from zsei.advice.schemas import SpeedOrder
from zsei.cards import Cards
from zsei.errors import LLMError
from zsei.llm import Line, LLMRequest, ask_typed
from zsei.llm.card_request import enclosed, knowledge_of, request_of
from zsei.speed.record import Trial

AGENT = "speed-strategist"
_ROOM = 12_000
"""Characters of trials that are shown."""


def order_by_strategist(
    trials: Sequence[Trial], cards: Cards, line: Line | None
) -> tuple[str, ...]:
    """Names of the accepted speed-ups, in the order in which they are to be combined.

    What the language model leaves out follows in measured order, and so does everything where it
    fails. Names that are no accepted speed-up are passed over.

    Args:
        trials: Each speed-up measured alone; of several variants the fastest accepted one counts.
        cards: Where the agent, its prompt and the vocabulary of speed-ups stand.
        line: Whom to ask; None takes the measured order.
    """
    measured = by_measured_speed(trials)
    if line is None or len(measured) < 2:
        return measured
    try:
        wanted = ask_typed(line, request_about(trials, cards, line), SpeedOrder).names
    except LLMError:
        return measured
    return tuple(dict.fromkeys((*(name for name in wanted if name in measured), *measured)))


def by_measured_speed(trials: Iterable[Trial]) -> tuple[str, ...]:
    """Accepted speed-ups by their measured speed-up, the largest first; ties go by name."""
    fastest: dict[str, float] = {}
    for trial in trials:
        if trial.verdict.outcome == "accepted" and trial.speed_up is not None and trial.steps:
            name = trial.steps[0].speedup
            fastest[name] = max(fastest.get(name, 0.0), trial.speed_up.median)
    return tuple(sorted(fastest, key=lambda name: (-fastest[name], name)))


def request_about(trials: Sequence[Trial], cards: Cards, line: Line) -> LLMRequest:
    """What the agent is asked about trials."""
    agent = cards.agents[AGENT]
    told = shown.bounded((_told(trial, cards) for trial in trials), _ROOM)
    parts: dict[str, JsonValue] = {"trials": told} | knowledge_of(agent, cards)
    return request_of(agent, cards, enclosed(parts), line.settings)


def _told(trial: Trial, cards: Cards) -> JsonValue:
    """One trial as data: its name, what it does, what was measured and judged."""
    name = trial.steps[0].speedup if trial.steps else ""
    entry = cards.speedups.get(name)
    told: dict[str, JsonValue] = {
        "name": name,
        "step": shown.words(" + ".join(step.text() for step in trial.steps)),
        "outcome": trial.verdict.outcome,
        "reason": shown.words(trial.verdict.reason),
        "exact": trial.exact,
    }
    if entry is not None:
        told |= {"does": entry.does, "risk": entry.risk}
    if trial.speed_up is not None:
        told["speed_up"] = trial.speed_up.model_dump(mode="json")
    told["measurements"] = {m.name: m.value for m in trial.measurements}
    return told
