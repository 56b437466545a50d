"""How proposing and judging took turns, what critics held against it, and what was struck out."""

from dataclasses import dataclass

from zsei.records import AnalysisRecord, Objection
from zsei.report.text import percent, short


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A row of the table of rounds."""

    number: int
    who: str
    tried: int
    accepted: int
    rejected: int
    other: int
    """Inapplicable, inconclusive or failed."""
    gain: str
    """What the best accepted set so far saves; an en dash where nothing was accepted."""


def turns(record: AnalysisRecord) -> tuple[Turn, ...]:
    """One row per round."""
    return tuple(
        Turn(
            number=turn.number,
            who=short(turn.voice, 40),
            tried=len(turn.proposal_ids),
            accepted=turn.outcomes.get("accepted", 0),
            rejected=turn.outcomes.get("rejected", 0),
            other=sum(n for name, n in turn.outcomes.items() if name not in _TOLD),
            gain="–" if turn.gain is None else percent(turn.gain),
        )
        for turn in record.rounds
    )


_TOLD = ("accepted", "rejected")


def objections_to(record: AnalysisRecord, about: str) -> tuple[Objection, ...]:
    """What was held against an interpretation, a finding or a proposal."""
    return tuple(objection for objection in record.objections if objection.about == about)


def struck(record: AnalysisRecord) -> int:
    """Statements struck out of all texts, because they did not hold."""
    return sum(interpretation.struck for interpretation in record.interpretations)


def counted(record: AnalysisRecord) -> str:
    """`2 statements struck out, 1 objection`; empty where there is neither."""
    numbers = (
        (struck(record), "statement struck out", "statements struck out"),
        (len(record.objections), "objection", "objections"),
    )
    return ", ".join(f"{n} {one if n == 1 else several}" for n, one, several in numbers if n)
