"""`zsei explain`: what is known about a finding, a trap, a pattern, a technique, a measure."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

import typer

from zsei.cli import codes
from zsei.cli.options import settings

if TYPE_CHECKING:
    from zsei.cards import Cards, Metric, SpeedUpEntry

KINDS = (
    "finding", "technique", "speed-up", "pattern", "trap", "measure", "importance criterion",
    "measurement",
)  # fmt: skip
"""Kinds of topics, in the order in which they are listed."""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """Something that can be explained."""

    kind: str
    """One of `KINDS`."""
    title: str
    text: str


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            help="A finding's code, a technique, a speed-up, a pattern, a trap, a measure, a "
            "criterion, a measurement; without one, all are listed."
        ),
    ] = None,
) -> int:
    """Print what is known about a name: its meaning, how it is measured, when it misleads."""
    from zsei.cli.output import results
    from zsei.errors import UsageError

    with results() as stdout:
        from zsei.resources import load_cards

        known = _topics(load_cards(settings()))
        if code is None:
            for kind in KINDS:
                stdout.write(f"{kind}\n")
                for name, topics in known.items():
                    titles = [t.title for t in topics if t.kind == kind]
                    stdout.writelines(f"  {name}: {title}\n" for title in titles[:1])
            return codes.DONE
        if code not in known:
            near = get_close_matches(code, known, n=3)
            meant = f"did you mean {' or '.join(near)}?" if near else "`zsei explain` lists them."
            raise UsageError(f"What is explained must have a name, but {code!r} is none; {meant}")
        for topic in known[code]:
            stdout.write(f"{topic.title} ({topic.kind})\n\n{topic.text}\n\n")
        return codes.DONE


def _topics(cards: "Cards") -> Mapping[str, list[Topic]]:
    """Name -> what is known under it, in the order in which it is printed."""
    from zsei.analyzers import ANALYZERS
    from zsei.importance.criteria import CRITERIA
    from zsei.measures import MEASURES
    from zsei.speedups import SPEED_UPS
    from zsei.speedups.training import TRAINING_SPEED_UPS

    known: dict[str, list[Topic]] = {}
    for card in cards.knowledge.values():
        sources = "".join(f"\n- {source}" for source in card.sources)
        see = f"\n\nSee also: {', '.join(card.see)}" if card.see else ""
        text = f"{card.body.strip()}\n\nSources:{sources}{see}"
        known.setdefault(card.id, []).append(
            Topic(kind=_kind(card.kind), title=card.title, text=text)
        )
    for analyzer in ANALYZERS:
        topic = _documented("finding", type(analyzer))
        known.setdefault(analyzer.code, []).append(topic)
    for measure in MEASURES:
        topic = _documented("measure", type(measure))
        known.setdefault(measure.name, []).append(topic)
    for name, criterion in CRITERIA.items():
        known.setdefault(name, []).append(_documented("importance criterion", criterion))
    documented = {each.name: type(each) for each in (*SPEED_UPS, *TRAINING_SPEED_UPS)}
    for name, entry in cards.speedups.items():
        topic = Topic(kind="speed-up", title=entry.title, text=_entry(entry, documented.get(name)))
        known.setdefault(name, []).append(topic)
    for name, metric in cards.metrics.items():
        topic = Topic(kind="measurement", title=metric.title, text=_metric(metric))
        known.setdefault(name, []).append(topic)
    return dict(sorted(known.items()))


def _kind(card: str) -> str:
    return "measurement" if card == "metric" else card


def _documented(kind: str, what: object) -> Topic:
    """A topic from a docstring: its first line is the title."""
    title, _, text = (inspect.getdoc(what) or "").partition("\n")
    return Topic(kind=kind, title=title, text=text.strip())


def _entry(entry: "SpeedUpEntry", documented: type | None) -> str:
    """What a speed-up's entry says, and the docstring of the class that carries it out."""
    said = (
        f"{entry.does}\n\nPreconditions: {entry.preconditions}\n\nRisk: {entry.risk}\n\n"
        f"For {entry.use}. Technique: {entry.technique}"
    )
    return f"{said}\n\n{inspect.getdoc(documented)}" if documented is not None else said


def _metric(metric: "Metric") -> str:
    unit = f"\n\nUnit: {metric.unit}" if metric.unit else ""
    direction = "" if metric.direction == "neither" else f"\n\nReading it: {metric.direction}."
    return f"{metric.meaning}{unit}{direction}\n\nMisleads when: {metric.misleads}"
