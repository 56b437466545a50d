"""Turns whatever a provider's client raises into one sentence of ours, without secrets in it."""

import os
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from zsei.errors import LLMAuth, LLMError, LLMRefused, LLMTimeout, LLMTransport

_SECRET_NAME = re.compile(
    r"(API_?KEY|ACCESS_?KEY|TOKEN|SECRET|PASSWORD|CREDENTIALS)", re.IGNORECASE
)
_SECRET_SHAPE = re.compile(
    r"\b(?:(?:sk|pk|gsk|xai|hf|key|ghp)[-_]|AIza|AKIA)[-_A-Za-z0-9*.]{6,}"
    r"|(?:Bearer|Basic)\s+\S+"
    r"|://[^/\s:@]+:[^/\s@]+@"
)
_LONGEST = 200
"""Characters of a provider's own words that are repeated."""

OPTIONAL = {
    "response_format": ("response_format", "json_schema", "structured output"),
    "temperature": ("temperature",),
}
"""What a request can do without, and the words in which a provider refuses it."""


@dataclass(frozen=True)
class Failure:
    """One failed attempt: the error to raise, and what might still help."""

    error: LLMError
    retry: bool = False
    """Whether the same request may succeed later."""
    wait: float | None = None
    """Seconds the server asks to wait."""
    without: str | None = None
    """The optional part of the request that the provider refused."""


def explain(error: Exception, model: str) -> Failure:
    """What an exception of the transport means.

    It goes by the HTTP status, which every client carries, rather than by exception classes, which
    change between versions.
    """
    status = getattr(error, "status_code", None)
    said, lowered = masked(_own_words(error)), str(error).lower()
    if isinstance(error, TimeoutError) or status == 408:
        slow = LLMTimeout(
            f"{model} must answer in time, but an attempt took too long; allow more with "
            "ZSEI_LLM_CALL__ATTEMPT_SECONDS."
        )
        return Failure(slow, retry=True)
    if status in (401, 403):
        refused = LLMAuth(
            f"{model} needs valid credentials, but the provider refused them ({status}: {said}); "
            "set the provider's key."
        )
        return Failure(refused)
    if "content_policy" in lowered or "contentpolicy" in type(error).__name__.lower():
        declined = LLMRefused(
            f"{model} must answer, but the provider's content policy stopped it; ask another model."
        )
        return Failure(declined)
    if status in (400, 422):
        for name, words in OPTIONAL.items():
            if any(word in lowered for word in words):
                return Failure(_transport(model, status, said), without=name)
    quota = "insufficient_quota" in lowered or "exceeded your current quota" in lowered
    retry = not quota and (status is None or status in (409, 425, 429) or status >= 500)
    wait = _retry_after(error) if retry else None
    return Failure(_transport(model, status, said), retry=retry, wait=wait)


def masked(text: str) -> str:
    """A text on one line, cut to length, with everything that looks like a secret hidden.

    Hidden are the values of environment variables whose names speak of keys, tokens, secrets or
    passwords, and whatever has the shape of a provider's key.
    """
    for name, value in os.environ.items():
        if len(value) >= 6 and _SECRET_NAME.search(name):
            text = text.replace(value, "***")
    text = _SECRET_SHAPE.sub("***", text)
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _transport(model: str, status: int | None, said: str) -> LLMTransport:
    code = f"{status}: " if status else ""
    return LLMTransport(
        f"{model} must answer, but the provider failed ({code}{said}); try again later, or check "
        "the model's name and address."
    )


def _own_words(error: Exception) -> str:
    """The message without the class names that litellm puts before it."""
    words = str(error) or type(error).__name__
    return re.sub(r"^(?:litellm\.)?(?:\w+(?:Error|Exception|Timeout)(?:: ?| - ))+", "", words)


def _retry_after(error: Exception) -> float | None:
    """Seconds of a Retry-After header, given as seconds or as a date."""
    headers = getattr(error, "litellm_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = str(headers.get("retry-after", "")).strip()
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
