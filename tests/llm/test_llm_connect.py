"""From a name in the settings to a language model."""

import json
from pathlib import Path

import pytest

from zsei.errors import UsageError
from zsei.llm import LLMRequest, ScriptedLLM, connect
from zsei.settings import Settings

REQUEST = LLMRequest(system="s", prompt="p")


@pytest.mark.parametrize("name", [None, "", "none", " None "])
def test_none_lets_rules_speak(name: str | None) -> None:
    assert connect(Settings(llm=name)) is None


def test_a_script_answers_in_order(tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(["as it stands", {"text": "as JSON"}]))
    llm = connect(Settings(llm=f"scripted:{path}"))
    assert isinstance(llm, ScriptedLLM)
    first, second = llm.complete(REQUEST), llm.complete(REQUEST)
    assert first.text == "as it stands"
    assert json.loads(second.text) == {"text": "as JSON"}
    assert first.model == "scripted:answers.json"
    with pytest.raises(UsageError, match="has 2"):
        llm.complete(REQUEST)


@pytest.mark.parametrize("content", [None, b"{}", b"[1,", b"\xff"])
def test_a_script_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "answers.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="scripted:FILE"):
        connect(Settings(llm=f"scripted:{path}"))


def test_any_other_name_is_litellms() -> None:
    llm = connect(Settings(llm="openai/some-model"))
    assert type(llm).__name__ == "LiteLLM"
    with pytest.raises(UsageError, match="provider/model"):
        connect(Settings(llm="no-such-provider/model"))
