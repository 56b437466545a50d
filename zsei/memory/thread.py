"""What a conversation remembers between two questions, and how it completes the second one.

"And its heads?", "what about layer 4?", "compare it with the other one": what such a question does
not name, it takes from the one before. Which analyses "it" means are those the last answer cited.
"""

from dataclasses import dataclass, replace

from zsei.memory.reading import Reading, Wish
from zsei.memory.vocabulary import Slot, Vocabulary
from zsei.records import Answer

_ASKED: tuple[Slot, ...] = ("metric", "code", "outcome", "strategy", "field")
"""What is asked for, rather than where."""
_OF_ITS_OWN: frozenset[Wish] = frozenset(
    {"similar", "summary", "important", "unimportant", "judged", "proposed"}
)
"""Wishes that ask for something by themselves."""
_STANDING_ALONE: frozenset[Wish] = frozenset({"compare", "runs", "list", "everywhere", "why"})
"""Wishes with which even a short question is a whole one, unless it points back."""
_REDUCING: frozenset[Wish] = frozenset({"max", "min", "mean", "sum", "count"})


@dataclass(frozen=True, kw_only=True)
class Thread:
    """Where a conversation stands. `Thread()` begins one about everything in memory."""

    runs: tuple[str, ...] = ()
    """The analyses that the conversation is about, where a question names none; () is all."""
    focus: tuple[str, ...] = ()
    """The analyses that the last answer cited: "it"."""
    seen: tuple[str, ...] = ()
    """The analyses cited before that: "the other one"."""
    layers: tuple[int, ...] = ()
    """The layer that the last answer was about: "its heads"."""
    last: Reading | None = None
    """The last question that was answered, completed."""


def completed(reading: Reading, thread: Thread, vocabulary: Vocabulary) -> Reading:
    """A question with what it leaves out taken from the one before; others come back as they are.

    What is asked for (metric, code, verdict ...), the place and the analyses are filled in
    separately: naming a layer changes the layer and leaves the metric and the analysis.
    """
    last = thread.last
    if thread.focus and "follows" in reading.wishes | _pointing(reading):
        reading = _sides(reading, thread, vocabulary)
    short = not (_asks(reading) or reading.leftovers or reading.wishes & _STANDING_ALONE)
    if last is None or not ("follows" in reading.wishes or short):
        return reading
    names = dict(reading.names)
    changes: dict[str, object] = {}
    if not _asks(reading):
        names |= {slot: last.named(slot) for slot in _ASKED}
        kept = last.wishes - _REDUCING if reading.wishes & _REDUCING else last.wishes
        changes |= {
            "wishes": reading.wishes | (kept - {"everywhere", "define"}),
            "condition": reading.condition or last.condition,
            "proposals": last.proposals,
            "findings": last.findings,
        }
    if not _is_scoped(reading):
        changes["runs"] = thread.focus or last.runs
        changes["spans"] = () if thread.focus else last.spans
    changes |= _place(reading, last, thread)
    anew = _asks(reading) and not reading.named("metric")
    elsewhere = reading.components or reading.heads or anew
    if not reading.named("kind") and not elsewhere:
        names["kind"] = last.named("kind")
    return replace(reading, names=names, **changes)  # type: ignore[arg-type]


def followed(thread: Thread, reading: Reading, answer: Answer) -> Thread:
    """The thread after an answer; one that refused leaves it as it was."""
    if not answer.citations:
        return thread
    runs = dict.fromkeys(c.run for c in answer.citations if c.run != "knowledge")
    told = [row.get("layer") for row in answer.rows]
    layers = tuple({layer for layer in told if isinstance(layer, int)})
    if not runs:
        return thread
    seen = dict.fromkeys((*runs, *thread.focus, *thread.seen))
    return replace(
        thread,
        focus=tuple(runs),
        seen=tuple(run for run in seen if run not in runs),
        layers=layers if len(layers) == 1 else (),
        last=reading,
    )


def _place(reading: Reading, last: Reading, thread: Thread) -> dict[str, object]:
    """Components, layers, heads: a named layer keeps the kind and the head asked about before."""
    if reading.components:
        return {}
    if reading.layers or reading.edges:
        return {"heads": reading.heads or last.heads}
    if reading.heads or reading.named("kind"):
        return {"layers": last.layers or thread.layers, "edges": last.edges}
    return {
        "components": last.components,
        "layers": last.layers,
        "edges": last.edges,
        "heads": last.heads,
    }


def _sides(reading: Reading, thread: Thread, vocabulary: Vocabulary) -> Reading:
    """What "it" and "the other one" are beside the analyses and models that are named."""
    compared = "compare" in reading.wishes
    others: tuple[str, ...] = ()
    if "other" in reading.wishes:
        known = (*thread.seen, *thread.runs, *vocabulary.runs)
        others = tuple(run for run in dict.fromkeys(known) if run not in thread.focus)[:1]
    elif compared:
        labels = [vocabulary.models.get(label, ()) for label in reading.named("model")]
        others = tuple(runs[0] for runs in labels if runs) + reading.runs
    if not others or len(others) > 1:
        return reading
    chosen = (*thread.focus[:1], *others) if compared else others
    names = {**reading.names, "model": ()}
    return replace(reading, names=names, runs=tuple(dict.fromkeys(chosen)))


def _pointing(reading: Reading) -> frozenset[Wish]:
    return frozenset({"follows"}) if "other" in reading.wishes else frozenset()


def _asks(reading: Reading) -> bool:
    """Whether it says by itself what it wants to know."""
    named = any(reading.named(slot) for slot in _ASKED)
    return named or bool(reading.wishes & _OF_ITS_OWN or reading.proposals or reading.findings)


def _is_scoped(reading: Reading) -> bool:
    named = reading.runs or reading.offsets or reading.spans or reading.named("model")
    return bool(named) or "everywhere" in reading.wishes
