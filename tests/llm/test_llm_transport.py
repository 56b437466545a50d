"""The transport through real litellm: what is sent, where to, and what is counted."""

import asyncio
import contextlib
import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from llm.asking import KEY, SETTINGS, Score, ask, ask_on, line_to
from llm.fakeserver import GOOD, SCENARIOS, FakeServer, completion

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
from zsei.llm import CallRecord, LLMRequest
from zsei.llm.transport import LiteLLM
from zsei.settings import LLMSettings

pytestmark = pytest.mark.usefixtures("server")
QUESTION = LLMRequest(system="s", prompt="p", seconds=20)


def test_the_answer_is_cut_short_by_the_deadline_whatever_the_attempts_allow() -> None:
    patient = LLMSettings(attempt_seconds=30.0)
    llm = LiteLLM("openai/hang", patient)
    with pytest.raises(LLMTimeout, match=r"within 0\.3 s") as caught:
        llm.complete(LLMRequest(system="s", prompt="p", seconds=0.3))
    assert (caught.value.attempts, caught.value.lost) == (1, 1)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    with pytest.raises(LLMTransport, match="no connection could be made; check the network") as it:
        ask("ok")
    assert (it.value.attempts, it.value.lost) == (3, 0)  # nothing was sent, so nothing is charged


def test_a_wrong_key_is_told_with_the_variable_it_stands_in() -> None:
    with pytest.raises(LLMAuth, match="usually in OPENAI_API_KEY"):
        ask("unauthorised")


@pytest.mark.parametrize(
    ("scenario", "attempts", "lost"),
    [
        ("rate-limited-once", 2, 0),  # a refusal is never charged
        ("temperature-refused", 2, 0),
        ("server-error-once", 2, 1),  # a failure may be
    ],
)
def test_what_may_have_been_charged_is_counted(scenario: str, attempts: int, lost: int) -> None:
    answer = LiteLLM(f"openai/{scenario}", LLMSettings(), pause=0.01).complete(QUESTION)
    assert (answer.attempts, answer.lost) == (attempts, lost)


def test_a_failure_says_what_was_sent() -> None:
    with pytest.raises(LLMTransport) as caught:
        LiteLLM("openai/dropped-mid-body", LLMSettings(), pause=0.01).complete(QUESTION)
    assert (caught.value.attempts, caught.value.lost) == (3, 3)
    with pytest.raises(LLMTransport) as caught:
        LiteLLM("openai/no-model", LLMSettings(), pause=0.01).complete(QUESTION)
    assert (caught.value.attempts, caught.value.lost) == (1, 0)


def test_the_budget_may_allow_fewer_retries(server: FakeServer) -> None:
    llm = LiteLLM("openai/server-error", LLMSettings(), pause=0.01)
    with pytest.raises(LLMTransport):
        llm.complete(QUESTION.model_copy(update={"retries": 1}))
    assert len(server.bodies["server-error"]) == 2
    with pytest.raises(LLMTransport):
        llm.complete(QUESTION.model_copy(update={"retries": 9}))
    assert len(server.bodies["server-error"]) == 2 + 3  # the settings allow no more than two


def test_a_limit_on_tokens_is_sent_by_either_name(server: FakeServer) -> None:
    ask("max-tokens-refused")
    first, second = server.bodies["max-tokens-refused"]
    assert (first["max_tokens"], "max_completion_tokens" in first) == (2000, False)
    assert (second["max_completion_tokens"], "max_tokens" in second) == (2000, False)


def test_what_was_refused_once_is_not_tried_again(server: FakeServer) -> None:
    line = line_to("schema-refused")
    for _ in range(2):
        ask_on(line)
    ask("ok", line.log)
    without = ("response_format",)
    assert [(call.attempts, call.without) for call in line.log] == [
        (2, without),
        (1, without),
        (1, ()),
    ]
    assert len(server.bodies["schema-refused"]) == 3


def test_any_reply_ends_in_an_answer_or_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(3)
    whole = json.dumps(completion(json.dumps(GOOD))).encode()
    once = SETTINGS.model_copy(update={"retries": 0, "repairs": 0})

    def noisy(handler: Any, count: int, body: dict[str, Any]) -> None:
        start, end = sorted(generator.randrange(len(whole)) for _ in range(2))
        noise = generator.choice([b"", b"null", b"[]", generator.randbytes(9), whole])
        handler.send(
            generator.choice([200, 200, 200, 500, 400]), whole[:start] + noise + whole[end:]
        )

    monkeypatch.setitem(SCENARIOS, "noise", noisy)
    ends: set[str] = set()
    for _ in range(60):
        log: list[CallRecord] = []
        with contextlib.suppress(LLMError):
            ask_on(line_to("noise", log, once))
        ends.add(log[-1].outcome)
    assert ends >= {"LLMTransport", "invalid"}


def test_the_list_price_is_of_the_providers_own_models(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert LiteLLM("openai/gpt-4o-mini", SETTINGS).price is None  # somebody else's, at that address
    monkeypatch.delenv("OPENAI_API_BASE")
    price = LiteLLM("openai/gpt-4o-mini", SETTINGS).price
    assert price is not None
    assert price.of(1_000_000, 1_000_000) == pytest.approx(0.15 + 0.6)
    assert LiteLLM("openai/ok", SETTINGS).price is None


def test_the_same_name_elsewhere_is_another_model(monkeypatch: pytest.MonkeyPatch) -> None:
    here = LiteLLM("openai/ok", SETTINGS).identity
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    assert LiteLLM("openai/ok", SETTINGS).identity != here


def _mocked(scenario: str, **options: Any) -> Any:
    """litellm with `mock_response`: what an upgrade might change about its replies."""
    line = line_to(scenario)
    litellm: Any = line.llm._litellm  # type: ignore[attr-defined]

    def acompletion(**sent: Any) -> Any:
        return litellm.acompletion(**sent, **options)

    line.llm._litellm = SimpleNamespace(acompletion=acompletion)  # type: ignore[attr-defined]
    return line


def test_litellms_reply_holds_text_tokens_and_how_it_ended(server: FakeServer) -> None:
    answer = _mocked("ok", mock_response="words").llm.complete(QUESTION)
    assert (answer.text, answer.finish_reason, answer.refusal) == ("words", "stop", None)
    assert answer.input_tokens > 0
    assert answer.output_tokens > 0
    assert server.bodies == {}


def test_litellms_reply_tells_truncation_and_refusal_apart() -> None:
    import litellm

    def ends(reason: str, content: str | None, **more: Any) -> Any:
        message = {"role": "assistant", "content": content, **more}
        choice = {"finish_reason": reason, "index": 0, "message": message}
        return litellm.ModelResponse(choices=[choice], usage={"prompt_tokens": 1})

    good = '{"component": "layer.0/head.1", "score": 0.5}'
    with pytest.raises(LLMTruncated):
        ask_on(_mocked("ok", mock_response=ends("length", good)))
    with pytest.raises(LLMRefused):
        ask_on(_mocked("ok", mock_response=ends("content_filter", "")))
    refused = ends("stop", None, provider_specific_fields={"refusal": "no"})
    with pytest.raises(LLMRefused):
        ask_on(_mocked("ok", mock_response=refused))


def test_litellms_errors_carry_a_status() -> None:
    with pytest.raises(LLMTransport, match="429"):
        ask_on(_mocked("ok", mock_response="litellm.RateLimitError"))
    with pytest.raises(LLMTransport, match="500"):
        ask_on(_mocked("ok", mock_response="litellm.InternalServerError"))
    from litellm import ContextWindowExceededError

    long = ContextWindowExceededError(message="m", model="m", llm_provider="openai")
    with pytest.raises(LLMError, match="too long") as caught:
        ask_on(_mocked("ok", mock_response=long))
    assert type(caught.value).__name__ == "LLMTooLong"


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


def test_no_proxy_stands_before_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
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
