"""Documents in words: one sentence for each thing measured, its numbers taken from the record.

A sentence rounds to a few digits to be read; the row beside it holds the stored numbers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

from zsei.memory.query import Row
from zsei.memory.say import because

if TYPE_CHECKING:
    from zsei.claims.record import ClaimsRecord, Outcome
    from zsei.profiling.record import Growth, Part, ProfileRecord
    from zsei.records import Failure, Measurement
    from zsei.speed.record import Combination, SpeedRecord, Trial
    from zsei.speedups.speedup import Step
    from zsei.timing.interval import Interval

    Document = SpeedRecord | ProfileRecord | ClaimsRecord

Kind = Literal["speed", "profile", "claims"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TOGETHER = "together"
"""Subject of the line on all accepted speed-ups at once."""
BASELINE = "baseline"
WHOLE = "whole"
_PARTS = 20
"""Components of a profile that get a line, the slowest first; the record holds all."""
_QUALITY = ("mean_cosine", "divergence", "relative_difference")
"""What stands beside a speed-up in its sentence: how far the outputs moved."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing that a document says."""

    model: str
    subject: str
    """What it is about: the steps of a trial, the id of a claim, a component."""
    outcome: str
    """accepted, rejected, held, not held, refused, left out ...; "measured" where nobody judged."""
    text: str
    gist: str
    """What it means, without names and numbers: this is embedded."""
    row: Row


def lines_of(record: "Document") -> tuple[Line, ...]:
    """Every sentence of a document, in the order in which they are worth reading."""
    made: Mapping[Kind, Callable[[Any], Iterator[Line]]] = {
        "speed": _of_speed, "claims": _of_claims, "profile": _of_profile,
    }  # fmt: skip
    return tuple(made[kind_of(record)](cast(Any, record)))


def kind_of(record: "Document") -> Kind:
    """The kind of a document, read off its type's name: its module is heavy and may be missing."""
    named: dict[str, Kind] = {
        "SpeedRecord": "speed", "ProfileRecord": "profile", "ClaimsRecord": "claims",
    }  # fmt: skip
    return named[type(record).__name__]


def _of_speed(record: "SpeedRecord") -> Iterator[Line]:
    if record.together is not None:
        yield _of_together(record, record.together)
    for trial in record.alone:
        yield _of_trial(record, trial, _steps(trial.steps))
    yield from _of_failures(record, record.refused, "refused")
    if record.together is not None:
        yield from _of_failures(record, record.together.left_out, "left out")
    what = "a step on a batch" if record.use == "training" else "a batch"
    text = (
        f"baseline of {record.model}: {_seconds(record.baseline)} {what} of {record.batch_size} "
        f"in float32, {_where(record)}"
    )
    row: Row = {"seconds": record.baseline.median, **_bounds(record.baseline), "unit": "s"}
    yield _line(record, BASELINE, "measured", text, row)


def _of_failures(
    record: "SpeedRecord", failures: "Iterable[Failure]", outcome: str
) -> Iterator[Line]:
    said = "cannot be had here" if outcome == "refused" else "left out of the combination"
    for failure in failures:
        text = f"{failure.what} on {record.model}: {said}. {failure.why}"
        yield _line(record, failure.what, outcome, text, {"why": failure.why})


def _of_trial(record: "SpeedRecord", trial: "Trial", subject: str) -> Line:
    outcome = trial.verdict.outcome
    told = [_faster(trial.speed_up)] if trial.speed_up is not None else ["it never ran"]
    told += _quality(trial.measurements)
    text = f"{subject} on {record.model}: {', '.join(told)}, {outcome}"
    if outcome != "accepted":
        text += f" ({because(outcome, trial.verdict.reason)})"
    return _line(record, subject, outcome, text, _numbers(trial))


def _of_together(record: "SpeedRecord", combined: "Combination") -> Line:
    steps = _steps(combined.order)
    base = _of_trial(record, combined.trial, f"together ({steps})")
    text = (
        f"{base.text}; the product of the single speed-ups is {_short(combined.product)}, which is "
        "no measurement"
    )
    if combined.explanation:
        text += f". {combined.explanation}"
    row: Row = {**_numbers(combined.trial), "product": combined.product}
    return _line(record, f"{TOGETHER} ({steps})", base.outcome, text, row)


def _of_claims(record: "ClaimsRecord") -> Iterator[Line]:
    for outcome in record.outcomes:
        yield _of_outcome(record, outcome)


def _of_outcome(record: "ClaimsRecord", outcome: "Outcome") -> Line:
    said = f'claim {outcome.id} on {record.model}, "{outcome.quote}"' if outcome.quote else (
        f"claim {outcome.id} on {record.model}"
    )  # fmt: skip
    text = f"{said} ({outcome.kind}, {outcome.claimed}): {outcome.verdict}. "
    text += because(outcome.verdict, outcome.reason)
    row: Row = {
        "claimed": outcome.kind, "at_least": outcome.at_least, "at_most": outcome.at_most,
        "value": outcome.value, "unit": outcome.unit, "quote": outcome.quote,
    }  # fmt: skip
    if outcome.interval is not None:
        row |= _bounds(outcome.interval)
    gist = f"claim of {outcome.kind}: {outcome.quote or outcome.id}: {outcome.verdict}"
    return _line(record, outcome.id, outcome.verdict, text, row, gist)


def _of_profile(record: "ProfileRecord") -> Iterator[Line]:
    for part in record.kinds:
        yield _of_part(record, part, f"all {part.name}")
    for part in record.parts[:_PARTS]:
        yield _of_part(record, part, part.name)
    shape = f"batch of {record.batch_size}" + (f" x {record.length}" if record.length else "")
    text = f"whole of {record.model}: {_seconds(record.whole)} a forward, {shape}, {_where(record)}"
    row: Row = {"seconds": record.whole.median, **_bounds(record.whole), "unit": "s"}
    yield _line(record, WHOLE, "measured", text, row, "time of a forward pass")
    memory = record.memory
    if memory.alive is not None:
        text = (
            f"peak memory of {record.model}: {memory.alive} bytes of values alive after "
            f"{memory.alive_call} ({memory.component}), {memory.parameters} bytes of parameters"
        )
        row = {
            "alive": memory.alive, "held": memory.held, "parameters": memory.parameters,
            "component": memory.component, "call": memory.alive_call, "unit": "B",
        }  # fmt: skip
        yield _line(record, "peak memory", "measured", text, row, "peak memory of a forward pass")
    for growth in record.growth:
        yield _of_growth(record, growth)


def _of_part(record: "ProfileRecord", part: "Part", subject: str) -> Line:
    text = (
        f"{subject} of {record.model}: {100 * part.share:.3g} % of the time, "
        f"{_seconds(part.seconds)} in {part.calls} calls, {part.band}"
    )
    text += f", limited by {part.bound}" if part.bound else ""
    row: Row = {
        "share": part.share, "seconds": part.seconds.median, **_bounds(part.seconds),
        "band": part.band, "bound": part.bound,
    }  # fmt: skip
    gist = f"where the time is spent: {part.kind} {part.band}"
    return _line(record, subject, "measured", text, row, gist)


def _of_growth(record: "ProfileRecord", growth: "Growth") -> Line:
    what = "time" if growth.measure == "seconds" else "peak memory"
    subject = f"{what} over {growth.over}"
    row: Row = {"at": growth.at}
    if growth.exponent is None:
        said, outcome = f"could not be told, {growth.note}", "could not tell"
    else:
        low, high = _short(growth.exponent.low), _short(growth.exponent.high)
        said = f"grows with exponent {_short(growth.exponent.median)} ({low} to {high})"
        row |= {"exponent": growth.exponent.median, **_bounds(growth.exponent)}
        outcome = "measured"
    text = f"{subject} of {record.model}: {said}"
    return _line(record, subject, outcome, text, row, f"how {what} scales with {growth.over}")


def _line(
    record: "Document", subject: str, outcome: str, text: str, row: Row, gist: str = ""
) -> Line:
    text = " ".join(text.split())
    head: Row = {
        "run": record.id, "kind": kind_of(record), "model": record.model, "subject": subject,
        "outcome": outcome,
    }  # fmt: skip
    return Line(
        model=record.model, subject=subject, outcome=outcome, text=text,
        gist=gist or f"speed-up by {subject.replace('-', ' ')}: {outcome}",
        row={**head, **{name: value for name, value in row.items() if value is not None}},
    )  # fmt: skip


def _where(record: "SpeedRecord | ProfileRecord") -> str:
    threads = "1 thread" if record.threads == 1 else f"{record.threads} threads"
    return f"on {record.device_name} with {threads}"


def _steps(steps: "Iterable[Step]") -> str:
    return " + ".join(_spelled(step) for step in steps)


def _spelled(step: "Step") -> str:
    """A step with the parameter that says which way, where it is the usual one and so left out.

    That is the first one: `lower-precision` is `lower-precision (dtype=bfloat16)`.
    """
    from zsei.speedups import SPEED_UPS
    from zsei.speedups.training import TRAINING_SPEED_UPS

    for each in (*SPEED_UPS, *TRAINING_SPEED_UPS):
        if each.name == step.speedup:
            for name, field in list(each.params.model_fields.items())[:1]:
                usual = field.default
                if name not in step.params and isinstance(usual, str | int):
                    params = {name: usual, **step.params}
                    return step.model_copy(update={"params": params}).text()
    return step.text()


def _numbers(trial: "Trial") -> Row:
    row: Row = {}
    if trial.speed_up is not None:
        row |= {"speed_up": trial.speed_up.median, **_bounds(trial.speed_up)}
    return row | {m.name: m.value for m in trial.measurements if m.value is not None}


def _bounds(interval: "Interval") -> Row:
    return {"low": interval.low, "high": interval.high, "n": interval.n}


def _quality(measurements: "Iterable[Measurement]") -> list[str]:
    named = {m.name: m.value for m in measurements if m.value is not None}
    told = [f"{n.replace('_', ' ')} {_fine(named[n])}" for n in _QUALITY if n in named]
    peak, before = named.get("peak_bytes"), named.get("baseline_peak_bytes")
    if peak is not None and before:
        told.append(f"peak memory {_short(peak / before)} of the baseline's")
    return told


def _faster(interval: "Interval") -> str:
    low, high = _short(interval.low), _short(interval.high)
    return f"{_short(interval.median)} times as fast ({low} to {high})"


def _seconds(interval: "Interval") -> str:
    low, high = _short(interval.low), _short(interval.high)
    return f"{_short(interval.median)} s ({low} to {high})"


def _short(value: float) -> str:
    """Three digits that count: more of a time would be noise."""
    return f"{value:.3g}"


def _fine(value: float) -> str:
    """Five digits that count: a cosine lives in its last ones."""
    return f"{value:.5g}"
