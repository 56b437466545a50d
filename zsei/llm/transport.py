"""The one place that speaks to real language models: litellm, as transport only.

What comes back is not judged here. litellm is imported in one function and nowhere else.
"""

import asyncio
import ipaddress
import json
import os
import random
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from zsei.errors import LLMError, LLMTimeout, LLMTransport, UsageError
from zsei.llm.client import client_for
from zsei.llm.failures import Failure, explain, masked
from zsei.llm.prices import listed_price
from zsei.llm.types import TEMPERATURE, LLMRequest, RawAnswer
from zsei.llm.waiting import run_within
from zsei.settings import LLMSettings

ALLOW = "ZSEI_ALLOW_MODEL_REQUESTS"
"""Set to 0, no request leaves this machine: only servers on the loopback address are asked."""

_QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # otherwise importing fetches a price list
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",  # otherwise the first call fetches another
    "LITELLM_MODE": "PRODUCTION",  # otherwise a .env file found on the way is obeyed
}


class LiteLLM:
    """Any model that litellm reaches, asked under a wall-clock deadline with retries of our own."""

    def __init__(self, model: str, settings: LLMSettings, *, pause: float = 0.5) -> None:
        """Import litellm and check the model's name; nothing is sent.

        Args:
            model: litellm's name, `provider/model`. For a server of your own that speaks OpenAI's
                protocol: `openai/NAME`, with `OPENAI_API_BASE` set to its address.
            settings: Limits of a call.
            pause: Seconds before the first retry; doubled, with jitter, before each further one.

        Raises:
            UsageError: litellm knows no provider for the name.
        """
        self.name = model
        self._settings = settings
        self._pause = pause
        self._litellm = _litellm()
        self._provider, self._base = _resolve(self._litellm, model)
        self._client: Any = None
        self._refused: list[str] = []
        self.identity = f"{model}@{self._base or ''}"
        """What answers belong to: the same name elsewhere may be another model."""
        own = self._provider == "openai" and self._base is not None
        self.price = None if own else listed_price(self._litellm.model_cost, model, self._provider)
        """List price; None for a server of one's own, whatever its model is called."""

    def complete(self, request: LLMRequest) -> RawAnswer:
        """Ask once, retrying what may pass: 429, 5xx, dropped connections, slow attempts.

        Raises:
            LLMTimeout: No answer within `request.seconds`.
            LLMAuth: The provider refused the credentials.
            LLMRefused: The provider's content policy stopped it.
            LLMTooLong: The question is longer than the model reads.
            LLMTransport: Any other failure, after at most `settings.retries` retries.
        """
        self._refuse_if_banned()
        sent = _Sent(without=list(self._refused))
        outcome: RawAnswer | LLMError
        try:
            outcome = run_within(self._converse(request, sent), request.seconds)
        except TimeoutError:
            outcome = LLMTimeout(
                f"{self.name} must answer within {request.seconds:.3g} s, but did not; allow more "
                "with ZSEI_LLM_CALL__DEADLINE_SECONDS or ask a faster model."
            )
        if isinstance(outcome, LLMError):
            outcome.attempts, outcome.lost = sent.attempts, sent.lost
            raise outcome  # outside of any handler: the client's own error may hold the key
        return outcome.model_copy(
            update={"attempts": sent.attempts, "lost": sent.lost, "without": tuple(sent.without)}
        )

    async def _converse(self, request: LLMRequest, sent: "_Sent") -> RawAnswer | LLMError:
        """Attempts until one answers or none may help any more."""
        ends = time.monotonic() + request.seconds
        retries, most = 0, self._settings.retries
        if request.retries is not None:
            most = min(most, request.retries)
        while True:
            sent.attempts += 1
            sent.lost += 1  # until it is known better: the deadline may fall in between
            reply = await self._attempt(request, sent.without)
            if isinstance(reply, RawAnswer):
                sent.lost -= 1
                return reply
            sent.lost -= not reply.lost
            if reply.without is not None and reply.without not in sent.without:
                sent.without.append(reply.without)
                self._refused = list(sent.without)  # the next question need not try again
                continue
            if not reply.retry or retries >= most:
                return reply.error
            wait = self._pause * 2**retries * random.Random().uniform(0.75, 1.25)
            wait = max(wait, reply.wait or 0.0)
            if wait > ends - time.monotonic():
                if reply.wait is None:
                    return reply.error
                return LLMTransport(
                    f"{self.name} must answer within {request.seconds:.3g} s, but the provider "
                    f"asks to wait {reply.wait:.0f} s; try again later."
                )
            retries += 1
            await asyncio.sleep(wait)

    async def _attempt(self, request: LLMRequest, without: list[str]) -> RawAnswer | Failure:
        """One request on the wire."""
        seconds = self._settings.attempt_seconds
        options = _optional_parts(request, without)
        prompt = request.prompt
        if request.answer_schema is not None and "response_format" not in options:
            schema = json.dumps(request.answer_schema)
            prompt += f"\n\nAnswer with one JSON object that fits this JSON schema:\n{schema}"
        try:
            reply = await asyncio.wait_for(
                self._litellm.acompletion(
                    model=self.name,
                    messages=[
                        {"role": "system", "content": request.system},
                        {"role": "user", "content": prompt},
                    ],
                    timeout=seconds,
                    max_retries=0,
                    **self._connection(),
                    **options,
                ),
                seconds,
            )
            return _read(reply, self.name)
        except Exception as error:
            return explain(error, self.name, f"{self._provider.upper()}_API_KEY")

    def _connection(self) -> dict[str, Any]:
        """Where to ask. A server of one's own must not pass the question on to somebody else."""
        if self._base is None:
            return {}
        if self._provider != "openai":
            return {"api_base": self._base}
        if self._client is None:
            local, key = _is_loopback(self._base), os.environ.get("OPENAI_API_KEY")
            if not key and local:
                key = "none"  # a server on this machine asks for none, but the client insists
            self._client = client_for(self._base, key, local=local)
        return {"client": self._client}

    def _refuse_if_banned(self) -> None:
        if os.environ.get(ALLOW) == "0" and not _is_loopback(self._base):
            raise LLMTransport(
                f"With {ALLOW}=0 only a server on this machine may be asked, but {self.name} is "
                "elsewhere; unset the variable, or point the provider's API base to 127.0.0.1."
            )


@dataclass
class _Sent:
    """What went out so far; it outlives a conversation that the deadline cuts off."""

    attempts: int = 0
    lost: int = 0
    without: list[str] = field(default_factory=list)


def _litellm() -> Any:
    """litellm, imported so that it fetches nothing, reads no .env file and prints nothing."""
    os.environ.update(_QUIET)
    import litellm

    litellm.suppress_debug_info = True
    return litellm


def _resolve(litellm: Any, model: str) -> tuple[str, str | None]:
    """Provider of a model and the address it is asked at; None is the provider's own."""
    try:
        _, provider, _, base = litellm.get_llm_provider(model)
    except Exception:
        raise UsageError(
            f"The language model must be a litellm name such as openai/gpt-4o-mini, but "
            f"{masked(model)!r} names no provider that litellm knows; write provider/model."
        ) from None
    if provider == "openai":
        base = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE") or base
    return provider, base or None


def _is_loopback(address: str | None) -> bool:
    host = urlsplit(address or "").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _optional_parts(request: LLMRequest, without: list[str]) -> dict[str, Any]:
    parts: dict[str, Any] = {"temperature": TEMPERATURE, "max_tokens": request.max_tokens}
    if request.answer_schema is not None:
        parts["response_format"] = {
            "type": "json_schema",
            "json_schema": {
                "name": request.answer_name,
                "schema": request.answer_schema,
                "strict": True,
            },
        }
    if "max_tokens" in without:
        parts["max_completion_tokens"] = request.max_tokens
    return {name: part for name, part in parts.items() if name not in without}


def _read(reply: Any, model: str) -> RawAnswer | Failure:
    """The parts of litellm's reply that count."""
    if not reply.choices:
        return Failure(
            LLMTransport(
                f"{model} must give an answer, but the reply holds none; try again or ask another "
                "model."
            ),
            lost=True,
        )
    message = reply.choices[0].message
    special = getattr(message, "provider_specific_fields", None) or {}
    usage = getattr(reply, "usage", None)
    return RawAnswer(
        text=message.content or "",
        model=model,
        finish_reason=reply.choices[0].finish_reason or "stop",
        refusal=special.get("refusal"),
        input_tokens=getattr(usage, "prompt_tokens", None),
        output_tokens=getattr(usage, "completion_tokens", None),
    )
