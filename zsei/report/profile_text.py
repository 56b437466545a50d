"""What a profile shows in a terminal: hot spots first, then the roofline, memory and growth."""

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from zsei.profiling.record import Call, Growth, Part, ProfileRecord
from zsei.report import plain
from zsei.report.text import count, number, one_line, percent, plural, seconds, short, size
from zsei.timing.interval import Interval

TOP = 12
"""Components and calls shown, unless more are asked for."""
WIDE = 98
"""Columns from which tables are shown whole."""
NARROW = (0, 1, 2, 4, 5, 7)
"""Columns of the tables of parts that are shown where there is less room."""
BAR = 6
"""Characters of the longest bar."""
COLORS = {"now": "red", "next": "yellow", "later": "cyan"}


def show(record: ProfileRecord) -> None:
    """Print a profile to the terminal."""
    summary(record, Console())


def summary(record: ProfileRecord, console: Console, top: int = TOP) -> None:
    """A whole profile."""
    head = Text(short(record.model, 60), style="bold")
    head.append(
        f"  {short(record.model_class, 40)}, {count(record.parameters)} parameters",
        style="not bold",
    )
    plain.line(console, head)
    plain.paragraph(console, workload(record), "dim")
    plain.paragraph(console, whole(record))
    plain.title(console, "By kind")
    _parts(record.kinds, console, top, "kind")
    plain.title(console, "Hot spots")
    _parts(record.parts, console, top, "component")
    _more(len(record.parts) - top, "component", console)
    plain.title(console, "Slowest calls")
    ranked = sorted(record.calls, key=lambda call: (-call.seconds.median, call.name))
    _calls(ranked[:top], console)
    _more(len(ranked) - top, "call", console)
    plain.title(console, "Memory")
    for line in memory(record):
        plain.paragraph(console, line)
    if record.growth:
        plain.title(console, "Growth")
        for fit in record.growth:
            plain.paragraph(console, grown(fit))
    for note in record.notes:
        plain.paragraph(console, note, "yellow", limit=500)


def workload(record: ProfileRecord) -> str:
    """What was run where, in one sentence."""
    shapes = ", ".join(
        f"{name} {' x '.join(map(str, shape))}" for name, shape in record.inputs.items()
    )
    return (
        f"One batch ({one_line(shapes, 300)}) on {one_line(record.device_name, 80)} "
        f"({record.device}), {record.threads} {_many('thread', record.threads)}; "
        f"{record.rounds} interleaved rounds."
    )


def whole(record: ProfileRecord) -> str:
    """Time of the whole, and how the parts add up to it."""
    ratio = record.sum_of_parts
    rate = record.batch_size / record.whole.median if record.whole.median else 0.0
    return (
        f"A forward takes {interval(record.whole)}, {number(round(rate, 1))} samples a second. Its "
        f"parts add up to {ratio.median:.3f} times that ({ratio.low:.3f} to {ratio.high:.3f}). "
        f"The profile took as long as {record.forwards:.1f} forwards."
    )


def memory(record: ProfileRecord) -> list[str]:
    """What memory holds, in sentences."""
    use = record.memory
    lines = [f"Parameters and buffers {size(use.parameters)}, inputs {size(use.inputs)}."]
    if use.alive is not None:
        lines.append(
            f"Values alive: at most {size(use.alive)}, after the call {short(use.alive_call)}."
        )
    if use.held is not None:
        where = f", in the call {short(use.held_call)}" if use.held_call else ""
        inside = f" of {short(use.component, 64)}" if use.held_call else ""
        lines.append(f"Held by the allocator: at most {size(use.held)}{where}{inside}.")
    if use.alive is None and use.held is None:
        lines.append("What is alive during a forward could not be told.")
    return lines


def grown(fit: Growth) -> str:
    """One fit in a sentence."""
    what = "time" if fit.measure == "seconds" else "memory"
    name = f"{what} over {fit.over}"
    if fit.exponent is None:
        return f"{name}: {one_line(fit.note, 300) or 'could not tell.'}"
    told = seconds if fit.measure == "seconds" else size
    values = ", ".join(f"{told(v)} at {s}" for s, v in zip(fit.sizes, fit.values, strict=True))
    at = f" with {fit.at}" if fit.at else ""
    fastest = fit.fastest
    kinds = f"; {fastest} grows fastest ({fit.kinds[fastest]:.2f})" if len(fit.kinds) > 1 else ""
    low, high = fit.exponent.low, fit.exponent.high
    return (
        f"{name}: exponent {fit.exponent.median:.2f} ({low:.2f} to {high:.2f}){at}: "
        f"{values}{kinds}."
    )


def interval(found: Interval) -> str:
    """A time with its interval."""
    return f"{seconds(found.median)} ({seconds(found.low)} to {seconds(found.high)})"


def rate(part: Part) -> str:
    """Operations a second that a part reached."""
    return count(part.flops_per_second) if part.flops_per_second else "–"


def roofline(part: Part) -> str:
    """Share of the roofline and which ceiling it is."""
    if part.roofline_share is None:
        return "–"
    return f"{100 * part.roofline_share:.0f} % {part.bound}"


def _parts(parts: Sequence[Part], console: Console, top: int, title: str) -> None:
    longest = max((part.share for part in parts), default=1.0) or 1.0
    narrow = console.width < WIDE
    rows: list[list[Text | str]] = []
    for part in parts[:top]:
        color = COLORS.get(part.band, "dim")
        bar = Text("█" * max(0, round(BAR * part.share / longest)), color)
        row = [
            Text(short(part.name, 26)),
            seconds(part.seconds.median),
            percent(part.share),
            bar,
            Text(part.band, color),
            rate(part),
            "–" if part.intensity is None else number(round(part.intensity, 2)),
            roofline(part),
        ]
        rows.append([row[i] for i in NARROW] if narrow else row)
    heads = (title, "time>", "share>", "", "worth it", "FLOP/s>", "FLOP/byte>", "roofline")
    kept = [heads[i] for i in NARROW] if narrow else heads
    plain.table(console, plain.columns(*kept), rows)


def _calls(calls: Sequence[Call], console: Console) -> None:
    narrow = console.width < WIDE
    rows = [
        [
            short(call.name, 24),
            seconds(call.seconds.median) if narrow else interval(call.seconds),
            "–" if call.flops is None else count(call.flops),
            "–" if call.moved is None else size(call.moved),
            "–" if call.alive is None else size(call.alive),
            short(call.component, 26),
        ]
        for call in calls
    ]
    time = "time>" if narrow else "time (interval)>"
    plain.table(
        console, plain.columns("call", time, "FLOP>", "moved>", "alive>", "component"), rows
    )


def _more(left: int, noun: str, console: Console) -> None:
    if left > 0:
        plain.line(
            console, Text(f"  {left} more {_many(noun, left)}; --top shows them.", style="dim")
        )


def _many(noun: str, number: int) -> str:
    return noun if number == 1 else plural(noun)
