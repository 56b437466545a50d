"""The hard budget of a line, in calls, tokens and money: looked at before a call is made.

How many tokens a question will be is not known without the provider's own tokenizer. But a token is
at least one byte of text, in byte-level BPE as in SentencePiece with byte fallback, so the bytes
sent bound the tokens read; `_AROUND` covers what providers put around them. With the tokens that
the answer may have, that is the worst a call can come to, and it must fit into what is left. What
is booked afterwards is what the provider says it was.
"""

import json

from zsei.errors import LLMBudget, LLMError
from zsei.llm.line import Line
from zsei.llm.prices import Price, flat_price
from zsei.llm.tally import totals
from zsei.llm.types import LLMRequest, RawAnswer

_AROUND = 600
"""Tokens for roles and delimiters, and for the instructions some providers add to a schema."""
_NAMES = "ZSEI_LLM_CALL__"


def retries_within(line: Line, request: LLMRequest) -> int:
    """How many transport retries the budget pays for, should each attempt cost the worst.

    Raises:
        LLMBudget: Not even one attempt is within the budget, or its price is unknown and money is
            limited.
    """
    settings = line.settings
    made = totals(line.log)
    if made.calls >= settings.max_calls:
        raise LLMBudget(
            f"An analysis may make {settings.max_calls} calls to a language model, and they are "
            f"used up; allow more with {_NAMES}MAX_CALLS."
        )
    attempts = settings.retries + 1
    read, written = most_read(request), request.max_tokens
    if settings.max_total_tokens is not None:
        left = settings.max_total_tokens - made.tokens
        attempts = min(attempts, left // (read + written))
        if attempts < 1:
            raise LLMBudget(
                f"All calls may take {settings.max_total_tokens} tokens, but {max(left, 0)} are "
                f"left and the next call may take {read + written}; allow more with "
                f"{_NAMES}MAX_TOTAL_TOKENS."
            )
    if settings.max_cost is not None:
        attempts = min(
            attempts, _affordable(line, made.cost or 0.0, settings.max_cost, read, written)
        )
    return attempts - 1


def booked(
    line: Line, request: LLMRequest, reply: RawAnswer | LLMError
) -> tuple[int, float | None]:
    """Tokens and dollars that a call counts against the budget; None where no price is known.

    An attempt without an answer that the provider may have charged for counts the worst.
    """
    read, written = most_read(request), request.max_tokens
    lost = reply.lost
    if isinstance(reply, LLMError):
        lost = 1 if reply.attempts is None else reply.lost
        told = (0, 0)
    else:
        told = (
            read if reply.input_tokens is None else reply.input_tokens,
            written if reply.output_tokens is None else reply.output_tokens,
        )
    price = _price_of(line)
    cost = None if price is None else price.of(*told) + lost * price.of(read, written)
    return sum(told) + lost * (read + written), cost


def most_read(request: LLMRequest) -> int:
    """A bound on the tokens that a request makes the model read."""
    schema = "" if request.answer_schema is None else json.dumps(request.answer_schema)
    sent = (request.system, request.prompt, request.answer_name, schema)
    return sum(len(part.encode(errors="replace")) for part in sent) + _AROUND


def _price_of(line: Line) -> Price | None:
    """The price of a line's model: from the settings, or from the list; None when unknown."""
    settings = line.settings
    if settings.input_price is not None and settings.output_price is not None:
        return flat_price(settings.input_price, settings.output_price)
    return getattr(line.llm, "price", None)


def _affordable(line: Line, spent: float, most: float, read: int, written: int) -> int:
    """Attempts that the money left pays for; at least one."""
    price = _price_of(line)
    if price is None:
        raise LLMBudget(
            f"A budget in money needs the price of {line.name}, but none is known; set "
            f"{_NAMES}INPUT_PRICE and {_NAMES}OUTPUT_PRICE in dollars per million tokens, or leave "
            f"{_NAMES}MAX_COST out."
        )
    worst = price.of(read, written)
    if spent + worst > most:
        raise LLMBudget(
            f"All calls may cost ${most:.6g}, but ${spent:.6g} are spent and the next call may "
            f"cost ${worst:.6g}; allow more with {_NAMES}MAX_COST."
        )
    return 1_000_000 if worst == 0 else 1 + int((most - spent - worst) / worst)
