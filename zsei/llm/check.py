"""Asks the language model of the settings one tiny question, to say what works and what not."""

import time
from typing import Literal

from zsei.errors import LLMError, UsageError
from zsei.llm.connect import connect
from zsei.llm.failures import masked
from zsei.llm.line import Line
from zsei.llm.tally import totals
from zsei.llm.typed import ask_typed
from zsei.llm.types import LLMRequest
from zsei.records import Record
from zsei.settings import Settings

_TOKENS = 500
"""Enough for an answer of one word, also from a model that thinks before it speaks."""


class Check(Record):
    """What asking once has shown."""

    ok: bool
    model: str | None
    sentence: str
    """What works, or what does not and the fix."""
    error: str | None = None
    """Name of the error; None when all is well."""
    takes_schema: bool | None = None
    """Whether the provider takes a JSON schema beside the question; None when it never answered."""
    attempts: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: float | None = None
    """Dollars, by list price; None where no price is known."""
    seconds: float | None = None
    """Wall-clock time until the answer."""


class _Word(Record):
    word: Literal["green", "seven"]


def check(settings: Settings) -> Check:
    """Ask the language model of the settings once, beside its cache; nothing is raised for it."""
    begin = time.monotonic()
    try:
        llm = connect(settings)
        if llm is None:
            raise UsageError(
                "A language model must be named to be checked, but none is, so rules speak; name "
                "one with --llm or ZSEI_LLM, such as openai/gpt-4o-mini."
            )
        line = Line(llm=llm, settings=settings.llm_call)
        request = LLMRequest(
            agent="check",
            system="You answer with one JSON object.",
            prompt="Which of the two words names a colour?",
            max_tokens=min(_TOKENS, settings.llm_call.max_tokens),
            seconds=settings.llm_call.deadline_seconds,
        )
        ask_typed(line, request, _Word)
    except (LLMError, UsageError) as error:
        return Check(
            ok=False,
            model=masked(settings.llm or "") or None,
            sentence=str(error),
            error=type(error).__name__,
        )
    call, seconds = line.log[-1], time.monotonic() - begin
    takes_schema = "response_format" not in call.without
    return Check(
        ok=True,
        model=line.name,
        sentence=_sentence(line, takes_schema, seconds),
        takes_schema=takes_schema,
        attempts=totals(line.log).requests,
        input_tokens=call.input_tokens,
        output_tokens=call.output_tokens,
        cost=call.cost,
        seconds=seconds,
    )


def _sentence(line: Line, takes_schema: bool, seconds: float) -> str:
    call = line.log[-1]
    schema = "takes JSON schemas" if takes_schema else "refuses JSON schemas, so prompts hold them"
    again = len(line.log) - 1
    right = f" after {again} re-ask{'' if again == 1 else 's'}" if again else ""
    known = call.input_tokens is not None and call.output_tokens is not None
    tokens = f"{call.input_tokens} + {call.output_tokens} tokens" if known else "untold tokens"
    price = "a price nobody knows" if call.cost is None else f"${call.cost:.6f}"
    return (
        f"{line.name} answers{right}: its name is known, its key is taken, the network holds, it "
        f"{schema}, and one tiny question took {tokens}, {price} and {seconds:.1f} s."
    )
