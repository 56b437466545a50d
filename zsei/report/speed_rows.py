"""What a measurement of speed-ups shows, as rows that terminal and page share."""

from collections.abc import Sequence
from dataclasses import dataclass

from zsei.records import Failure
from zsei.report import text
from zsei.speed.record import SpeedRecord, Trial
from zsei.timing.interval import Interval


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial."""

    name: str
    speed: Interval | None
    moved: str
    """How far outputs moved: the largest difference where it is exact, else the divergence."""
    memory: str
    """Peak memory of a batch, and the baseline's over it."""
    prepared: str
    outcome: str
    why: str


def rows(record: SpeedRecord) -> tuple[Row, ...]:
    """The single trials, accepted ones first, the fastest first."""
    ordered = sorted(
        record.alone,
        key=lambda t: (t.verdict.outcome != "accepted", -(t.speed_up.median if t.speed_up else 0)),
    )
    return tuple(row(trial) for trial in ordered)


def row(trial: Trial) -> Row:
    """One trial as a row."""
    return Row(
        name=" + ".join(step.text() for step in trial.steps),
        speed=trial.speed_up,
        moved=_moved(trial),
        memory=_memory(trial),
        prepared="" if (s := measured(trial, "prepare_seconds")) is None else text.seconds(s),
        outcome=trial.verdict.outcome,
        why=trial.verdict.reason.partition(": ")[2],
    )


def measured(trial: Trial, name: str) -> float | None:
    """The value of one of a trial's measurements; None where it was not told."""
    return next((m.value for m in trial.measurements if m.name == name), None)


def times(interval: Interval | None) -> str:
    """A speed-up with its interval: `2.13 (2.05 to 2.20)`."""
    if interval is None:
        return "not timed"
    return f"{interval.median:.2f} ({interval.low:.2f} to {interval.high:.2f})"


def _moved(trial: Trial) -> str:
    cosine, divergence = measured(trial, "mean_cosine"), measured(trial, "divergence")
    difference = measured(trial, "relative_difference")
    if trial.exact and difference is not None:
        return f"{text.number(difference)} largest"
    if cosine is not None:
        return f"cosine {cosine:.5f}"
    unit = next((m.unit for m in trial.measurements if m.name == "divergence"), "")
    return "" if divergence is None else f"{text.number(divergence)} {unit}".strip()


def _memory(trial: Trial) -> str:
    after, before = measured(trial, "peak_bytes"), measured(trial, "baseline_peak_bytes")
    if after is None or before is None:
        return "could not tell"
    ratio = f", {before / after:.3g}x less" if after and before / after >= 1.05 else ""
    return f"{text.size(after)}{ratio}"


def grouped(failures: Sequence[Failure]) -> tuple[tuple[str, str], ...]:
    """(names, reason): those with one reason are told together, in the order of the first."""
    found: dict[str, list[str]] = {}
    for failure in failures:
        found.setdefault(failure.why, []).append(failure.what)
    return tuple((", ".join(names), why) for why, names in found.items())
