"""Why speed-ups measured together differ from the product of those measured alone, in words made
of the record's own numbers.
"""

from collections.abc import Mapping, Sequence

from zsei.speed.parts import PartTimes
from zsei.speed.record import PartTime, Trial

TOUCHED = 0.95
"""A step touches a part whose time it lowers to less than this share."""
_NAMED = 3
"""Parts named in the explanation."""


def explain(
    whole: Trial,
    kept: Sequence[Trial],
    product: float,
    parts: Sequence[PartTime],
    single: Mapping[str, PartTimes],
) -> str:
    """The explanation.

    Args:
        whole: All steps, measured together.
        kept: The single trials of these steps.
        product: Of their single speed-ups.
        parts: Seconds of each part: before, predicted, measured.
        single: Trial id -> time with it / without it, for each part.
    """
    if whole.speed_up is None:
        return ""
    measured = whole.speed_up
    told = f"{measured.median:.3g} times ({measured.low:.3g} to {measured.high:.3g})"
    if len(kept) == 1:
        return f"There is one step, measured again with more rounds: {told}."
    lines = [
        f"Multiplied, the {len(kept)} single speed-ups would claim {product:.3g} times; measured "
        f"together it is {told}."
    ]
    before = sum(part.baseline for part in parts)
    predicted = sum(part.predicted for part in parts)
    if before <= 0 or predicted <= 0:
        return " ".join([*lines, "The time of the parts could not be told."])
    lines.append(
        f"Part by part, the same single measurements predict {before / predicted:.3g} times, since "
        f"a step speeds up only the parts it touches: {_touched(kept, parts, single, before)}."
    )
    combined = [part for part in parts if part.combined is not None]
    if combined:
        lines.append(_gaps(combined))
    else:
        lines.append(
            "The combination runs the model as one piece, so that its parts cannot be timed; what "
            "is left of the difference is what the steps take from each other."
        )
    return " ".join(lines)


def _touched(
    kept: Sequence[Trial], parts: Sequence[PartTime], single: Mapping[str, PartTimes], whole: float
) -> str:
    """Each step with the share of the baseline's time that it touched."""
    told = []
    for trial in kept:
        name, ratios = trial.steps[0].speedup, single.get(trial.id)
        if ratios is None:
            told.append(f"{name} runs as one piece and is taken to touch all alike")
            continue
        share = sum(p.baseline for p in parts if ratios.get(p.component, 1.0) < TOUCHED) / whole
        told.append(f"{name} touched {share:.0%} of the time")
    return ", ".join(told)


def _gaps(parts: Sequence[PartTime]) -> str:
    """The parts at which prediction and measurement lie furthest apart."""

    def gap(part: PartTime) -> float:
        return (part.combined or 0.0) - part.predicted

    widest = sorted(parts, key=lambda part: -abs(gap(part)))[:_NAMED]
    told = ", ".join(
        f"{p.component} ({_ms(p.predicted)} predicted, {_ms(p.combined or 0.0)} measured)"
        for p in widest
    )
    total = sum(gap(part) for part in parts)
    more = "more" if total > 0 else "less"
    return (
        f"Measured, the parts take {_ms(abs(total))} {more} than that in all; furthest apart are "
        f"{told}."
    )


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3g} ms"
