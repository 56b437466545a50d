"""Asks for an answer of a given type, and takes no other: pydantic is the judge.

An answer that does not fit is asked for again, with a list of what was wrong where, and without a
word of the answer itself: what a model wrote must not become what it is told. A valid answer is
kept in the line's cache under the question as it was first asked.
"""

import json
import re
import time
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from zsei.errors import (
    LLMError,
    LLMInvalid,
    LLMRefused,
    LLMTimeout,
    LLMTransport,
    LLMTruncated,
    ZseiError,
)
from zsei.llm.budget import booked, retries_within
from zsei.llm.cache import question_key
from zsei.llm.failures import masked
from zsei.llm.line import Line
from zsei.llm.types import CallRecord, LLMRequest, RawAnswer

Answer = TypeVar("Answer", bound=BaseModel)
Problem = dict[str, str]
"""`at`: a path of field names and positions; `problem`: what is wrong there."""

_MOST_PROBLEMS = 20
_UNREACHABLE = ("LLMAuth", "LLMTimeout", "LLMTransport")
"""After one of these the next question would only wait as long for the same end."""
_LONGEST = 1_000_000
"""Characters of an answer that are looked at; no question here asks for more."""
_FENCE = re.compile(r"```(?:json)?[^\S\n]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_AGAIN = """

Your last answer could not be used. What was wrong with it, as JSON:
{problems}
Answer again, whole, with one JSON object."""


def ask_typed(
    line: Line,
    request: LLMRequest,
    output_type: type[Answer],
    context: dict[str, Any] | None = None,
) -> Answer:
    """Ask, judge, and ask again at most `settings.repairs` times.

    Args:
        line: Who is asked, within which limits; its log gets the calls, failed ones included.
        request: The question; its `answer_schema` is filled in here, and its `seconds` bound all
            repetitions together.
        output_type: What the answer must be.
        context: Closed vocabularies and the like, for the type's own validators.

    Returns:
        The validated answer.

    Raises:
        LLMInvalid: No answer fitted.
        LLMRefused: The model declined; it is not asked again.
        LLMTruncated: The answer was cut off, with twice the tokens too.
        LLMTimeout: The time was up.
        LLMBudget: The next call would pass the line's budget; it was not made.
        LLMError: Any other failure.
    """
    log, repairs = line.log, line.settings.repairs
    ends = time.monotonic() + request.seconds
    asked = request.model_copy(
        update={
            "answer_schema": output_type.model_json_schema(),
            "answer_name": output_type.__name__,
        }
    )
    key = question_key(asked, str(getattr(line.llm, "identity", line.name)))
    if (known := _remembered(line, asked, key, output_type, context)) is not None:
        return known
    again, may_grow = 0, True
    while True:
        raw = _complete(line, asked, ends)
        if raw.finish_reason == "length" and may_grow:
            log.append(_entry(line, asked, raw, "truncated"))
            may_grow = False
            asked = asked.model_copy(update={"max_tokens": 2 * asked.max_tokens})
            continue
        try:
            answer, text = _judge(raw, output_type, context)
        except _Unfit as unfit:
            problems = unfit.problems
            log.append(_entry(line, asked, raw, "invalid", problems))
        except LLMError as error:
            log.append(_entry(line, asked, raw, type(error).__name__))
            raise
        else:
            log.append(_entry(line, asked, raw, "ok"))
            if line.cache is not None:
                line.cache.put(key, text)
            return answer
        if again >= repairs:
            first = problems[0]
            raise LLMInvalid(
                f"{raw.model} must answer with a valid {output_type.__name__}, but after "
                f"{repairs} re-ask{'' if repairs == 1 else 's'} it still did not (at "
                f"{first['at'] or 'the top'}: {first['problem']}); ask a stronger model."
            )
        again += 1
        wrong = _AGAIN.format(problems=json.dumps(problems))
        asked = asked.model_copy(update={"prompt": request.prompt + wrong})


class _Unfit(Exception):
    """An answer that can be asked for again."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("unfit")
        self.problems = problems


def _remembered(
    line: Line,
    asked: LLMRequest,
    key: str,
    output_type: type[Answer],
    context: dict[str, Any] | None,
) -> Answer | None:
    """The answer that was given before, if it still holds; one that does not is forgotten."""
    if line.cache is None or (text := line.cache.get(key)) is None:
        return None
    try:
        answer, _ = _judge(RawAnswer(text=text, model=line.name), output_type, context)
    except _Unfit:
        line.cache.drop(key)
        return None
    line.log.append(
        CallRecord(
            agent=asked.agent, model=line.name, prompt_hash=asked.hash, input_tokens=0,
            output_tokens=0, attempts=0, cost=0.0, cached=True, outcome="cached",
        )
    )  # fmt: skip
    return answer


def _complete(line: Line, asked: LLMRequest, ends: float) -> RawAnswer:
    """One call, inside what is left of time and budget; a failed one is logged."""
    llm, log = line.llm, line.log
    last = next((call for call in reversed(log) if not call.cached), None)
    if last is not None and last.outcome in _UNREACHABLE:
        raise LLMTransport(
            f"A language model must be reachable, but {last.model} failed just now "
            f"({last.outcome}) and is not asked again; mend that first."
        )
    retries = retries_within(line, asked)
    left = ends - time.monotonic()
    if left <= 0:
        raise LLMTimeout(
            "A question must be answered in time, but re-asking used it up; allow more with "
            "ZSEI_LLM_CALL__DEADLINE_SECONDS or ask a stronger model."
        )
    failure: ZseiError
    try:
        return llm.complete(asked.model_copy(update={"seconds": left, "retries": retries}))
    except ZseiError as error:
        failure = error
    except Exception as error:
        failure = LLMTransport(
            f"A language model must fail with an LLMError, but {type(llm).__name__} raised "
            f"{type(error).__name__}; mend its `complete`."
        )
    tokens, cost = booked(line, asked, failure) if isinstance(failure, LLMError) else (0, None)
    log.append(
        CallRecord(
            agent=asked.agent,
            model=line.name,
            prompt_hash=asked.hash,
            tokens=tokens,
            cost=cost,
            attempts=failure.attempts if isinstance(failure, LLMError) else None,
            outcome=type(failure).__name__,
            problem=masked(str(failure)),
        )
    )
    raise failure


def _judge(
    raw: RawAnswer, output_type: type[Answer], context: dict[str, Any] | None
) -> tuple[Answer, str]:
    """The answer and the JSON it was read from, if it is whole and fits.

    How it ended is looked at before what it says.
    """
    if raw.refusal is not None or raw.finish_reason == "content_filter":
        raise LLMRefused(f"{raw.model} must answer, but it declined; ask another model.")
    if raw.finish_reason == "length":
        raise LLMTruncated(
            f"{raw.model} must answer within its tokens, but twice the budget was not enough; "
            "raise the budget in the agent's card."
        )
    if len(raw.text) > _LONGEST:
        raise _Unfit([{"at": "", "problem": f"the answer is longer than {_LONGEST} characters"}])
    # A lone surrogate cannot be encoded otherwise.
    text = _json_part(raw.text.encode(errors="replace").decode())
    try:
        return output_type.model_validate_json(text, context=context), text
    except ValidationError as error:
        raise _Unfit([_problem(detail) for detail in error.errors()[:_MOST_PROBLEMS]]) from None


def _json_part(text: str) -> str:
    """The JSON object in an answer that may wrap it in prose or a code fence."""
    text = text.strip()
    if text.startswith("{"):
        return text
    fenced = _FENCE.search(text)
    if fenced:
        return fenced[1].strip()
    first, last = text.find("{"), text.rfind("}")
    return text[first : last + 1] if 0 <= first < last else text


def _problem(detail: Any) -> Problem:
    """What is wrong where, in words of ours and of the schema only."""
    where, what = detail["loc"], detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        where, what = where[:-1], "there is a field that the schema does not have"
    return {"at": ".".join(str(part) for part in where), "problem": what}


def _entry(
    line: Line,
    asked: LLMRequest,
    raw: RawAnswer,
    outcome: str,
    problems: list[Problem] | None = None,
) -> CallRecord:
    tokens, cost = booked(line, asked, raw)
    return CallRecord(
        agent=asked.agent,
        model=raw.model,
        prompt_hash=asked.hash,
        input_tokens=raw.input_tokens,
        output_tokens=raw.output_tokens,
        tokens=tokens,
        cost=cost,
        attempts=raw.attempts,
        without=raw.without,
        outcome=outcome,
        problem="; ".join(f"{p['at'] or 'the top'}: {p['problem']}" for p in problems or ()),
    )
