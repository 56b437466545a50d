"""The transport through real litellm against a server that misbehaves: a result or a named error,
in time, with no secret in it."""

import asyncio
import time
import traceback
from collections.abc import Iterator

import pytest
from llm.fakeserver import GOOD, FakeServer, serving
from pydantic import ValidationInfo, field_validator

from zsei.errors import (
    LLMAuth,
    LLMError,
    LLMInvalid,
    LLMRefused,
    LLMTimeout,
    LLMTransport,
    LLMTruncated,
    UsageError,
)
from zsei.llm import CallRecord, Line, LLMRequest, ask_typed
from zsei.llm.transport import LiteLLM
from zsei.records import Record
from zsei.settings import LLMSettings

KEY = "sk-test-5f1d2c3b4a59687-Secret"
SETTINGS = LLMSettings(deadline_seconds=2.0, attempt_seconds=0.6, retries=2, repairs=1)
SLACK = 3.0
"""Seconds a loaded machine may add to a deadline."""


class Score(Record):
    component: str
    score: float

    @field_validator("component")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        if value not in info.context["components"]:
            raise ValueError("no such component in this record")
        return value


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with serving() as state:
        yield state


@pytest.fixture(autouse=True)
def environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_BASE", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    server.bodies.clear()


@pytest.fixture(autouse=True, scope="module")
def first_call(server: FakeServer) -> None:
    """litellm imports more at its first call, which the short waits here would not outlast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_BASE", server.url)
        patch.setenv("OPENAI_API_KEY", KEY)
        LiteLLM("openai/ok", LLMSettings()).complete(LLMRequest(system="s", prompt="p"))


def ask(scenario: str, log: list[CallRecord] | None = None) -> Score:
    llm = LiteLLM(f"openai/{scenario}", SETTINGS, pause=0.01)
    request = LLMRequest(system="s", prompt="p", seconds=SETTINGS.deadline_seconds)
    context = {"components": {"layer.0/head.1"}}
    line = Line(llm=llm, settings=SETTINGS, log=[] if log is None else log)
    return ask_typed(line, request, Score, context)


@pytest.mark.parametrize(
    ("scenario", "requests"),
    [
        ("ok", 1),
        ("fenced", 1),
        ("prose", 1),
        ("invalid-then-ok", 2),
        ("rate-limited-once", 2),
        ("server-error-once", 2),
        ("schema-refused", 2),
        ("temperature-refused", 2),
    ],
)
def test_what_can_be_mended_is(server: FakeServer, scenario: str, requests: int) -> None:
    log: list[CallRecord] = []
    assert ask(scenario, log).model_dump() == GOOD
    assert len(server.bodies[scenario]) == requests
    assert sum(call.attempts or 0 for call in log) == requests
    assert log[-1].outcome == "ok"
    assert (log[-1].input_tokens, log[-1].output_tokens) == (11, 7)
    assert log[-1].model == f"openai/{scenario}"


@pytest.mark.parametrize(
    ("scenario", "error", "requests", "says"),
    [
        ("invalid-json", LLMInvalid, 2, "invalid json"),
        ("violation", LLMInvalid, 2, "valid number"),
        ("nan", LLMInvalid, 2, "finite"),
        ("unknown-component", LLMInvalid, 2, "no such component"),
        ("empty", LLMInvalid, 2, "invalid json"),
        ("rate-limited", LLMTransport, 3, "429: slow down"),
        ("rate-limited-long", LLMTransport, 1, "asks to wait 3600 s"),
        ("rate-limited-date", LLMTransport, 1, "asks to wait"),
        ("quota", LLMTransport, 1, "quota"),
        ("server-error", LLMTransport, 3, "500"),
        ("bad-gateway", LLMTransport, 3, "502"),
        ("not-json", LLMTransport, 3, "provider failed"),
        ("no-choices", LLMTransport, 1, "holds none"),
        ("no-model", LLMTransport, 1, "404"),
        ("odd-content", LLMTransport, 3, "provider failed"),
        ("hang", LLMTimeout, 3, "time"),
        ("drip", LLMTimeout, 3, "time"),
        ("truncated", LLMTruncated, 2, "tokens"),
        ("truncated-but-valid", LLMTruncated, 2, "tokens"),
        ("refusal", LLMRefused, 1, "declined"),
        ("filtered", LLMRefused, 1, "declined"),
        ("unauthorised", LLMAuth, 1, "401"),
    ],
)
def test_what_cannot_is_a_named_error_in_time(
    server: FakeServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    scenario: str,
    error: type[LLMError],
    requests: int,
    says: str,
) -> None:
    log: list[CallRecord] = []
    begin = time.monotonic()
    with pytest.raises(error) as caught:
        ask(scenario, log)
    assert time.monotonic() - begin < SETTINGS.deadline_seconds + SLACK
    assert type(caught.value) is error
    assert says in str(caught.value).lower()
    assert "\n" not in str(caught.value)
    assert len(server.bodies[scenario]) == requests
    assert log[-1].outcome in (error.__name__, "invalid")
    printed = capfd.readouterr()
    assert printed.out == ""  # it would spoil `--json`
    shown = "".join(traceback.format_exception(caught.value)) + printed.err
    assert "Secret" not in shown + caplog.text + str(log)
    assert caught.value.__context__ is None  # a debugger would print its words


def test_the_answer_is_cut_short_by_the_deadline_whatever_the_attempts_allow() -> None:
    patient = LLMSettings(attempt_seconds=30.0)
    llm = LiteLLM("openai/hang", patient)
    begin = time.monotonic()
    with pytest.raises(LLMTimeout, match=r"within 0\.3 s"):
        llm.complete(LLMRequest(system="s", prompt="p", seconds=0.3))
    assert time.monotonic() - begin < 0.3 + SLACK


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(LLMTransport, match="provider failed"):
        ask("ok")


def test_what_is_sent(server: FakeServer) -> None:
    ask("ok")
    body = server.bodies["ok"][0]
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert body["max_tokens"] == 2000
    assert body["temperature"] == 0
    wanted = body["response_format"]["json_schema"]
    assert wanted["strict"] is True
    assert wanted["schema"]["additionalProperties"] is False
    assert body["authorization"] == f"Bearer {KEY}"


def test_a_refused_schema_goes_into_the_prompt(server: FakeServer) -> None:
    ask("schema-refused")
    first, second = server.bodies["schema-refused"]
    assert "response_format" in first
    assert "response_format" not in second
    assert '"additionalProperties": false' in second["messages"][1]["content"]
    assert "additionalProperties" not in first["messages"][1]["content"]


def test_a_truncated_answer_gets_twice_the_tokens_once(server: FakeServer) -> None:
    with pytest.raises(LLMTruncated):
        ask("truncated")
    assert [body["max_tokens"] for body in server.bodies["truncated"]] == [2000, 4000]


def test_a_re_ask_repeats_nothing_of_the_answer(server: FakeServer) -> None:
    with pytest.raises(LLMInvalid):
        ask("unknown-component")
    with pytest.raises(LLMInvalid):
        ask("violation")
    again = server.bodies["unknown-component"][1]["messages"][1]["content"]
    assert '"at": "component", "problem": "no such component in this record"' in again
    assert "script" not in again
    again = server.bodies["violation"][1]["messages"][1]["content"]
    assert '"at": "score"' in again
    assert "secret plan" not in again
    assert "high" not in again


def test_a_server_of_ones_own_needs_no_key(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask("ok").model_dump() == GOOD


def test_it_works_inside_a_running_loop() -> None:
    async def cell() -> Score:
        return ask("ok")

    assert asyncio.run(cell()).model_dump() == GOOD


@pytest.mark.parametrize("base", ["https://api.example.org/v1", "http://127.0.0.1.example.org", ""])
def test_the_ban_holds_for_all_other_machines(
    monkeypatch: pytest.MonkeyPatch, refused_connections: list[str], base: str
) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", base)
    with pytest.raises(LLMTransport, match="ZSEI_ALLOW_MODEL_REQUESTS=0"):
        ask("ok")
    with pytest.raises(LLMTransport, match="ZSEI_ALLOW_MODEL_REQUESTS=0"):
        LiteLLM("anthropic/x", SETTINGS).complete(LLMRequest(system="s", prompt="p"))
    assert refused_connections == []


@pytest.mark.parametrize("name", ["nonsense", "nonsense/model", f"{KEY}"])
def test_a_name_without_a_provider(capfd: pytest.CaptureFixture[str], name: str) -> None:
    with pytest.raises(UsageError, match="provider/model") as caught:
        LiteLLM(name, SETTINGS)
    assert "Secret" not in str(caught.value)
    assert capfd.readouterr().out == ""
