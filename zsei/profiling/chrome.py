"""A profile as a Chrome trace, for chrome://tracing or Perfetto.

Calls are laid end to end at their median times, so the whole is the sum of the parts: a picture of
the typical run, not the recording of one.
"""

import json
from itertools import groupby
from typing import Any

from zsei.profiling.record import ProfileRecord

PROCESS, CALLS, COMPONENTS = 1, 1, 2


def chrome_trace(record: ProfileRecord) -> dict[str, Any]:
    """The trace as JSON: a row of calls, a row of components, and the bytes alive as a counter.

    Times are in microseconds. Neighbouring calls of one component are one event of its row.
    """
    events = [
        _meta("process_name", 0, f"{record.model} on {record.device_name}"),
        _meta("thread_name", CALLS, "calls"),
        _meta("thread_name", COMPONENTS, "components"),
    ]
    begin = 0.0
    starts = []
    for call in record.calls:
        length = 1e6 * call.seconds.median
        starts.append((begin, length))
        facts = {
            "component": call.component, "flops": call.flops, "bytes_moved": call.moved,
            "low_us": 1e6 * call.seconds.low, "high_us": 1e6 * call.seconds.high,
        }  # fmt: skip
        events.append(_complete(call.name, call.operation, CALLS, begin, length, facts))
        begin += length
    places = range(len(record.calls))
    for component, together in groupby(places, key=lambda i: record.calls[i].component):
        run = list(together)
        first, (last, length) = starts[run[0]][0], starts[run[-1]]
        facts = {"calls": len(run)}
        events.append(
            _complete(component, "component", COMPONENTS, first, last + length - first, facts)
        )
    for call, (at, length) in zip(record.calls, starts, strict=True):
        told = {"alive": call.alive, "allocator": call.held}
        counts = {name: value for name, value in told.items() if value is not None}
        if counts:
            events.append(
                {"ph": "C", "pid": PROCESS, "name": "bytes", "ts": at + length, "args": counts}
            )
    return {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {
            "profile": record.id, "model": record.model, "zsei": record.versions.get("zsei", ""),
            "times": f"medians of {record.rounds} rounds, laid end to end",
        },
    }  # fmt: skip


def chrome_json(record: ProfileRecord) -> str:
    """The trace as text."""
    return json.dumps(chrome_trace(record), separators=(",", ":"), allow_nan=False)


def _meta(what: str, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": PROCESS, "tid": row, "name": what, "args": {"name": name}}


def _complete(
    name: str, category: str, row: int, begin: float, length: float, facts: dict[str, Any]
) -> dict[str, Any]:
    return {
        "ph": "X", "pid": PROCESS, "tid": row, "name": name, "cat": category, "ts": begin,
        "dur": length, "args": facts,
    }  # fmt: skip
