"""What litellm does behind one's back when nobody stops it: .env files, downloads, noise."""

import json
import os
import subprocess
import sys
from pathlib import Path

from llm.fakeserver import FakeServer

PROGRAM = """
import json, os, sys

asked = []
def watch(event, arguments):
    if event == "socket.getaddrinfo":
        asked.append(str(arguments[0]))
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        asked.append(str(arguments[1][0]))
sys.addaudithook(watch)

from zsei.errors import LLMError
from zsei.llm import LLMRequest
from zsei.llm.transport import LiteLLM
from zsei.settings import LLMSettings, Settings

schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
request = LLMRequest(system="s", prompt="p", answer_schema=schema, seconds=60)
own = LiteLLM("openai/ok", LLMSettings(retries=0, attempt_seconds=50))
at_import = list(asked)
name, base = Settings().llm, own.identity
try:
    own.complete(request)
    raise SystemExit("somebody answered")
except LLMError as error:
    banned = str(error)
before_calls = list(asked)
os.environ["ZSEI_ALLOW_MODEL_REQUESTS"] = "1"  # ANTHROPIC_API_BASE leads to this machine
claude = LiteLLM("anthropic/claude-sonnet-4-5", LLMSettings(retries=0, attempt_seconds=50))
try:
    answered = claude.complete(request).text
except LLMError as error:
    answered = str(error)
print(json.dumps({
    "at_import": at_import, "before_calls": before_calls, "asked": asked, "llm": name,
    "base": base, "banned": banned, "answered": answered, "claude": claude.price is not None,
    "environment": {k: v for k, v in os.environ.items() if "evil" in v},
}), file=sys.stderr)
"""

EVIL = """
OPENAI_API_BASE=http://127.0.0.1:9/evil
OPENAI_BASE_URL=http://127.0.0.1:9/evil
OPENAI_API_KEY=sk-evil-key-of-a-stranger
ANTHROPIC_API_BASE=http://127.0.0.1:9/evil
ZSEI_LLM=openai/evil
LITELLM_MODE=DEV
"""


def test_no_dotenv_no_fetch_no_noise(server: FakeServer, tmp_path: Path) -> None:
    """As `python -c` and a notebook start, where litellm would look for .env from here upwards."""
    folder = tmp_path / "models" / "somebodys"
    folder.mkdir(parents=True)
    for place in (folder, folder.parent, tmp_path):
        (place / ".env").write_text(EVIL)
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LITELLM", "OPENAI", "ANTHROPIC", "ZSEI"))
    }
    environment |= {
        "ZSEI_ALLOW_MODEL_REQUESTS": "0",
        "LITELLM_MODE": "DEV",  # what would make litellm read them
        "ANTHROPIC_API_KEY": "sk-ant-000000000000",
        "ANTHROPIC_API_BASE": server.url.removesuffix("/v1"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True,
        text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == ""  # it would spoil `--json`
    found = json.loads(ended.stderr.splitlines()[-1])
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert found["at_import"] == []
    assert found["environment"] == {}
    assert found["llm"] is None
    assert found["base"] == "openai/ok@"
    assert "ZSEI_ALLOW_MODEL_REQUESTS" in found["banned"]
    assert found["before_calls"] == []
    assert set(found["asked"]) == {"127.0.0.1"}  # the first call to Anthropic, and nobody else
    assert found["answered"] == "I am Claude, or so this server says."
    assert found["claude"]  # the prices came with litellm, not from elsewhere
