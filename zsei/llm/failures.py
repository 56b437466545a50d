"""Turns whatever a provider's client raises into one sentence of ours, without secrets in it."""

import contextlib
import os
import re
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from zsei.errors import LLMAuth, LLMError, LLMRefused, LLMTimeout, LLMTooLong, LLMTransport

_SECRET_NAME = re.compile(
    r"(API_?KEY|ACCESS_?KEY|_KEY$|TOKEN|SECRET|PASSWORD|CREDENTIALS)", re.IGNORECASE
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
    "max_tokens": ("max_completion_tokens",),
}
"""What a request can do without, and the words in which a provider refuses it. The limit on tokens
never goes: newer models want it under another name, which their refusal mentions."""
_NOT_READ = ("ReplyTooLong",)
_NOT_REACHED = ("ConnectError", "ConnectTimeout", "ClientConnectorError", "gaierror")
"""Exceptions of several clients that say that nothing was sent."""
_TOO_LONG = ("contextwindowexceeded", "context_length_exceeded", "maximum context length")
_POLICY = ("contentpolicy", "content_policy", "content_filter", "content management policy")
_QUOTA = ("insufficient_quota", "exceeded your current quota")


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
    lost: bool = False
    """Whether the provider may have charged for it all the same."""


def explain(error: Exception, model: str, key_name: str = "") -> Failure:
    """What an exception of the transport means.

    It goes by the HTTP status, which every client carries, rather than by exception classes, which
    change between versions.

    Args:
        error: What the client raised.
        model: Name of the model, for the sentence.
        key_name: The environment variable that the provider's key usually stands in.
    """
    status, said = getattr(error, "status_code", None), masked(_own_words(error))
    named = _on_the_way(error, model, status) or _refusal(error, model, status, said, key_name)
    if named is not None:
        return named
    broken = status is None or status >= 500
    retry = broken or status in (409, 425, 429)
    wait = _retry_after(error) if retry else None
    return Failure(_transport(model, status, said), retry=retry, wait=wait, lost=broken)


def _on_the_way(error: Exception, model: str, status: int | None) -> Failure | None:
    """What went wrong before there was an answer, or within it."""
    if _comes_from(error, _NOT_READ):
        flood = LLMTransport(
            f"{model} must give an answer of sensible length and not packed, but the server sends "
            "more than that; check that its address is a language model's."
        )
        return Failure(flood, lost=True)
    if _comes_from(error, _NOT_REACHED):
        away = LLMTransport(
            f"{model} must be reachable, but no connection could be made; check the network, and "
            "the server's address if it is one of your own."
        )
        return Failure(away, retry=True)
    if isinstance(error, TimeoutError) or status == 408:
        slow = LLMTimeout(
            f"{model} must answer in time, but an attempt took too long; allow more with "
            "ZSEI_LLM_CALL__ATTEMPT_SECONDS."
        )
        return Failure(slow, retry=True, lost=True)
    return None


def _refusal(
    error: Exception, model: str, status: int | None, said: str, key_name: str
) -> Failure | None:
    """What the provider will refuse again, however often it is asked."""
    if status in (401, 403):
        usual = f", usually in {key_name}" if key_name else ""
        return Failure(
            LLMAuth(
                f"{model} needs valid credentials, but the provider refused them ({status}: "
                f"{said}); set the provider's key{usual}."
            )
        )
    if status == 404:
        return Failure(
            LLMTransport(
                f"{model} must exist, but the provider knows no such model or address ({status}: "
                f"{said}); check the name after the slash."
            )
        )
    if status is not None and 300 <= status < 400:
        return Failure(
            LLMTransport(
                f"{model} must answer where it is asked, but the server points elsewhere "
                f"({status}), which is not followed; set its final address."
            )
        )
    if _says(error, _POLICY):
        return Failure(
            LLMRefused(
                f"{model} must answer, but the provider's content policy stopped it; ask another "
                "model."
            )
        )
    if _says(error, _TOO_LONG):
        return Failure(
            LLMTooLong(
                f"{model} must be able to read the whole question, but it is too long for it; give "
                "the agent less evidence in its card, or ask a model with a longer context."
            )
        )
    if _says(error, _QUOTA):
        return Failure(_transport(model, status, said))
    if status in (400, 422):
        for name, words in OPTIONAL.items():
            if _says(error, words):
                return Failure(_transport(model, status, said), without=name)
    return None


def _comes_from(error: BaseException, names: tuple[str, ...]) -> bool:
    """Whether an exception of one of these names stands somewhere down the chain of causes."""
    cause: BaseException | None = error
    for _ in range(20):
        if cause is None:
            return False
        if any(kind.__name__ in names for kind in type(cause).__mro__):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _says(error: Exception, words: tuple[str, ...]) -> bool:
    """Whether one of these stands in the exception's name or message."""
    said = f"{type(error).__name__} {error}".lower()
    return any(word in said for word in words)


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
    """Seconds of a Retry-After header, given as seconds or as a date, or of `retry-after-ms`."""
    headers = getattr(error, "litellm_response_headers", None)
    if headers is None:
        headers = getattr(getattr(error, "response", None), "headers", None) or {}
    value = str(headers.get("retry-after", "")).strip()
    for number, unit in ((headers.get("retry-after-ms"), 1e-3), (value, 1.0)):
        with contextlib.suppress(ValueError):
            return max(0.0, float(number or "") * unit)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
