"""Exit codes, and which one a finished analysis or answer ends with."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zsei.claims.record import ClaimsRecord
    from zsei.pruning.outlook import Outlook
    from zsei.pruning.records import PruneRecord
    from zsei.records import AnalysisRecord, Answer
    from zsei.speed.record import SpeedRecord

DONE = 0
ERROR = 1
USAGE = 2
NOTHING_ACCEPTED = 3
NOT_HELD = 3
RULES_STOOD_IN = 4
INTERRUPTED = 130


def of_record(record: "AnalysisRecord") -> int:
    """Exit code of an analysis, with the reason on stderr when it is not 0."""
    unkept = [failure for failure in record.failures if failure.stage == "memory"]
    if unkept:
        _note(f"The analysis is done, but {unkept[0].what}: {unkept[0].why.rstrip('.')}.")
        return ERROR
    unsaid = [failure for failure in record.failures if failure.stage == "advice"]
    if unsaid:
        _note(f"The language model failed and rules stood in: {unsaid[0].why.rstrip('.')}.")
        return RULES_STOOD_IN
    if not record.proposals:
        _note("Nothing was found that is worth proposing, so the gate accepted nothing.")
        return NOTHING_ACCEPTED
    if not record.accepted():
        tried = len(record.verdicts)
        _note(f"The gate accepted nothing of the {tried} changes it tried.")
        return NOTHING_ACCEPTED
    return DONE


def of_prune(record: "PruneRecord") -> int:
    """Exit code of a prune, with the reason on stderr when nothing came of it."""
    if record.accepted is not None:
        return DONE
    _note(record.refusal)
    return NOTHING_ACCEPTED


def of_speed(record: "SpeedRecord") -> int:
    """Exit code of a measurement of speed-ups, with the reason on stderr when it is not 0."""
    if record.settings is not None:
        return DONE
    tried = len(record.alone)
    _note(
        f"Nothing was accepted of the {tried} speed-ups tried; {len(record.refused)} cannot be had."
    )
    return NOTHING_ACCEPTED


def of_outlook(outlook: "Outlook") -> int:
    """Exit code of a look ahead, with the reason on stderr when the budget is out of reach."""
    if outlook.reached and outlook.points:
        return DONE
    _note(outlook.refusal or "Nothing can go within the loss that is allowed.")
    return NOTHING_ACCEPTED


def of_claims(record: "ClaimsRecord", *, strict: bool = False) -> int:
    """Exit code of a check of claims: 3 when one does not hold; strictly, when one is not held for
    sure. What is open is told on stderr either way.
    """
    wrong = [outcome.id for outcome in record.outcomes if outcome.verdict == "not held"]
    undecided, unmeasured = record.count("not decided"), record.count("not measurable here")
    said = [f"{len(wrong)} of {len(record.outcomes)} claims do not hold: {', '.join(wrong)}"]
    said = said if wrong else []
    said += [f"{undecided} not decided"] if undecided else []
    said += [f"{unmeasured} not measurable here"] if unmeasured else []
    if said:
        _note(f"{'; '.join(said)}.")
    return NOT_HELD if wrong or (strict and (undecided or unmeasured)) else DONE


def of_answer(answer: "Answer") -> int:
    """Exit code of an answer; its voice is "rules (what failed)" when rules had to stand in."""
    if answer.voice.startswith("rules ("):
        _note(f"The language model failed and rules stood in: {answer.voice[7:-1]}.")
        return RULES_STOOD_IN
    return DONE


def _note(sentence: str) -> None:
    from zsei.report.text import one_line  # it may quote what a provider said

    print(f"zsei: {one_line(sentence, 2000)}", file=sys.stderr)
