"""Whatever a server does ends in a result or a named error, in time, with no secret in it.

The only test here that looks at a clock: a deadline is what it promises.
"""

import time
import traceback

import pytest
from llm.asking import KEY, SETTINGS, Score, ask
from llm.fakeserver import GOOD, SCENARIOS, FakeServer

from zsei.errors import (
    LLMAuth,
    LLMError,
    LLMInvalid,
    LLMRefused,
    LLMTimeout,
    LLMTooLong,
    LLMTransport,
    LLMTruncated,
)
from zsei.llm import CallRecord

LATE = 0.5
"""Seconds that an answer may come after its deadline."""
TRIES = 3
"""A busy machine may stop this process for as long; a deadline that is not kept fails each time."""

MENDED = {
    "ok": 1, "fenced": 1, "prose": 1, "chunked": 1, "without-usage": 1, "usage-of-none": 1,
    "list": 1, "wrong-content-type": 1, "invalid-then-ok": 2, "rate-limited-once": 2,
    "rate-limited-oddly": 2, "rate-limited-ms": 2, "rate-limited-until-then": 2,
    "server-error-once": 2, "hang-once": 2, "truncated-once": 2, "schema-refused": 2,
    "temperature-refused": 2,
    "max-tokens-refused": 2,
}  # fmt: skip
"""Requests after which there is a valid answer."""

NAMED: dict[str, tuple[type[LLMError], int, str]] = {
    "invalid-json": (LLMInvalid, 2, "invalid json"),
    "violation": (LLMInvalid, 2, "valid number"),
    "nan": (LLMInvalid, 2, "finite"),
    "infinity": (LLMInvalid, 2, "finite"),
    "missing-key": (LLMInvalid, 2, "score: field required"),
    "extra-key": (LLMInvalid, 2, "does not have"),
    "two-objects": (LLMInvalid, 2, "invalid json"),
    "deep": (LLMInvalid, 2, "invalid json"),
    "open-fences": (LLMInvalid, 2, "invalid json"),
    "unknown-component": (LLMInvalid, 2, "no such component"),
    "injected": (LLMInvalid, 2, "no such component"),
    "empty": (LLMInvalid, 2, "invalid json"),
    "null-content": (LLMInvalid, 2, "invalid json"),
    "tool-call": (LLMInvalid, 2, "invalid json"),
    "long": (LLMInvalid, 2, "longer than 1000000"),
    "huge": (LLMTransport, 1, "sensible length"),
    "gzip-bomb": (LLMTransport, 1, "not packed"),
    "rate-limited": (LLMTransport, 3, "429: slow down"),
    "rate-limited-long": (LLMTransport, 1, "asks to wait 3600 s"),
    "rate-limited-date": (LLMTransport, 1, "asks to wait"),
    "quota": (LLMTransport, 1, "quota"),
    "unpaid": (LLMTransport, 1, "402"),
    "server-error": (LLMTransport, 3, "500"),
    "server-error-with-key": (LLMTransport, 3, "500"),
    "bad-gateway": (LLMTransport, 3, "502"),
    "overloaded": (LLMTransport, 3, "529"),
    "unknown-parameter": (LLMTransport, 1, "400"),
    "max-tokens-too-many": (LLMTransport, 1, "too large"),
    "not-json": (LLMTransport, 3, "provider failed"),
    "html": (LLMTransport, 3, "provider failed"),
    "empty-body": (LLMTransport, 3, "provider failed"),
    "no-content": (LLMTransport, 3, "provider failed"),
    "invalid-utf8": (LLMTransport, 3, "provider failed"),
    "gzip-garbage": (LLMTransport, 1, "not packed"),
    "error-with-200": (LLMTransport, 3, "provider failed"),
    "dropped-mid-body": (LLMTransport, 3, "provider failed"),
    "dropped-at-once": (LLMTransport, 3, "provider failed"),
    "no-http": (LLMTransport, 3, "provider failed"),
    "no-choices": (LLMTransport, 1, "holds none"),
    "null-choices": (LLMTransport, 3, "provider failed"),
    "null-message": (LLMTransport, 3, "provider failed"),
    "odd-content": (LLMTransport, 3, "provider failed"),
    "no-model": (LLMTransport, 1, "no such model"),
    "redirect-307": (LLMTransport, 1, "not followed"),
    "redirect-302": (LLMTransport, 1, "not followed"),
    "hang": (LLMTimeout, 3, "time"),
    "drip": (LLMTimeout, 3, "time"),
    "stalled-body": (LLMTimeout, 3, "time"),
    "stalled-headers": (LLMTimeout, 3, "time"),
    "stalled-chunks": (LLMTimeout, 3, "time"),
    "truncated": (LLMTruncated, 2, "tokens"),
    "truncated-but-valid": (LLMTruncated, 2, "tokens"),
    "too-long": (LLMTooLong, 1, "longer context"),
    "refusal": (LLMRefused, 1, "declined"),
    "filtered": (LLMRefused, 1, "declined"),
    "policy": (LLMRefused, 1, "content policy"),
    "unauthorised": (LLMAuth, 1, "401"),
    "forbidden": (LLMAuth, 1, "403"),
}
"""The error, the requests before it, and words of its message."""


def test_there_are_enough_of_them() -> None:
    assert set(MENDED) | set(NAMED) == set(SCENARIOS)
    assert len(NAMED) >= 32


@pytest.mark.parametrize("scenario", [*MENDED, *NAMED])
def test_it_ends_in_a_result_or_a_named_error_in_time(
    server: FakeServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    scenario: str,
) -> None:
    for _ in range(TRIES):
        server.bodies.clear()
        log: list[CallRecord] = []
        begin = time.monotonic()
        outcome = _outcome(scenario, log)
        took = time.monotonic() - begin
        requests = len(server.bodies[scenario])
        attempts = sum(call.attempts or 0 for call in log)
        in_time = took < SETTINGS.deadline_seconds + LATE
        if in_time and _as_expected(scenario, outcome, requests, attempts):
            break
    assert in_time, took
    if scenario in MENDED:
        assert isinstance(outcome, Score)
        assert outcome.model_dump() == GOOD
        assert requests == MENDED[scenario]
        assert log[-1].outcome == "ok"
        assert log[-1].model == f"openai/{scenario}"
    else:
        error, most, says = NAMED[scenario]
        assert isinstance(outcome, LLMError), outcome
        assert type(outcome) is error, outcome
        assert says in str(outcome).lower()
        assert "\n" not in str(outcome)
        assert requests == most
        assert log[-1].outcome in (error.__name__, "invalid")
        assert outcome.__context__ is None  # a debugger would print its words
        assert outcome.__cause__ is None
    assert attempts == requests
    assert requests <= 1 + SETTINGS.retries + SETTINGS.repairs
    printed = capfd.readouterr()
    assert printed.out == ""  # it would spoil `--json`
    shown = "" if isinstance(outcome, Score) else "".join(traceback.format_exception(outcome))
    everything = shown + repr(vars(outcome)) + printed.err + caplog.text + str(log)
    assert KEY not in everything
    assert "Secret" not in everything


def _outcome(scenario: str, log: list[CallRecord]) -> Score | LLMError:
    try:
        return ask(scenario, log)
    except LLMError as error:
        return error


def _as_expected(scenario: str, outcome: Score | LLMError, requests: int, attempts: int) -> bool:
    """False where, for one thing, a busy machine turned a quick answer into a timeout."""
    kind, most = (Score, MENDED[scenario]) if scenario in MENDED else NAMED[scenario][:2]
    return type(outcome) is kind and attempts == requests == most
