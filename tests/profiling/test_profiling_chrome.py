"""The trace, parsed back: valid events, nested rows, sums that are the record's."""

import json
from typing import Any

import pytest
from profile_cases import profiled

from zsei.profiling.chrome import chrome_json
from zsei.profiling.record import ProfileRecord


def _events(record: ProfileRecord, phase: str, row: str = "") -> list[dict[str, Any]]:
    trace = json.loads(chrome_json(record))
    rows = {
        event["tid"]: event["args"]["name"]
        for event in trace["traceEvents"]
        if event["ph"] == "M" and event["name"] == "thread_name"
    }
    found = [event for event in trace["traceEvents"] if event["ph"] == phase]
    return [event for event in found if rows[event["tid"]] == row] if row else found


def test_every_call_is_a_complete_event_with_its_median_in_microseconds() -> None:
    record = profiled("transformer")
    events = _events(record, "X", "calls")
    assert [event["name"] for event in events] == [call.name for call in record.calls]
    for event, call in zip(events, record.calls, strict=True):
        assert event["dur"] == pytest.approx(1e6 * call.seconds.median)
        assert event["args"]["component"] == call.component
        assert set(event) == {"ph", "pid", "tid", "name", "cat", "ts", "dur", "args"}


def test_calls_follow_each_other_without_gap_or_overlap() -> None:
    events = _events(profiled("transformer"), "X", "calls")
    at = 0.0
    for event in events:
        assert event["ts"] == pytest.approx(at)
        at = event["ts"] + event["dur"]


def test_components_hold_the_calls_that_are_theirs_and_no_more() -> None:
    record = profiled("transformer")
    calls, components = _events(record, "X", "calls"), _events(record, "X", "components")
    assert len(components) > 4
    within = 0
    for around in components:
        end = around["ts"] + around["dur"]
        inside = [c for c in calls if around["ts"] - 1e-6 <= c["ts"] < end - 1e-6]
        assert {call["args"]["component"] for call in inside} == {around["name"]}
        assert len(inside) == around["args"]["calls"]
        assert sum(call["dur"] for call in inside) == pytest.approx(around["dur"])
        within += len(inside)
    assert within == len(calls)


def test_the_counter_follows_the_bytes_alive() -> None:
    record = profiled("transformer")
    counts = _events(record, "C")
    assert [event["args"]["alive"] for event in counts] == [call.alive for call in record.calls]
    ends = [event["ts"] + event["dur"] for event in _events(record, "X", "calls")]
    assert [event["ts"] for event in counts] == pytest.approx(ends)


def test_modules_without_memory_have_no_counter() -> None:
    assert _events(profiled("branching"), "C") == []
    assert len(_events(profiled("branching"), "X", "calls")) == len(profiled("branching").calls)
