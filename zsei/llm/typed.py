"""Asks for an answer of a given type, and takes no other: pydantic is the judge.

An answer that does not fit is asked for again, with a list of what was wrong where, and without a
word of the answer itself: what a model wrote must not become what it is told.
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
from zsei.llm.line import Line
from zsei.llm.types import CallRecord, LLMRequest, RawAnswer

Answer = TypeVar("Answer", bound=BaseModel)
Problem = dict[str, str]
"""`at`: a path of field names and positions; `problem`: what is wrong there."""

_MOST_PROBLEMS = 20
_UNREACHABLE = ("LLMAuth", "LLMTimeout", "LLMTransport")
"""After one of these the next question would only wait as long for the same end."""
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL | re.IGNORECASE)
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
        LLMError: Any other failure, or the calls of this line are used up.
    """
    log, repairs = line.log, line.settings.repairs
    ends = time.monotonic() + request.seconds
    asked = request.model_copy(
        update={
            "answer_schema": output_type.model_json_schema(),
            "answer_name": output_type.__name__,
        }
    )
    again, may_grow = 0, True
    while True:
        raw = _complete(line, asked, ends)
        if raw.finish_reason == "length" and may_grow:
            log.append(_entry(asked, raw, "truncated"))
            may_grow = False
            asked = asked.model_copy(update={"max_tokens": 2 * asked.max_tokens})
            continue
        try:
            answer = _judge(raw, output_type, context)
        except _Unfit as unfit:
            problems = unfit.problems
            log.append(_entry(asked, raw, "invalid", problems))
        except LLMError as error:
            log.append(_entry(asked, raw, type(error).__name__))
            raise
        else:
            log.append(_entry(asked, raw, "ok"))
            return answer
        if again >= repairs:
            first = problems[0]
            raise LLMInvalid(
                f"{raw.model} must answer with a valid {output_type.__name__}, but after "
                f"{repairs} re-asks it still did not (at {first['at'] or 'the top'}: "
                f"{first['problem']}); ask a stronger model."
            )
        again += 1
        wrong = _AGAIN.format(problems=json.dumps(problems))
        asked = asked.model_copy(update={"prompt": request.prompt + wrong})


class _Unfit(Exception):
    """An answer that can be asked for again."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("unfit")
        self.problems = problems


def _complete(line: Line, asked: LLMRequest, ends: float) -> RawAnswer:
    """One call, inside what is left of time and calls; a failed one is logged."""
    llm, log, most = line.llm, line.log, line.settings.max_calls
    if len(log) >= most:
        raise LLMError(
            f"An analysis may make {most} calls to a language model, and they are "
            "used up; allow more with ZSEI_LLM_CALL__MAX_CALLS."
        )
    if log and log[-1].outcome in _UNREACHABLE:
        raise LLMTransport(
            f"A language model must be reachable, but {log[-1].model} failed just now "
            f"({log[-1].outcome}) and is not asked again; mend that first."
        )
    left = ends - time.monotonic()
    if left <= 0:
        raise LLMTimeout(
            "A question must be answered in time, but re-asking used it up; allow more with "
            "ZSEI_LLM_CALL__DEADLINE_SECONDS or ask a stronger model."
        )
    failure: ZseiError
    try:
        return llm.complete(asked.model_copy(update={"seconds": left}))
    except ZseiError as error:
        failure = error
    except Exception as error:
        failure = LLMTransport(
            f"A language model must fail with an LLMError, but {type(llm).__name__} raised "
            f"{type(error).__name__}; mend its `complete`."
        )
    log.append(
        CallRecord(
            agent=asked.agent,
            model=str(getattr(llm, "name", type(llm).__name__)),
            prompt_hash=asked.hash,
            attempts=None,
            outcome=type(failure).__name__,
        )
    )
    raise failure


def _judge(raw: RawAnswer, output_type: type[Answer], context: dict[str, Any] | None) -> Answer:
    """The answer, if it is whole and fits; how it ended is looked at before what it says."""
    if raw.refusal is not None or raw.finish_reason == "content_filter":
        raise LLMRefused(f"{raw.model} must answer, but it declined; ask another model.")
    if raw.finish_reason == "length":
        raise LLMTruncated(
            f"{raw.model} must answer within its tokens, but twice the budget was not enough; "
            "raise the budget in the agent's card."
        )
    text = raw.text.encode(errors="replace")  # a lone surrogate cannot be encoded otherwise
    try:
        return output_type.model_validate_json(_json_part(text.decode()), context=context)
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
    asked: LLMRequest, raw: RawAnswer, outcome: str, problems: list[Problem] | None = None
) -> CallRecord:
    return CallRecord(
        agent=asked.agent,
        model=raw.model,
        prompt_hash=asked.hash,
        input_tokens=raw.input_tokens,
        output_tokens=raw.output_tokens,
        attempts=raw.attempts,
        outcome=outcome,
        problem="; ".join(f"{p['at'] or 'the top'}: {p['problem']}" for p in problems or ()),
    )
