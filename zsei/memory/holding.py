"""Whether a wording holds: no number, name or outcome of its own, no comparison that is not so."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from zsei.advice.numerals import numbers_in
from zsei.memory.vocabulary import Vocabulary, plain
from zsei.memory.words import OUTCOMES, foreign_names

_SLOT = re.compile(r"\{(r\d+\.\w+)\}")
_MORE = (
    r"more|greater|larger|higher|bigger|stronger|wider|deeper|costlier|heavier|longer|slower|better"
)
_LESS = r"less|fewer|smaller|lower|weaker|narrower|shallower|cheaper|lighter|shorter|faster|worse"
_THAN = re.compile(rf"\b(?:(?P<more>{_MORE})|(?P<less>{_LESS}))\b[^{{}}]*\bthan\b", re.IGNORECASE)
_COMPARES = re.compile(
    rf"\b(?:{_MORE}|{_LESS}|than|most|least|largest|highest|greatest|biggest|strongest|best|worst"
    r"|smallest|lowest|weakest|fewest|exceed\w*|outweigh\w*|surpass\w*|above|below|beyond|under"
    r"|over|equal\w*|identical|same|ris(?:e[sn]?|ing)|rose|fell|fall(?:s|en|ing)?|drop\w*"
    r"|increas\w*|decreas\w*|improv\w*|worsen\w*|gr(?:ew|ow\w*)|shr[aiu]nk\w*|maximum|minimum)\b"
    r"|[<>=≤≥≈]",
    re.IGNORECASE,
)
_DENIES = re.compile(r"\b(?:not|no|never|neither|nor|hardly|without)\b|n't\b", re.IGNORECASE)
_IDENTIFIER = re.compile(r"\w[\w-]*(?:[./:_#]+\w[\w-]*)+")
_LONGEST = 2000


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a wording may rest on."""

    slots: Mapping[str, str]
    """Slot -> what the program writes there."""
    values: Mapping[str, int | float] = field(default_factory=dict)
    """The slots that are numbers."""
    question: str = ""
    vocabulary: Vocabulary | None = None
    """Every name that memory knows: those that neither question nor rows hold may not be named."""


def problem_of(text: str, claims: Claims) -> str:
    """The first thing that is wrong with a wording; "" when it holds.

    Names of memory, and words for outcomes, are known; a lie in other words is not. So the rows and
    their sources stand under every wording.
    """
    if not text.strip() or len(text) > _LONGEST:
        return f"the text must not be empty, nor longer than {_LONGEST} characters"
    if any(slot not in claims.slots for slot in _SLOT.findall(text)):
        return "there is a slot that the rows do not have"
    bare = _SLOT.sub(" ", text)
    if numbers_in(bare):
        return "there is a number outside a slot"
    if "{" in bare or "}" in bare:
        return "there is a brace that belongs to no slot"
    if _names_others(bare, claims):
        return "there is a name or an outcome that the rows do not have"
    if not all(_compares_rightly(each, claims) for each in re.split(r"[.!?;\n]+(?:\s|$)", text)):
        return "there is a comparison that the rows do not carry"
    return ""


def _names_others(bare: str, claims: Claims) -> bool:
    held = plain(" ".join(claims.slots.values()))
    known = f"{held} {plain(claims.question)}"
    lowered = bare.lower()
    for outcome, wordings in OUTCOMES.items():
        said = any(re.search(rf"\b{wording}\b", lowered) for wording in wordings)
        if said and outcome not in held:
            return True
    written = [*_IDENTIFIER.findall(lowered), *foreign_names(lowered)]
    if any(plain(name) not in known for name in written):
        return True
    if claims.vocabulary is None:
        return False
    for match in claims.vocabulary.pattern.finditer(lowered):
        slots = {slot for slot, _ in claims.vocabulary.named(match[0])}
        if slots & {"model", "code", "strategy", "metric"} and plain(match[0]) not in known:
            return True
    return False


def _compares_rightly(sentence: str, claims: Claims) -> bool:
    """A comparison is "{a} ... larger than {b}", of one quantity, and so."""
    bare = _SLOT.sub(" ", sentence)
    if not _COMPARES.search(bare):
        return True
    told = [slot for slot in _SLOT.findall(sentence) if slot in claims.values]
    than = _THAN.search(sentence)
    if than is None or len(told) != 2 or _DENIES.search(bare):
        return False
    first, second = (sentence.index(f"{{{slot}}}") for slot in told)
    if not (first < than.start() and second >= than.end()):
        return False
    if len(_COMPARES.findall(bare)) > 2 or _quantity(told[0], claims) != _quantity(told[1], claims):
        return False
    a, b = (claims.values[slot] for slot in told)
    return a > b if than["more"] else a < b


def _quantity(slot: str, claims: Claims) -> tuple[str, str]:
    """What a slot tells of: the metric that its row names, or else its column."""
    row, column = slot.split(".")
    metric = claims.slots.get(f"{row}.metric") or claims.slots.get(f"{row}.quantity") or ""
    return (metric, re.sub(r"^(?:before|after|bound|timed)_", "", column) if not metric else "")
