"""A server that misbehaves on command, and the environment that leads to it."""

import contextlib
from collections.abc import Iterator

import pytest
from llm.asking import KEY
from llm.fakeserver import FakeServer, serving

from zsei.errors import LLMError
from zsei.llm import LLMRequest
from zsei.llm.transport import LiteLLM
from zsei.settings import LLMSettings


@pytest.fixture(scope="session")
def started_server() -> Iterator[FakeServer]:
    """The server, once litellm has answered from it.

    litellm imports more at its first call, which the short waits of the tests would not outlast.
    """
    with serving() as state, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_BASE", state.url)
        patch.setenv("OPENAI_API_KEY", KEY)
        LiteLLM("openai/ok", LLMSettings()).complete(LLMRequest(system="s", prompt="p"))
        with contextlib.suppress(LLMError):
            LiteLLM("openai/no-model", LLMSettings()).complete(LLMRequest(system="s", prompt="p"))
        yield state


@pytest.fixture
def server(started_server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The server, asked nothing so far, as the one that `openai/SCENARIO` leads to."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_BASE", started_server.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    started_server.bodies.clear()
    return started_server
