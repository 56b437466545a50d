"""A question about a training run: which run, which epochs, and what of them.

Only where memory holds training runs; then these words are taken out before the rest is read.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from zsei.memory.remaining import Remaining
from zsei.memory.vocabulary import Vocabulary

Asked = Literal["course", "fallbacks", "cuts", "findings", "state"]
"""Numbers over the epochs; what fell back; what was cut; what was found; one checkpoint's state."""

_EPOCHS = (
    r"\bepochs?\s+((?:\d+)(?:\s*(?:,\s*and|,|and|&|to|through|until|-|–|vs\.?|versus|with)\s*"
    r"(?:epochs?\s+)?\d+)*)"
)
_NAMED = r"\b(?:training )?runs? (?:called |named )?['\"`]?([a-z][\w.-]*\w)['\"`]?"
_WHICH = r"\b(?:which|what|at which|in which|at what) epochs?\b|\bwhen\b"
_SPAN = (
    r"\b(?:over|during|across|along|throughout|in the course of) (?:the |this |its |all )?"
    r"(?:whole )?(?:training(?: run)?|run|epochs|time|checkpoints)\b|\b(?:each|per|every) epoch\b"
)
_CHANGE = (
    r"\bhow (?:did|has|have|does|do)\b.*\b(?:change|changed|develop|developed|move|moved|go)\b"
    r"|\bevol\w+\b|\bcurve\b|\bcourse\b"
)
_FALLBACKS = r"\bfall(?:ing)?[ -]?backs?\b|\bfell back\b|\bstood in\b|\bwent wrong\b|\btimed out\b"
_CUTS = r"\b(?:pruned|cut|cuts|removed|taken out|taken away|masked|pruning)\b"
_METRICS: Mapping[str, str] = {
    "importance_share": r"\b(?:share of )?importance(?: share)?\b|\b(?:most |least )?important\b"
                        r"|\bmatter(?:s|ed)?\b",
    "sparsity_wanted": r"\b(?:wanted|scheduled|planned|target) sparsity\b|\bsparsity wanted\b",
    "sparsity_real": r"\b(?:real |actual )?sparsity\b|\bshare (?:that is )?gone\b",
    "training_loss": r"\b(?:training |validation )?loss\b",
    "training_accuracy": r"\b(?:training |validation )?accuracy\b",
    "parameters_left": r"\b(?:number of )?parameters(?: left)?\b",
    "analysis_confidence": r"\b(?:analysis )?confidence\b",
}  # fmt: skip
_CODES: Mapping[str, str] = {
    "component-dying": r"\b(?:died|die|dying|death)\b",
    "component-waking": r"\b(?:woke(?: up)?|wak(?:e|ing|ened)|awoke)\b",
    "importance-rising": r"\b(?:(?:importance )?(?:rose|risen|rising)|gained importance)\b",
    "importance-falling": r"\b(?:(?:importance )?(?:fell|fallen|falling)|lost importance)\b",
    "redundancy-forming": r"\b(?:bec(?:a|o)me? (?:alike|redundant)|redundancy forming)\b",
    "gradient-unstable": r"\b(?:unstable|jump(?:ed|y|ing)?)(?: gradients?)?\b",
    "learning-stalled": r"\b(?:stall(?:ed)?|stopped (?:to learn|learning))\b",
}


@dataclass(frozen=True, kw_only=True)
class AboutRun:
    """What a question says of a training run."""

    trainings: tuple[str, ...]
    epochs: tuple[int, ...]
    asked: Asked
    which: bool
    """It asks for an epoch."""
    metrics: tuple[str, ...]
    codes: tuple[str, ...]
    rest: str
    """The question without these words."""
    unknown: tuple[str, ...]
    """Names of runs that memory does not hold."""


def read_run(question: str, vocabulary: Vocabulary) -> AboutRun | None:
    """What a question says of a training run; None when it is about none."""
    if not vocabulary.trainings:
        return None
    text = Remaining(question)
    trainings, epochs, along = _runs(text, vocabulary)
    unknown = () if trainings else _unknown(text, vocabulary)
    for match in text.take(_EPOCHS):
        epochs += _numbers(match[1])
    which = bool(list(text.take(_WHICH)))
    changes = bool(re.search(_CHANGE, question.lower()))
    course = bool(list(text.take(_SPAN))) or changes or along
    if not (trainings or epochs or unknown or course or which):
        return None
    if which and not (trainings or epochs or unknown) and "epoch" not in question.lower():
        return None  # "when was it analysed?" is about analyses
    fallbacks = bool(list(text.take(_FALLBACKS)))
    cuts = bool(re.search(_CUTS, text.rest))
    codes = tuple(code for code, pattern in _CODES.items() if list(text.take(pattern)))
    whole = course or which or len(epochs) > 1
    metrics = ()
    if whole and not codes:
        metrics = tuple(name for name, pattern in _METRICS.items() if list(text.take(pattern)))
    asked: Asked = "state"
    if fallbacks:
        asked = "fallbacks"
    elif codes:
        asked = "findings"
    elif cuts:
        asked = "cuts"
    elif whole:
        asked = "course"
    return AboutRun(
        trainings=trainings, epochs=tuple(dict.fromkeys(epochs)), asked=asked, which=which,
        metrics=metrics, codes=codes, rest=" ".join(text.rest.split()), unknown=unknown,
    )  # fmt: skip


def _runs(text: Remaining, vocabulary: Vocabulary) -> tuple[tuple[str, ...], list[int], bool]:
    """Runs by name, the longest first; epochs behind an @; whether it is asked along one."""
    along = False
    trainings: list[str] = []
    epochs: list[int] = []
    for name in sorted(vocabulary.trainings, key=lambda name: (-len(name), name)):
        called = (
            r"(?:\b(?P<along>over|during|across|along|throughout) )?"
            rf"(?:\b(?:the )?(?:training )?runs? )?(?<![\w.@-]){re.escape(name.lower())}"
        )
        for match in text.take(rf"{called}(?:@(?P<epoch>\d+))?(?![\w@-]|\.\w)(?: runs?\b)?"):
            trainings.append(name)
            epochs += [int(match["epoch"])] if match["epoch"] else []
            along = along or bool(match["along"])
    return tuple(dict.fromkeys(trainings)), epochs, along


def _unknown(text: Remaining, vocabulary: Vocabulary) -> tuple[str, ...]:
    """What is called a run and is none: neither a word nor the beginning of an id."""
    found: list[str] = []
    for match in list(re.finditer(_NAMED, text.rest)):
        name = match[1]
        analysis = any(run.lower().startswith(name) for run in vocabulary.runs)
        if not (analysis or _is_word(name)):
            found.append(name)
            text.blank(match)
    return tuple(dict.fromkeys(found))


def _is_word(name: str) -> bool:
    from zsei.memory.words import content_words

    verbs = {"change", "changed", "die", "died", "epoch", "epochs", "most", "important", "best"}
    return not content_words(name) or name in verbs


def _numbers(written: str) -> list[int]:
    """Epochs of "10, 20 and 40" or "10 to 40"."""
    found: list[int] = []
    spans = re.finditer(r"(\d+)(?:\s*(?:to|through|until|-|–)\s*(?:epochs?\s+)?(\d+))?", written)
    for match in spans:
        first, last = int(match[1]), int(match[2] or match[1])
        found += range(first, last + 1) if first <= last < first + 10_000 else [first, last]
    return found
