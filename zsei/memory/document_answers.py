"""Answers out of documents: rows of stored numbers, each line with the document it comes from."""

import re
from collections.abc import Sequence
from dataclasses import replace

from zsei.memory.chunks import some
from zsei.memory.document_lines import BASELINE, TOGETHER, WHOLE, Kind, Line, lines_of
from zsei.memory.document_words import AboutDocuments
from zsei.memory.documents import newest, whole
from zsei.memory.say import Draft, refusal, source
from zsei.memory.schema import damaged
from zsei.memory.store import Memory
from zsei.memory.vocabulary import Vocabulary
from zsei.records import Citation

_SHOWN = 12
_WORTH_IT = 0.05
"""Share of the time from which a part is told without being named; those under it stand in the
record."""
_THINGS: dict[Kind, str] = {"speed": "speed-up", "claims": "claim", "profile": "part"}


def answer_documents(memory: Memory, about: AboutDocuments, vocabulary: Vocabulary) -> Draft:
    """What the measurements say.

    Raises:
        MemoryDamaged: A document is not what was written.
    """
    held = [(name, model) for name, kind, model in vocabulary.documents if kind == about.kind]
    known = some(tuple(dict.fromkeys(model for _, model in held)))
    if about.unknown or not about.documents:
        what = ", ".join(map(repr, about.unknown)) or "that"
        subjects = some(vocabulary.measured.get(about.kind, ()))
        return refusal(
            f"No such measurement in memory: {what} is not known here. Measurements of "
            f"{about.kind} are there of {known}. Measured: {subjects}."
        )
    chosen = about.documents if about.everywhere else _newest(about, held)
    lines = _lines(memory, chosen)
    fitting = _fitting(lines, about)
    asked = _THINGS[about.kind]
    if not fitting:
        return _none(about, lines, asked)
    judged = [line for line in lines if line.subject not in (BASELINE, WHOLE)]
    came = f", {' or '.join(sorted({line.outcome for line in fitting}))}" if about.outcomes else ""
    head = f"{_counted(len(fitting), len(judged), asked)} on {_models(fitting)}{came}:"
    shown = fitting[:_SHOWN]
    said = [f"{line.text} {source(line.row)}" for line in shown]
    more = [f"... and {len(fitting) - _SHOWN} more."] if len(fitting) > _SHOWN else []
    text = said[0] if len(fitting) == 1 else "\n".join([head, *said, *more])
    draft = Draft(
        text=text, rows=tuple(line.row for line in fitting), citations=_cited(fitting),
    )  # fmt: skip
    if about.left:
        words = ", ".join(map(repr, about.left))
        draft = replace(draft, remarks=f"\n(Not taken into account: {words}.)")
    return draft


def _newest(about: AboutDocuments, held: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The newest document of each model; `held` has the newest first."""
    first: dict[str, str] = {}
    for name, model in held:
        if name in about.documents:
            first.setdefault(model, name)
    return tuple(first.values())


def _lines(memory: Memory, names: Sequence[str]) -> list[Line]:
    with memory.reading() as db:
        rows = [newest(db, name) for name in names]
    found: list[Line] = []
    for row in rows:
        try:
            found += lines_of(whole(row))
        except ValueError as error:
            raise damaged(memory.path, f"of document {row['id']}, {error}") from error
    return found


def _fitting(lines: Sequence[Line], about: AboutDocuments) -> list[Line]:
    """The lines that a question asks for."""
    fitting = list(lines)
    if about.amounts and about.kind == "claims":
        return [line for line in fitting if _claims(line, about.amounts)]
    if about.together:
        fitting = [line for line in fitting if _is_joint(line)]
    elif about.subjects:
        named = [line for line in fitting if line.subject in about.subjects]
        alone = [line for line in named if not _is_joint(line)]
        fitting = alone or named
    elif about.kind == "profile":
        fitting = [line for line in fitting if _share(line) >= _WORTH_IT] or fitting
    else:
        fitting = [line for line in fitting if line.subject != BASELINE]
    if about.outcomes:
        fitting = [line for line in fitting if line.outcome in about.outcomes]
    if about.best:
        fitting = sorted(fitting, key=_worth, reverse=True)[:1]
    return fitting


def _is_joint(line: Line) -> bool:
    """Whether it is about several speed-ups at once."""
    return line.subject.startswith(f"{TOGETHER} (") or line.row.get("claimed") == "combined"


def _claims(line: Line, amounts: Sequence[float]) -> bool:
    """Whether a claim states one of these numbers, as a limit or in its own words."""
    limits = (line.row.get("at_least"), line.row.get("at_most"))
    quoted = _numbers(str(line.row.get("quote", "")))
    return any(amount in limits or amount in quoted for amount in amounts)


def _numbers(text: str) -> set[float]:
    """Every number that stands in a text."""
    return {float(found) for found in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", text)}


def _share(line: Line) -> float:
    share = line.row.get("share")
    return share if isinstance(share, float) else 0.0


def _worth(line: Line) -> float:
    for name in ("speed_up", "share", "seconds", "value"):
        value = line.row.get(name)
        if isinstance(value, int | float):
            return float(value)
    return float("-inf")


def _none(about: AboutDocuments, lines: Sequence[Line], asked: str) -> Draft:
    """None fits: said with what was looked at."""
    if about.amounts and about.kind == "claims":
        return refusal(
            f"No claim of {', '.join(f'{a:g}' for a in about.amounts)} was checked; checked were: "
            f"{some([line.subject for line in lines])}."
        )
    what = " or ".join(about.outcomes) or "like that"
    text = f"None of {len(lines)} {asked}s measured on {_models(lines)} is {what}."
    return Draft(text=text, citations=_cited(lines))


def _counted(count: int, of: int, thing: str) -> str:
    return f"{count} of {of} {thing}s" if count < of else f"{count} {thing}s"


def _models(lines: Sequence[Line]) -> str:
    return some(list(dict.fromkeys(line.model for line in lines)))


def _cited(lines: Sequence[Line]) -> tuple[Citation, ...]:
    named = {str(line.row["run"]): line for line in reversed(lines)}
    return tuple(
        Citation(run=name, text=f"{line.row['kind']} of {line.model}")
        for name, line in reversed(named.items())
    )
