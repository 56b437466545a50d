"""From a setting to a language model, or to none."""

import json
from pathlib import Path

from zsei.errors import UsageError
from zsei.llm.scripted import ScriptedLLM
from zsei.llm.types import LLM
from zsei.settings import Settings

_SCRIPTED = "scripted:"


def connect(settings: Settings) -> LLM | None:
    """The language model that `settings.llm` names; None lets rules speak.

    `scripted:FILE.json` answers from a JSON list, one entry per request: a text is the answer as
    it stands, anything else is the answer as JSON. All other names are litellm's.

    Raises:
        UsageError: The name fits no provider, or the script cannot be read.
    """
    name = (settings.llm or "").strip()
    if name.lower() in ("", "none"):
        return None
    if name.startswith(_SCRIPTED):
        return _scripted(name)
    from zsei.llm.transport import LiteLLM

    return LiteLLM(name, settings.llm_call)


def _scripted(name: str) -> ScriptedLLM:
    path = Path(name.removeprefix(_SCRIPTED))
    try:
        answers = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(
            f"scripted:FILE must name a readable JSON file, but {path} is not: {error.strerror}; "
            "check the path."
        ) from None
    except ValueError:  # broken JSON, or bytes that are no text
        answers = None
    if not isinstance(answers, list):
        raise UsageError(
            f"scripted:FILE must hold a JSON list of answers, but {path} does not; write one "
            "answer per request between [ and ]."
        )
    texts = [answer if isinstance(answer, str) else json.dumps(answer) for answer in answers]
    return ScriptedLLM(texts, name=f"{_SCRIPTED}{path.name}")
