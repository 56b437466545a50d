"""The seam: what a language model is asked and what it answers. One method, and data."""

from typing import Protocol

from pydantic import JsonValue

from zsei.records import Record, digest

TEMPERATURE = 0
"""Sent with every request, unless the provider refuses it."""


class LLMRequest(Record):
    """One question, whole: nothing is remembered between requests."""

    agent: str = ""
    """Who asks; for the log of calls."""
    system: str
    prompt: str
    answer_name: str = "answer"
    answer_schema: dict[str, JsonValue] | None = None
    """JSON schema of the answer; None asks for free text."""
    max_tokens: int = 2000
    seconds: float = 60.0
    """Wall-clock time until the answer must be there, transport retries included."""
    retries: int | None = None
    """Most transport retries that the budget still pays for; None leaves it to the settings."""

    @property
    def hash(self) -> str:
        """Twelve hex digits over all that is sent; equal questions have equal hashes."""
        sent = {"system": self.system, "prompt": self.prompt, "schema": self.answer_schema}
        return digest({**sent, "max_tokens": self.max_tokens})


class RawAnswer(Record):
    """What came back, unjudged."""

    text: str
    model: str
    """Name under which the model was asked."""
    finish_reason: str = "stop"
    """"stop", "length" (cut off at the token limit), "content_filter" ..."""
    refusal: str | None = None
    """The model's own words when it declined."""
    input_tokens: int | None = None
    """None where the provider does not say; never a silent 0."""
    output_tokens: int | None = None
    attempts: int = 1
    """Requests that were really sent, retries included."""
    lost: int = 0
    """Those among them that no answer came to, though the provider may have charged for one."""
    without: tuple[str, ...] = ()
    """Optional parts of the request that the provider refused, such as "response_format"."""


class CallRecord(Record):
    """One call as the log keeps it: no prompt, no answer, no secret, no clock."""

    agent: str
    model: str
    prompt_hash: str
    input_tokens: int | None = None
    output_tokens: int | None = None
    attempts: int | None = 1
    """Requests that were really sent; None where a failure does not say."""
    tokens: int = 0
    """Counted against the budget: what the provider said, or the most it can have been."""
    cost: float | None = None
    """Dollars counted against the budget, by list price; None where no price is known."""
    cached: bool = False
    """Whether the answer came from the cache, without a call."""
    without: tuple[str, ...] = ()
    """Optional parts of the request that the provider refused."""
    outcome: str
    """"ok", "cached", "invalid", "truncated" (both asked again), or the name of the error."""
    problem: str = ""
    """What was wrong with the answer, without a word of it."""


class LLM(Protocol):
    """Anything that answers one request. Failures are `zsei.errors.LLMError`s."""

    def complete(self, request: LLMRequest) -> RawAnswer:
        """Answer one request, within `request.seconds`."""
        ...
